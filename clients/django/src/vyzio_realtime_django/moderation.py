"""Keeps reports and held messages of webhooks for the admin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings as django_settings
from django.db import router
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from .conf import settings
from .errors import InvalidWebhook
from .ids import id_in
from .models import Held, Report
from .signals import message_held, message_reported, user_erased

UID = "vyzio_realtime"


def connect() -> None:
    """Connects the receivers, which run in the webhook's transaction."""
    message_reported.connect(keep_report, dispatch_uid=UID)
    message_held.connect(keep_held, dispatch_uid=UID)
    user_erased.connect(forget_user, dispatch_uid=UID)


def keep_report(*, data: Mapping[str, Any], **kwargs: Any) -> None:
    """A row for the report. Raises InvalidWebhook if something is missing."""
    if settings().MODERATION_DAYS <= 0:
        return
    message = data.get("message") or {}
    try:
        report_id = id_in(data, "report_id")
        row = {
            "reporter_id": id_in(data, "reporter_id"),
            "user_id": id_in(data, "user_id"),
            "conversation_id": id_in(message, "conversation_id") if message else None,
            "message_id": id_in(message, "message_id") if message else None,
            "content": _text(message.get("content")),
            "kind": _text(message.get("kind"))[:64],
            "data": _json(message.get("data")),
            "reason": _text(data.get("reason")),
            "created_at": _time(data),
        }
    except (AttributeError, KeyError, ValueError) as error:
        raise InvalidWebhook(f"a report of another shape: {error!r}") from error
    Report.objects.using(router.db_for_write(Report)).update_or_create(report_id=report_id, defaults=row)


def keep_held(*, data: Mapping[str, Any], **kwargs: Any) -> None:
    """A row for the held message. Raises InvalidWebhook if something is missing."""
    if settings().MODERATION_DAYS <= 0:
        return
    try:
        held_id = id_in(data, "held_id")
        row = {
            "conversation_id": id_in(data, "conversation_id"),
            "sender_id": id_in(data, "sender_id"),
            "content": _text(data.get("content")),
            "reason_code": _text(data.get("reason_code"))[:64],
            "created_at": _time(data),
        }
    except (KeyError, ValueError) as error:
        raise InvalidWebhook(f"a held message of another shape: {error!r}") from error
    Held.objects.using(router.db_for_write(Held)).update_or_create(held_id=held_id, defaults=row)


def forget_user(*, data: Mapping[str, Any], **kwargs: Any) -> None:
    """Deletes held messages of an erased user. Reports stay for their time, as they do at the server.

    Raises InvalidWebhook if the event names no user.
    """
    try:
        user = id_in(data, "user_id")
    except (KeyError, ValueError) as error:
        raise InvalidWebhook(f"an erasure of another shape: {error!r}") from error
    Held.objects.using(router.db_for_write(Held)).filter(sender_id=user).delete()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _json(value: object) -> str:
    """The value as JSON; empty if it is absent. NUL and lone surrogates, which databases refuse, stay escaped."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _time(data: Mapping[str, Any]) -> datetime:
    """When it happened, or now; without a time zone if the site has `USE_TZ = False`. Raises ValueError."""
    found = data.get("created_at") or data.get("occurred_at")
    at = parse_datetime(found) if isinstance(found, str) else None
    if at is None:
        return timezone.now()
    if not django_settings.USE_TZ and timezone.is_aware(at):
        return timezone.make_naive(at, timezone.get_default_timezone())
    return at
