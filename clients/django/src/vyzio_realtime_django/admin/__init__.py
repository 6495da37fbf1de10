"""The admin: the outbox, handled webhooks, reports, and held messages."""

from .moderation import HeldAdmin, ReportAdmin
from .outbox import OutboxAdmin, ReceivedAdmin

__all__ = ["HeldAdmin", "OutboxAdmin", "ReceivedAdmin", "ReportAdmin"]
