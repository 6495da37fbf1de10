"""For tests of a site, with `VYZIO["BACKEND"] = "vyzio_realtime_django.backends.locmem.Backend"`.

Nothing is sent; `sent` has the events, like `mail.outbox`. In a `TestCase`, nothing is committed: use
`captureOnCommitCallbacks(execute=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

from .backends import locmem
from .errors import RealtimeError


class Sent(NamedTuple):
    """An event that was published."""

    type: str
    # Ids of users, ascending.
    to: list[int]
    data: Mapping[str, Any]
    # All of it, as docs/publishing.md describes it.
    body: Mapping[str, Any]


class _Sent(Sequence[Sent]):
    """The events that were published, oldest first."""

    def _list(self) -> list[Sent]:
        return [Sent(kind, body["user_ids"], body.get("data", {}), body) for kind, body in locmem.events]

    def __len__(self) -> int:
        return len(locmem.events)

    @overload
    def __getitem__(self, index: int) -> Sent: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sent]: ...

    def __getitem__(self, index: int | slice) -> Sent | list[Sent]:
        return self._list()[index]

    def __eq__(self, other: object) -> bool:
        return self._list() == other

    def __repr__(self) -> str:
        return repr(self._list())


sent = _Sent()
# The subject and body of each request, such as `("sessions.revoke", {"user_id": 456})`.
calls = locmem.calls


def clear() -> None:
    """Forgets everything. Call it before each test, or use `RealtimeMixin`."""
    locmem.events.clear()
    locmem.calls.clear()
    locmem.failures.clear()


def fail_next(error: RealtimeError) -> None:
    """The next publication or request raises this error."""
    locmem.failures.append(error)


class RealtimeMixin:
    """For test cases: each test starts with nothing sent."""

    def setUp(self) -> None:
        """Forgets what the test before has sent."""
        clear()
        super().setUp()  # type: ignore[misc]
