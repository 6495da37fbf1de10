"""What the server sends. Fields have the names of the protocol; unknown fields are ignored."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Failure(Exception):
    """The server refused something. `code` is for programs, such as `blocked` or `message_too_long`."""

    def __init__(self, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        #: Seconds after which a retry may succeed.
        self.retry_after = retry_after

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        """The failure in an answer of the server."""
        wait = answer.get("retry_after_ms")
        return cls(answer["code"], answer.get("detail", ""), None if wait is None else wait / 1000)


class Closed(Failure):
    """The client has ended: `close_code` is the server's reason, if it was the server."""

    def __init__(self, code: str, detail: str, close_code: int | None = None) -> None:
        super().__init__(code, detail)
        self.close_code = close_code


def of(kind: type[T], frame: dict[str, Any]) -> T:
    """The fields of a frame that this version knows."""
    return kind(**{field.name: frame[field.name] for field in fields(kind) if field.name in frame})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Message:
    """A stored message."""

    conversation_id: int
    message_id: int
    #: Its number in the conversation, from 1.
    seq: int
    sender_id: int
    sender_username: str
    content: str
    created_at: str
    is_read: bool
    #: Only on the user's own messages.
    client_id: str | None = None


@dataclass(frozen=True)
class Notification:
    """A notification."""

    type: str
    notification_id: int
    seq: int
    title: str
    message: str
    data: dict[str, Any]
    created_at: str
    is_read: bool
    unread_count: int
    #: The notification that this one replaces.
    replaces: int | None = None


@dataclass(frozen=True)
class Typing:
    """Another user started or stopped typing."""

    conversation_id: int
    user_id: int
    username: str
    is_typing: bool
