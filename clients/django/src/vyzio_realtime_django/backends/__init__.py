"""Connections to Vyzio Realtime. `VYZIO["BACKEND"]` names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from ..conf import settings
from ..errors import RealtimeError

# The type of an event, and its body with the `event_id`.
Event: TypeAlias = tuple[str, Mapping[str, Any]]

# Requests: the subject on NATS, and the method and path over HTTP. Entries of the body that are in the path are not repeated.
ROUTES = {
    "chat.conversations.create": ("POST", "/backend/conversations"),
    "chat.messages.send": ("POST", "/backend/conversations/{conversation_id}/messages"),
    "chat.messages.update": ("PATCH", "/backend/conversations/{conversation_id}/messages/{message_id}"),
    "chat.held.judge": ("POST", "/backend/held/{held_id}"),
    "chat.messages.remove": ("DELETE", "/backend/conversations/{conversation_id}/messages/{message_id}"),
    "notify.preferences.get": ("GET", "/backend/users/{user_id}/preferences"),
    "notify.preferences.set": ("PATCH", "/backend/users/{user_id}/preferences"),
    "sessions.revoke": ("POST", "/backend/sessions/revoke"),
    "users.erase": ("POST", "/backend/users/{user_id}/erase"),
}


class Backend(Protocol):
    """A connection to Vyzio Realtime, used by all threads and forks."""

    def publish(self, events: Sequence[Event], timeout: float) -> list[RealtimeError | None]:
        """Publishes events, at most 100, in their order. Returns the error of each event, or None once it is stored.

        Raises a RealtimeError if all have failed for the same reason. Waits `timeout` seconds at most.
        """

    def call(self, subject: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Sends a request of `ROUTES` and returns its answer. Raises a RealtimeError."""


@lru_cache(maxsize=1)
def backend() -> Backend:
    """The backend of the settings."""
    made: Backend = import_string(settings().BACKEND)()
    return made


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "VYZIO":
        backend.cache_clear()
