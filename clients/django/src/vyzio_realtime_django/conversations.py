"""Requests about conversations."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from .backends import backend
from .conf import settings
from .ids import id_in, participant


def between(*users: Any, listing: int | None = None, title: str | None = None) -> dict[str, Any]:
    """The conversation of these users about this listing. It is created if there is none.

    `users` are 2 to 100 users or ids. Returns the conversation, with its `conversation_id`. Raises Refused or Unavailable.
    """
    optional = {"listing_id": listing, "title": title}
    body = {
        "participants": [participant(user) for user in users],
        **{name: value for name, value in optional.items() if value is not None},
    }
    return backend().call("chat.conversations.create", body, settings().TIMEOUT)


def system(
    conversation: int | Mapping[str, Any],
    message: str | None = None,
    *,
    kind: str | None = None,
    data: Mapping[str, Any] | None = None,
    client_id: str | None = None,
) -> dict[str, Any]:
    """Sends a system message to a conversation, as `messages.send` does for a user."""
    optional = {"message": message, "kind": kind, "data": data}
    body = {
        "conversation_id": id_in(conversation, "conversation_id"),
        "system": True,
        "client_id": client_id or str(uuid.uuid4()),
        **{name: value for name, value in optional.items() if value is not None},
    }
    return backend().call("chat.messages.send", body, settings().TIMEOUT)
