"""Requests about the reminders that users want."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from .backends import backend
from .conf import settings
from .ids import user_id

# For each type of notification, or `*`, and each channel (such as `mail`), whether the user wants reminders. None removes a
# setting.
Types = Mapping[str, Mapping[str, bool | None] | None]


def get(user: Any) -> dict[str, Any]:
    """A user's preferences: `{"types", "quiet", "defaults", "mandatory"}`. Raises Refused or Unavailable."""
    return backend().call("notify.preferences.get", {"user_id": user_id(user)}, settings().TIMEOUT)


def set(
    user: Any, *, types: Types | None = None, quiet: Mapping[str, str] | None | EllipsisType = ...
) -> dict[str, Any]:
    """Changes what is named, such as `types={"*": {"mail": False}}`; the rest stays. Returns the new preferences.

    `quiet` are the quiet hours, such as `{"from": "22:00", "to": "08:00", "tz": "Europe/Paris"}`; None removes them. Raises
    Refused or Unavailable.
    """
    body: dict[str, Any] = {"user_id": user_id(user)}
    if types is not None:
        body["types"] = types
    if quiet is not ...:
        body["quiet"] = quiet
    return backend().call("notify.preferences.set", body, settings().TIMEOUT)


def switch_off(user: Any, channel: str) -> dict[str, Any]:
    """Ends a user's reminders on a channel, such as `mail`, for a link to unsubscribe. Returns the new preferences.

    A setting of a single type wins over that of all types, so those that are on are removed. Mandatory types ignore
    preferences. Raises Refused or Unavailable.
    """
    own = {kind: {channel: None} for kind, channels in get(user)["types"].items() if channels.get(channel)}
    return set(user, types={**own, "*": {channel: False}})
