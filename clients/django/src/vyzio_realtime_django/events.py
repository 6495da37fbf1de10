"""Events: `emit` with the outbox, and `notify_now` without it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder

from .backends import backend
from .conf import settings
from .ids import user_id

TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
TYPE_BYTES = 128
RESERVED = frozenset({"read", "read_all", "error", "auth", "typing", "mine", "seen", "message_received"})
USERS = 1000
# The gateway takes 64 KiB, with the type.
EVENT_BYTES = 63 * 1024
EVENT_ID_BYTES = 256


def emit(
    type: str,
    *,
    to: Any,
    data: Mapping[str, Any] | None = None,
    key: str | None = None,
    title: str | None = None,
    message: str | None = None,
    lang: str | None = None,
    using: str | None = None,
) -> str:
    """Notifies users of an event, exactly once, if the current transaction is committed.

    `to` is a user, a user's id, or up to 1000 of them. `key` identifies what has happened, such as `payment-789`: the same
    type and key notify a user once, and events of one key keep their order. Without it, each call is another event.
    `title` and `message` replace the catalogue's text. `using` is the database of the transaction.

    The event is a row of the outbox until it is published, after the commit. Returns its `event_id`. Raises ValueError if
    the event is invalid; a gateway that is away or slow causes no error.
    """
    from . import outbox

    body = _event(type, to=to, data=data, key=key, title=title, message=message, lang=lang)
    outbox.add(f"events.{type}", body, key=key or "", using=using)
    event_id: str = body["event_id"]
    return event_id


def notify_now(
    type: str,
    *,
    to: Any,
    data: Mapping[str, Any] | None = None,
    key: str | None = None,
    title: str | None = None,
    message: str | None = None,
    lang: str | None = None,
) -> str:
    """Publishes an event without the outbox, at once, whatever becomes of the current transaction.

    The arguments are those of `emit`. Returns the `event_id` once the event is stored. Raises Refused or Unavailable, after
    `TIMEOUT` seconds at most.
    """
    from . import channels

    body = _event(type, to=to, data=data, key=key, title=title, message=message, lang=lang)
    end = time.monotonic() + settings().TIMEOUT
    # Half of the time, so that a layer that hangs does not take the gateway's.
    channels.send(type, body, settings().TIMEOUT / 2)
    [error] = backend().publish([(type, body)], end - time.monotonic())
    if error is not None:
        raise error
    event_id: str = body["event_id"]
    return event_id


async def aemit(type: str, **event: Any) -> str:
    """`emit` for asynchronous code. Transactions are synchronous in Django: the row is committed at once."""
    return await sync_to_async(emit)(type, **event)


async def anotify_now(type: str, **event: Any) -> str:
    """`notify_now` for asynchronous code."""
    return await sync_to_async(notify_now)(type, **event)


def _event(
    type: str,
    *,
    to: Any,
    data: Mapping[str, Any] | None,
    key: str | None,
    title: str | None,
    message: str | None,
    lang: str | None,
) -> dict[str, Any]:
    """The body of an event, as docs/publishing.md describes it, of plain JSON values. Raises ValueError."""
    if not TYPE.fullmatch(type) or len(type) > TYPE_BYTES:
        raise ValueError(f"an event's type has letters, digits, _, - and dots between them, at most 128: {type!r}")
    if type in RESERVED:
        raise ValueError(f"the type {type} is reserved")
    if data is not None and not isinstance(data, Mapping):
        raise ValueError("data must be a dict")
    event_id = f"{type}:{key}" if key else str(uuid.uuid4())
    if len(event_id.encode()) > EVENT_ID_BYTES:
        raise ValueError("type and key have at most 255 bytes together")
    body = {
        "event_id": event_id,
        "user_ids": _users(to),
        "data": data,
        "title": title,
        "message": message,
        "lang": lang,
    }
    try:
        text = json.dumps({k: v for k, v in body.items() if v is not None}, cls=DjangoJSONEncoder, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the event is no JSON: {error}") from error
    if len(text.encode()) > EVENT_BYTES:
        raise ValueError("an event has at most 63 KiB")
    plain: dict[str, Any] = json.loads(text)
    if not all(_is_storable(string) for string in _strings(plain)):
        raise ValueError("an event has no NUL characters and no halves of surrogate pairs")
    return plain


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, also the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, field in value.items():
            yield name
            yield from _strings(field)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _is_storable(string: str) -> bool:
    """Whether Postgres can store a string."""
    return "\0" not in string and not any("\ud800" <= char <= "\udfff" for char in string)


def _users(to: Any) -> list[int]:
    # `request.user` is lazy and claims to be iterable.
    several = isinstance(to, Iterable) and not isinstance(to, (str, bytes, Mapping)) and not hasattr(to, "pk")
    users = sorted({user_id(user) for user in (to if several else [to])})
    if not 1 <= len(users) <= USERS:
        raise ValueError(f"an event has 1 to {USERS} users, not {len(users)}")
    return users
