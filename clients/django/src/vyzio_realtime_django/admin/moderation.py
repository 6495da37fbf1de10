"""Reports and held messages in the admin. Verdicts go to the gateway at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from .. import held
from .. import messages as chat_messages
from ..backends import backend
from ..backends.http import Backend
from ..conf import settings
from ..errors import RealtimeError, Refused
from ..models import Held, Report

if TYPE_CHECKING:
    ReportBase = admin.ModelAdmin[Report]
    HeldBase = admin.ModelAdmin[Held]
else:
    ReportBase = HeldBase = admin.ModelAdmin

# Rows of a page, and of one action, which sends a request for each.
ROWS = 50
# Statuses of an answer about something that is gone: another moderator, or time, was faster.
GONE = frozenset({404, 409, 410})
TOO_MANY = f"Select at most {ROWS} rows. Nothing was done."
REASON_CHARS = 1000
EXCERPT = 120


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


class OpenFilter(admin.SimpleListFilter):
    """Rows that wait for someone, or that are done."""

    title = "state"
    parameter_name = "state"
    done = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open"), ("done", "done")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() in ("open", "done"):
            return queryset.filter(**{f"{self.done}__isnull": self.value() == "open"})
        return queryset


class OpenReportFilter(OpenFilter):
    done = "closed_at"


class OpenHeldFilter(OpenFilter):
    done = "judged_at"


class ReasonForm(ActionForm):
    """An action with a reason."""

    reason = forms.CharField(required=False, max_length=REASON_CHARS, label="Reason:")


def _send(send: Callable[[], object]) -> bool:
    """Sends a request. Returns False if its subject is gone. Raises a RealtimeError."""
    try:
        send()
    except Refused as error:
        if error.status not in GONE:
            raise
        connection = backend()
        if error.status == 404 and isinstance(connection, Backend):
            # A gateway without `BACKEND_KEYS`, and a server at a wrong address, answer 404 to everything.
            connection.whoami(settings().TIMEOUT)
        return False
    return True


class _Outcomes:
    """What became of the requests of an action."""

    def __init__(self) -> None:
        self.done = 0
        self.gone = 0
        self.error: RealtimeError | None = None

    def request(self, send: Callable[[], object]) -> bool | None:
        """True if the request succeeded, False if its subject is gone, None if it failed."""
        try:
            has_succeeded = _send(send)
        except RealtimeError as error:
            self.error = error
            return None
        if has_succeeded:
            self.done += 1
        else:
            self.gone += 1
        return has_succeeded

    def text(self, verb: str) -> str:
        parts = [f"{self.done} {verb}"]
        if self.gone:
            parts.append(f"{self.gone} gone or decided elsewhere")
        if self.error is not None:
            parts.append(f"the others were not: {self.error}")
        return "; ".join(parts)

    @property
    def level(self) -> int:
        return messages.SUCCESS if self.error is None else messages.WARNING


@admin.register(Report)
class ReportAdmin(ReportBase):
    """Reports are closed, not changed."""

    list_display = ("report_id", "created_at", "user_id", "reporter_id", "reason_excerpt", "message", "kind", "state")
    list_filter = (OpenReportFilter,)
    search_fields = ("=user_id", "=reporter_id", "=conversation_id", "content", "data", "reason")
    ordering = ("-created_at",)
    list_per_page = ROWS
    actions = ("remove_message", "close")

    @admin.display(description="reason")
    def reason_excerpt(self, row: Report) -> str:
        return _excerpt(row.reason)

    @admin.display(description="message", empty_value="-")
    def message(self, row: Report) -> str | None:
        """The text as it was; nothing for a report of a user."""
        return _excerpt(row.content) if row.message_id is not None else None

    @admin.display(ordering="closed_at")
    def state(self, row: Report) -> str:
        return "open" if row.closed_at is None else "closed"

    @admin.action(description="Remove the message, and close", permissions=["judge"])
    def remove_message(self, request: HttpRequest, rows: QuerySet[Report]) -> None:
        """Removes the reported messages from their conversations. A message that is gone already is no error."""
        reports = list(rows.exclude(message_id=None).order_by("pk")[: ROWS + 1])
        if len(reports) > ROWS:
            self.message_user(request, TOO_MANY, messages.ERROR)
            return
        outcomes = _Outcomes()
        handled: set[int] = set()
        for report in reports:
            conversation, message = report.conversation_id, report.message_id
            assert conversation is not None and message is not None
            if message in handled:
                continue
            handled.add(message)
            reason = f"report {report.report_id}: {report.reason}"[:REASON_CHARS]
            has_succeeded = outcomes.request(lambda: chat_messages.remove(conversation, message, reason))
            if has_succeeded is None:
                break
            note = "removed the message" if has_succeeded else "the message was gone"
            self._close(request, rows.model.objects.filter(message_id=message), note)
        self.message_user(request, outcomes.text("removed"), outcomes.level)

    @admin.action(description="Close without action", permissions=["judge"])
    def close(self, request: HttpRequest, rows: QuerySet[Report]) -> None:
        closed = self._close(request, rows, "closed")
        self.message_user(request, f"{closed} closed", messages.SUCCESS)

    def _close(self, request: HttpRequest, rows: QuerySet[Report], note: str) -> int:
        found = list(rows.filter(closed_at=None))
        for report in found:
            self.log_change(request, report, note)
        return rows.model.objects.filter(pk__in=[report.pk for report in found]).update(closed_at=timezone.now())

    def has_judge_permission(self, request: HttpRequest) -> bool:
        """Rows can't be changed, but those who may change rows may judge."""
        return super().has_change_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Report | None = None) -> bool:
        return False


