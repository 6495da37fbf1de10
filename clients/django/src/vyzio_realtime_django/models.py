"""The outbox, and the webhooks that were handled."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class Outbox(models.Model):
    """An event or a request that was committed and that the gateway has not acknowledged yet."""

    id = models.BigAutoField(primary_key=True)
    # `events.` and the type of an event, or the subject of a request, such as `sessions.revoke`.
    subject = models.CharField(max_length=160)
    # Rows with the same key are sent one after the other. Empty: in any order.
    key = models.CharField(max_length=256, blank=True)
    body = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)
    # When the relay may take the row. A process that has taken it moves this to the end of its time for it.
    due_at = models.DateTimeField()
    # The pass of a relay that has taken the row.
    claim = models.UUIDField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    # Set if the relay has given up: the event was refused, or is too old. "Publish now" in the admin clears it.
    failed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "outbox event"
        indexes = [
            models.Index(fields=["due_at"], name="vyzio_outbox_due"),
            models.Index(fields=["key", "id"], name="vyzio_outbox_key"),
            models.Index(fields=["claim"], name="vyzio_outbox_claim"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.pk}"


class Received(models.Model):
    """A webhook that was handled. It is not handled again."""

    webhook_id = models.CharField(max_length=256, primary_key=True)
    type = models.CharField(max_length=128)
    received_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "received webhook"
        indexes = [models.Index(fields=["received_at"], name="vyzio_received_at")]

    def __str__(self) -> str:
        return self.webhook_id
