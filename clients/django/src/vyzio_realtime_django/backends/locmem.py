"""A backend for tests, which keeps everything in memory. `vyzio_realtime_django.testing` has what was sent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RealtimeError
from . import ROUTES, Event

events: list[Event] = []
calls: list[tuple[str, Mapping[str, Any]]] = []
# The next errors: each publication or call raises one, until none is left.
failures: list[RealtimeError] = []
# The new ids in the answers to requests.
NEW_IDS = {
    "chat.conversations.create": "conversation_id",
    "chat.messages.send": "message_id",
    "users.erase": "erasure_id",
}
_ids = itertools.count(1)


class Backend:
    """Stores all events, and answers requests with new ids."""

    def publish(self, published: Sequence[Event], timeout: float) -> list[RealtimeError | None]:
        if failures:
            raise failures.pop(0)
        events.extend(published)
        return [None] * len(published)

    def call(self, subject: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if subject not in ROUTES:
            raise ValueError(f"no request {subject}")
        if failures:
            raise failures.pop(0)
        calls.append((subject, body))
        if subject.startswith("notify.preferences."):
            changes = {name: body[name] for name in ("types", "quiet") if name in body}
            return {"types": {}, "quiet": None, "defaults": {}, "mandatory": [], **changes}
        return {**body, **({NEW_IDS[subject]: next(_ids)} if subject in NEW_IDS else {})}
