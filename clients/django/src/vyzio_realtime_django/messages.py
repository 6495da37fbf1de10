"""Requests about messages."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from .backends import backend
from .conf import settings
from .ids import id_in, user_id


def send(
    conversation: int | Mapping[str, Any],
    sender: Any,
    message: str | None = None,
    *,
    kind: str | None = None,
    data: Mapping[str, Any] | None = None,
    reply_to: int | Mapping[str, Any] | None = None,
    client_id: str | None = None,
) -> dict[str, Any]:
    """Sends a message in a user's name. Returns the message, with its `message_id`. Raises Refused or Unavailable.

    A message of a kind has data that fit its schema; its text may be made from them. `reply_to` is a message of the same
    conversation. `client_id`, 1 to 64 characters, makes it safe to repeat the call: the message is stored once.
    """
    original = None if reply_to is None else id_in(reply_to, "message_id")
    optional = {"message": message, "kind": kind, "data": data, "reply_to": original}
    body = {
        "conversation_id": id_in(conversation, "conversation_id"),
        "sender_id": user_id(sender),
        "client_id": client_id or str(uuid.uuid4()),
        **{name: value for name, value in optional.items() if value is not None},
    }
    return backend().call("chat.messages.send", body, settings().TIMEOUT)


def update(
    conversation: int | Mapping[str, Any],
    message: int | Mapping[str, Any],
    text: str | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    if_change: int | None = None,
) -> dict[str, Any]:
    """Replaces the text or the data of a message, however old. Returns the message. Raises Refused or Unavailable.

    With `if_change`, only if this is the number of the message's last change (0: it never changed). After Unavailable, such
    an update may have had its effect: then its repeat is refused with `conflict`.
    """
    optional = {"message": text, "data": data, "if_change": if_change}
    body: dict[str, Any] = {
        **_ids(conversation, message),
        **{name: value for name, value in optional.items() if value is not None},
    }
    return backend().call("chat.messages.update", body, settings().TIMEOUT)


def remove(conversation: int | Mapping[str, Any], message: int | Mapping[str, Any], reason: str) -> dict[str, Any]:
    """Removes a message, as a moderator. Returns it without its text. Raises Refused or Unavailable."""
    body = {**_ids(conversation, message), "reason": reason}
    return backend().call("chat.messages.remove", body, settings().TIMEOUT)


def _ids(conversation: int | Mapping[str, Any], message: int | Mapping[str, Any]) -> dict[str, int]:
    return {
        "conversation_id": id_in(conversation, "conversation_id"),
        "message_id": id_in(message, "message_id"),
    }
