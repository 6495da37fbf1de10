"""Rows of webhooks are kept for some days only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import models, router
from django.utils import timezone

from .conf import settings
from .models import Held, Received, Report

# Rows of each table that one call of `prune` deletes, at most.
PRUNE = 5000


def prune(using: str | None = None) -> int:
    """Deletes ids of webhooks after `RECEIVED_DAYS`, reports and held messages after `MODERATION_DAYS`.

    The relay calls it every ten minutes. Returns the number of rows, some thousands at most.
    """
    alias = using or router.db_for_write(Received)
    now = timezone.now()
    moderation_end = now - timedelta(days=settings().MODERATION_DAYS)
    return (
        _delete(Received, "received_at", now - timedelta(days=settings().RECEIVED_DAYS), alias)
        + _delete(Report, "created_at", moderation_end, alias)
        + _delete(Held, "created_at", moderation_end, alias)
    )


def _delete(model: type[models.Model], field: str, before: datetime, alias: str) -> int:
    rows: Any = model._default_manager.using(alias)
    old = list(rows.filter(**{f"{field}__lt": before}).order_by(field).values_list("pk", flat=True)[:PRUNE])
    deleted: int = rows.filter(pk__in=old).delete()[0]
    return deleted
