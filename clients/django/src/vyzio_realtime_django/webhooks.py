"""Webhooks: Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db import router, transaction
from django.utils.dateparse import parse_datetime

from .errors import InvalidWebhook
from .models import Received
from .signals import SIGNALS

log = logging.getLogger("vyzio_realtime")

# Seconds by which the sender's clock may differ.
TOLERANCE = 300
PREFIX = "whsec_"
# Longest id of a webhook. Those of Vyzio Realtime are shorter.
ID_CHARS = 255


def decode_secret(secret: str) -> bytes:
    """The key in a secret, `whsec_` and base64 of 24 to 64 bytes. Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        # The cause would contain a part of the secret.
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("a webhook secret is whsec_ and base64 of 24 to 64 bytes")
    return key


def verify(body: bytes, headers: Mapping[str, str], secrets: Iterable[str], now: float | None = None) -> str:
    """Checks the signature with each of the secrets. Returns the webhook's id. Raises InvalidWebhook."""
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not 1 <= len(webhook_id) <= ID_CHARS:
        raise InvalidWebhook("webhook-id is missing or too long")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 15:
        raise InvalidWebhook("webhook-timestamp is missing or no number")
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE:
        raise InvalidWebhook("webhook-timestamp is too far from the time here")
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = [
        signature.encode()
        for version, _, signature in (entry.partition(",") for entry in headers.get("webhook-signature", "").split())
        if version == "v1"
    ]
    is_right = False
    for secret in secrets:
        expected = base64.b64encode(hmac.new(decode_secret(secret), signed, hashlib.sha256).digest())
        for signature in signatures:
            is_right |= hmac.compare_digest(expected, signature)
    if not is_right:
        raise InvalidWebhook("no signature is right")
    return webhook_id


def handle(webhook_id: str, body: bytes) -> bool:
    """Sends the signal of a verified webhook, once, in a transaction. Returns False if it was handled before.

    Raises InvalidWebhook if it has no type or data, and whatever a receiver raises.
    """
    kind, data, timestamp = _parse(body)
    alias = router.db_for_write(Received)
    with transaction.atomic(using=alias):
        # A concurrent delivery of the same webhook waits here until this transaction has ended.
        _, is_new = Received.objects.using(alias).get_or_create(webhook_id=webhook_id, defaults={"type": kind[:128]})
        if not is_new:
            return False
        signal = SIGNALS.get(kind)
        if signal is None:
            log.info("webhook %s has the type %s, which this version has no signal for", webhook_id, kind)
        else:
            signal.send(sender=Received, data=data, event_id=webhook_id, timestamp=timestamp)
    return True


def _parse(body: bytes) -> tuple[str, dict[str, Any], datetime | None]:
    try:
        event = json.loads(body)
    except ValueError as error:
        raise InvalidWebhook("the body is no JSON") from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str) or not isinstance(event.get("data"), dict):
        raise InvalidWebhook("the body has no type or data")
    timestamp = event.get("timestamp")
    try:
        return event["type"], event["data"], parse_datetime(timestamp) if isinstance(timestamp, str) else None
    except ValueError as error:
        raise InvalidWebhook("timestamp is no time") from error
