"""The outbox, the webhooks that were handled, and the reports and messages that await a moderator."""

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

    webhook_id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=128)
    received_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "received webhook"
        indexes = [models.Index(fields=["received_at"], name="vyzio_received_at")]

    def __str__(self) -> str:
        return self.webhook_id


class Report(models.Model):
    """A user's report, from the webhook `chat.reported`. Kept for `MODERATION_DAYS`."""

    report_id = models.BigIntegerField(primary_key=True)
    reporter_id = models.BigIntegerField()
    # The reported user: the sender of the message, if there is one.
    user_id = models.BigIntegerField()
    conversation_id = models.BigIntegerField(null=True)
    message_id = models.BigIntegerField(null=True)
    # The message at the time of the report; kind and data (as JSON) are empty for a plain message.
    content = models.TextField(blank=True)
    kind = models.CharField(max_length=64, blank=True, default="")
    data = models.TextField(blank=True, default="")
    reason = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "report"
        indexes = [models.Index(fields=["created_at"], name="vyzio_report_at")]

    def __str__(self) -> str:
        return f"report {self.report_id}"


class Held(models.Model):
    """A message that waits for a moderator, from the webhook `chat.held`. Kept for `MODERATION_DAYS`."""

    held_id = models.BigIntegerField(primary_key=True)
    conversation_id = models.BigIntegerField()
    sender_id = models.BigIntegerField()
    content = models.TextField(blank=True)
    reason_code = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    judged_at = models.DateTimeField(null=True)
    # `release` or `refuse` from here; empty if someone else has judged.
    verdict = models.CharField(max_length=16, blank=True)

    class Meta:
        verbose_name = "held message"
        indexes = [models.Index(fields=["created_at"], name="vyzio_held_at")]

    def __str__(self) -> str:
        return f"held message {self.held_id}"
