"""The settings dict `VYZIO`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

HTTP = "vyzio_realtime_django.backends.http.Backend"


@dataclass(frozen=True)
class Settings:
    """`VYZIO`, with its defaults. README.md describes each entry."""

    URL: str = ""
    API_KEY: str = ""
    PUBLIC_URL: str = ""
    BACKEND: str = HTTP
    # Seconds that a view waits for the gateway, at most.
    TIMEOUT: float = 1.0
    NATS_URL: str = "nats://127.0.0.1:4222"
    NATS_CREDS: str = ""

    # A secret, or several during a rotation.
    WEBHOOK_SECRET: str | list[str] | tuple[str, ...] = ""
    # Days for which the ids of handled webhooks are kept. Longer than the gateway's retries.
    RECEIVED_DAYS: int = 30
    # Days for which the admin keeps reports and held messages. 0: it keeps none.
    MODERATION_DAYS: int = 90

    SIGNING_KEY: str = ""
    ALGORITHM: str = "HS256"
    ISSUER: str = ""
    AUDIENCE: str = ""
    TOKEN_SECONDS: int = 300

    # Seconds after `emit` in which the relay leaves the event to the process that has emitted it.
    RELAY_AFTER: float = 15.0
    # Seconds that the relay waits for the gateway.
    RELAY_TIMEOUT: float = 10.0
    # Days after which the relay gives up an event. The row stays, with its error.
    RETRY_DAYS: int = 7

    REVOKE_ON_LOGOUT: bool = True
    REVOKE_ON_PASSWORD_CHANGE: bool = True
    ERASE_ON_USER_DELETION: bool = False

    # True also sends each event to Django Channels, during a migration.
    ALSO_CHANNELS: bool = False
    CHANNELS_GROUP: str = "notifications_{user_id}"
    CHANNELS_TYPE: str = "notify"

    # Models for realtime_export.
    EXPORT: Mapping[str, Any] = field(default_factory=dict)

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets of webhooks, without empty ones."""
        secrets = [self.WEBHOOK_SECRET] if isinstance(self.WEBHOOK_SECRET, str) else self.WEBHOOK_SECRET
        return tuple(secret for secret in secrets if secret)


NAMES = frozenset(entry.name for entry in fields(Settings))


def values() -> Mapping[str, Any]:
    """`VYZIO` as the site has set it."""
    found: Mapping[str, Any] = getattr(django_settings, "VYZIO", {})
    return found


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings. Raises ImproperlyConfigured if `VYZIO` has an unknown entry."""
    unknown = sorted(values().keys() - NAMES)
    if unknown:
        raise ImproperlyConfigured(f"VYZIO has unknown entries: {', '.join(unknown)}")
    return Settings(**values())


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: object) -> None:
    if setting == "VYZIO":
        settings.cache_clear()
