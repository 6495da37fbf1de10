"""Requests about the sessions of users."""

from __future__ import annotations

from typing import Any

from .backends import backend
from .conf import settings
from .ids import user_id


def revoke(user: Any, *, except_jti: str | None = None) -> dict[str, Any]:
    """Ends the user's sockets, and refuses the tokens that were issued until now, except the one with `except_jti`.

    Returns `{"revoked_before": "…"}`. Raises Refused or Unavailable.
    """
    body: dict[str, Any] = {"user_id": user_id(user)}
    if except_jti is not None:
        body["except_jti"] = except_jti
    return backend().call("sessions.revoke", body, settings().TIMEOUT)