@admin.register(Held)
class HeldAdmin(HeldBase):
    """Held messages are released or refused."""

    list_display = ("held_id", "created_at", "sender_id", "conversation_id", "text", "reason_code", "state")
    list_filter = (OpenHeldFilter, "reason_code")
    search_fields = ("=sender_id", "=conversation_id", "content")
    ordering = ("-created_at",)
    list_per_page = ROWS
    actions = ("release", "refuse")
    action_form = ReasonForm

    @admin.display(description="message")
    def text(self, row: Held) -> str:
        return _excerpt(row.content)

    @admin.display(ordering="judged_at")
    def state(self, row: Held) -> str:
        if row.judged_at is None:
            return "waits"
        return {"release": "released", "refuse": "refused"}.get(row.verdict, "decided elsewhere")

    @admin.action(description="Release", permissions=["judge"])
    def release(self, request: HttpRequest, rows: QuerySet[Held]) -> None:
        """Lets the messages into their conversations."""
        self._judge(request, rows, "release", held.release)

    @admin.action(description="Refuse, with a reason", permissions=["judge"])
    def refuse(self, request: HttpRequest, rows: QuerySet[Held]) -> None:
        """Refuses the messages. The senders read the reason."""
        reason = request.POST.get("reason", "").strip()
        if not 1 <= len(reason) <= REASON_CHARS:
            text = f"A refusal needs a reason of at most {REASON_CHARS} characters: the senders read it."
            self.message_user(request, text, messages.ERROR)
            return
        self._judge(request, rows, "refuse", lambda held_id: held.refuse(held_id, reason))

    def _judge(self, request: HttpRequest, rows: QuerySet[Held], verdict: str, judge: Callable[[int], object]) -> None:
        # The oldest first, so that the messages of a conversation are released in their order.
        waiting = list(rows.filter(judged_at=None).order_by("pk")[: ROWS + 1])
        if len(waiting) > ROWS:
            self.message_user(request, TOO_MANY, messages.ERROR)
            return
        outcomes = _Outcomes()
        for row in waiting:
            held_id = row.held_id
            has_succeeded = outcomes.request(lambda: judge(held_id))
            if has_succeeded is None:
                break
            same = rows.model.objects.filter(pk=held_id)
            if has_succeeded:
                same.update(judged_at=timezone.now(), verdict=verdict)
                self.log_change(request, row, verdict)
            else:
                # Another moderator may have stored the verdict here meanwhile.
                same.filter(judged_at=None).update(judged_at=timezone.now())
        self.message_user(request, outcomes.text(f"{verdict}d"), outcomes.level)

    def has_judge_permission(self, request: HttpRequest) -> bool:
        """Rows can't be changed, but those who may change rows may judge."""
        return super().has_change_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Held | None = None) -> bool:
        return False
