from django.conf import settings
from django.db import models


class Payment(models.Model):
    user_id = models.BigIntegerField()


class Reminder(models.Model):
    """A mail that was sent because of a webhook."""

    user_id = models.BigIntegerField()


class Report(models.Model):
    """A report of a webhook."""

    reporter_id = models.BigIntegerField()


class Conversation(models.Model):
    listing_id = models.BigIntegerField(null=True)
    title = models.CharField(max_length=200, blank=True)
    participants = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="conversations")
    created_at = models.DateTimeField()


class Message(models.Model):
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    sender = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    content = models.TextField()
    is_read = models.BooleanField(default=False)
    created_at = models.DateTimeField()
