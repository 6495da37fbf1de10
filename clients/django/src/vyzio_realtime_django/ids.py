"""Ids in arguments: callers pass an object or its id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_ID = 2**63 - 1


def _checked(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ID:
        raise ValueError(f"{name} must be an integer from 1 to 2^63 - 1, not {value!r}")
    return value


def user_id(user: Any) -> int:
    """The id of a user, who is a model's instance or an id."""
    return _checked(getattr(user, "pk", user), "a user's id")


def participant(user: Any) -> dict[str, Any]:
    """A user as a participant of a conversation, with the name if it is known."""
    name = user.get_username() if hasattr(user, "get_username") else ""
    return {"user_id": user_id(user), **({"username": name} if name else {})}


def id_in(value: int | Mapping[str, Any], name: str) -> int:
    """An id, or the entry `name` of an answer."""
    return _checked(value[name] if isinstance(value, Mapping) else value, name)
