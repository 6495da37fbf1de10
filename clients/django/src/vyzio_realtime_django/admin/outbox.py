"""The outbox in the admin: what waits, why, and "publish now"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.timesince import timesince

from .. import outbox
from ..models import Outbox, Received

if TYPE_CHECKING:
    OutboxBase = admin.ModelAdmin[Outbox]
    ReceivedBase = admin.ModelAdmin[Received]
else:
    OutboxBase = ReceivedBase = admin.ModelAdmin

# Rows that "publish now" sends at once.
PUBLISH = 500


class GivenUpFilter(admin.SimpleListFilter):
    """Rows that wait, or that the relay has given up."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "waiting"), ("failed", "given up")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> QuerySet[Outbox]:
        if self.value() in ("waiting", "failed"):
            return queryset.filter(failed_at__isnull=self.value() == "waiting")
        return queryset


@admin.register(Outbox)
class OutboxAdmin(OutboxBase):
    """Rows can be published or deleted, not changed."""

    list_display = ("subject", "age", "attempts", "state", "last_error")
    list_filter = (GivenUpFilter,)
    search_fields = ("subject", "key", "last_error")
    ordering = ("id",)
    actions = ("publish_now",)

    @admin.display(ordering="created_at")
    def age(self, row: Outbox) -> str:
        """The time since `emit`."""
        return timesince(row.created_at)

    @admin.display(ordering="failed_at")
    def state(self, row: Outbox) -> str:
        """Whether the relay still tries."""
        if row.failed_at is not None:
            return "given up"
        return "due" if row.due_at <= timezone.now() else "waiting"

    @admin.action(description="Publish now", permissions=["publish"])
    def publish_now(self, request: HttpRequest, rows: QuerySet[Outbox]) -> None:
        """Tries these rows, even if the relay has given them up."""
        alias = router.db_for_write(Outbox)
        ids = list(rows.using(alias).order_by("pk").values_list("pk", flat=True)[:PUBLISH])
        done = outbox.relay(using=alias, only=ids)
        level = messages.SUCCESS if done.sent == len(ids) else messages.WARNING
        reason = f": {done.error}" if done.error else ""
        self.message_user(request, f"{done.sent} of {len(ids)} published{reason}", level)

    def has_publish_permission(self, request: HttpRequest) -> bool:
        """Rows can't be changed, but those who may change rows may publish them."""
        return super().has_change_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Outbox | None = None) -> bool:
        return False


@admin.register(Received)
class ReceivedAdmin(ReceivedBase):
    """Webhooks that were handled. Deleting one lets it be handled again."""

    list_display = ("webhook_id", "type", "received_at")
    list_filter = ("type",)
    ordering = ("-received_at",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Received | None = None) -> bool:
        return False
