"""Vyzio Realtime for Django. README.md has its guide."""

from .errors import RealtimeError, Refused, Unavailable
from .events import aemit, anotify_now, emit, notify_now
from .tokens import token_for

__all__ = ["RealtimeError", "Refused", "Unavailable", "aemit", "anotify_now", "emit", "notify_now", "token_for"]
