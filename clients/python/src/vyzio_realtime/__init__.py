"""The client of Vyzio Realtime for bots and tests. README.md has its guide."""

from ._client import Client, Conversation, Token
from ._types import Closed, Failure, Message, Notification, Typing

__all__ = ["Client", "Closed", "Conversation", "Failure", "Message", "Notification", "Token", "Typing"]
