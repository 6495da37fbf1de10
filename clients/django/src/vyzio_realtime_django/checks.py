"""System checks. Those that ask the gateway run only with `check --deploy`."""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db.models import IntegerField

from .backends import backend
from .backends.http import Backend
from .conf import HTTP, NAMES, settings, values
from .errors import RealtimeError
from .tokens import signing_key_id
from .webhooks import decode_secret

TAG = "vyzio_realtime"
KEY_CHARACTERS = 32


def register_all() -> None:
    """Registers the checks."""
    register(check_settings, TAG)
    register(check_user_model, TAG)
    register(check_transactions, TAG, deploy=True)
    register(check_signing_key, TAG, deploy=True)


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E001 to E003: the entries of `VYZIO`."""
    unknown = sorted(values().keys() - NAMES)
    if unknown:
        return [Error(f"VYZIO has unknown entries: {', '.join(unknown)}.", id="vyzio.E003")]
    errors: list[CheckMessage] = []
    if settings().BACKEND == HTTP:
        try:
            Backend()
        except ImproperlyConfigured as error:
            errors.append(Error(f"{error}.", id="vyzio.E001"))
        key = settings().API_KEY
        if len(key) < KEY_CHARACTERS or not key.isascii() or not key.isprintable():
            hint = "It is the secret of an entry of the gateway's BACKEND_KEYS."
            text = f'VYZIO["API_KEY"] is not {KEY_CHARACTERS} characters of ASCII or more.'
            errors.append(Error(text, hint=hint, id="vyzio.E002"))
    for secret in settings().webhook_secrets:
        try:
            decode_secret(secret)
        except ValueError as error:
            errors.append(Error(f'VYZIO["WEBHOOK_SECRET"]: {error}.', id="vyzio.E003"))
    return errors


def check_user_model(**kwargs: Any) -> list[CheckMessage]:
    """E004: ids of users are integers."""
    from django.contrib.auth import get_user_model

    if isinstance(get_user_model()._meta.pk, IntegerField):
        return []
    return [Error("The primary key of AUTH_USER_MODEL is no integer, as Vyzio Realtime needs it.", id="vyzio.E004")]


def check_transactions(**kwargs: Any) -> list[CheckMessage]:
    """W001: `emit` must be in a transaction. At run time, the first one outside logs a warning."""
    if any(database.get("ATOMIC_REQUESTS") for database in django_settings.DATABASES.values()):
        return []
    hint = (
        "Set ATOMIC_REQUESTS, or call emit in transaction.atomic with the change that it reports, "
        "and silence this warning with SILENCED_SYSTEM_CHECKS."
    )
    text = "ATOMIC_REQUESTS is off: an event that is emitted outside a transaction is committed on its own."
    return [Warning(text, hint=hint, id="vyzio.W001")]


def check_signing_key(**kwargs: Any) -> list[CheckMessage]:
    """W002: the gateway verifies tokens with the key that signs them."""
    try:
        problem = signing_key_problem()
    except (RealtimeError, ImproperlyConfigured) as error:
        problem = f"The gateway can't be asked whether it has this site's signing key: {error}"
    return [Warning(problem, id="vyzio.W002")] if problem else []


def signing_key_problem() -> str | None:
    """Asks the gateway for the id of its key, and compares. Raises a RealtimeError."""
    connection = backend()
    here = signing_key_id()
    if here is None or not isinstance(connection, Backend):
        return None
    there = connection.whoami(settings().RELAY_TIMEOUT).get("signing_key_id")
    if there is None or there == here:
        return None
    return "The gateway verifies tokens with another key than the one that signs them here."
