"""Requests about users."""

from __future__ import annotations

from typing import Any

from .backends import backend
from .conf import settings
from .ids import user_id


def erase(user: Any, *, reason: str | None = None) -> dict[str, Any]:
    """Erases everything that Vyzio Realtime has about a user. Returns `{"erasure_id": …}`; a repeat returns the same id.

    The signal `user_erased` is sent when it is done. Raises Refused or Unavailable.
    """
    body: dict[str, Any] = {"user_id": user_id(user)}
    if reason is not None:
        body["reason"] = reason
    return backend().call("users.erase", body, settings().TIMEOUT)
