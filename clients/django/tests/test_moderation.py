"""Reports and held messages of webhooks, in the admin."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any
from unittest import mock

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import TestCase, override_settings
from django.urls import reverse
from django.utils import timezone
from gateway import problem
from support import GatewayMixin, vyzio

from vyzio_realtime_django import Refused, held, webhooks
from vyzio_realtime_django.errors import InvalidWebhook
from vyzio_realtime_django.models import Held, Received, Report

MESSAGE = {"conversation_id": 123, "message_id": 987, "seq": 17, "sender_id": 456, "content": "Imbécile"}
REPORT: dict[str, Any] = {
    "event_id": "chat.reported-5",
    "report_id": 5,
    "reporter_id": 457,
    "user_id": 456,
    "message": MESSAGE,
    "reason": "rude",
    "created_at": "2026-01-01T10:30:00.123456Z",
}
HELD: dict[str, Any] = {
    "event_id": "chat.held-7",
    "held_id": 7,
    "conversation_id": 123,
    "sender_id": 456,
    "content": "Appelle-moi au 06 12 34 56 78",
    "reason_code": "contact_details",
    "occurred_at": "2026-01-01T10:30:00.123456Z",
}


def tell(kind: str, data: dict[str, Any]) -> None:
    webhooks.handle(data["event_id"], json.dumps({"type": kind, "data": data}).encode())


class KeptTests(TestCase):
    def test_a_report_is_kept_with_its_message(self) -> None:
        tell("chat.reported", REPORT)
        tell("chat.reported", REPORT)
        report = Report.objects.get()
        self.assertEqual((report.report_id, report.reporter_id, report.user_id), (5, 457, 456))
        self.assertEqual((report.conversation_id, report.message_id, report.content), (123, 987, "Imbécile"))
        self.assertEqual((report.reason, report.created_at.microsecond), ("rude", 123456))

    def test_a_report_keeps_the_kind_and_the_data_of_a_message(self) -> None:
        data = {"amount": 4500, "note": "Vélo \0 \ud800"}
        tell("chat.reported", {**REPORT, "message": {**MESSAGE, "kind": "offer", "data": data}})
        report = Report.objects.get()
        self.assertEqual((report.kind, json.loads(report.data)), ("offer", data))
        self.assertIn("Vélo", report.data)
        self.client.force_login(User.objects.create_superuser("root", password="x"))
        self.assertContains(self.client.get(reverse("admin:vyzio_realtime_report_changelist")), "offer")
        page = self.client.get(reverse("admin:vyzio_realtime_report_change", args=[5]))
        self.assertContains(page, "4500")

    def test_a_report_of_a_plain_message_has_no_data(self) -> None:
        tell("chat.reported", REPORT)
        self.assertEqual(Report.objects.filter(kind="", data="").count(), 1)

    def test_a_report_of_a_user_has_no_message(self) -> None:
        tell("chat.reported", {**REPORT, "message": None})
        self.assertEqual(Report.objects.filter(message_id=None, content="").count(), 1)

    def test_a_held_message_is_kept_until_its_sender_is_erased(self) -> None:
        tell("chat.held", HELD)
        row = Held.objects.get()
        self.assertEqual((row.held_id, row.sender_id, row.reason_code), (7, 456, "contact_details"))
        tell("users.erased", {"event_id": "1", "user_id": 457})
        self.assertTrue(Held.objects.exists())
        tell("users.erased", {"event_id": "2", "user_id": 456})
        self.assertFalse(Held.objects.exists())

    def test_an_event_of_another_shape_is_refused(self) -> None:
        wrong = [
            {**REPORT, "report_id": "5"},
            {**REPORT, "message": "Imbécile"},
            {**REPORT, "message": {"content": ""}},
        ]
        for data in wrong:
            with self.subTest(data=data), self.assertRaises(InvalidWebhook):
                tell("chat.reported", data)
        with self.assertRaises(InvalidWebhook):
            tell("chat.held", {"event_id": "chat.held-7", "held_id": 7})
        self.assertEqual((Report.objects.count(), Held.objects.count(), Received.objects.count()), (0, 0, 0))

    def test_rows_are_kept_for_moderation_days(self) -> None:
        now = timezone.now()
        for days in (0, 89, 91):
            at = now - timedelta(days=days)
            Report.objects.create(report_id=days + 1, reporter_id=1, user_id=2, created_at=at)
            Held.objects.create(held_id=days + 1, conversation_id=1, sender_id=2, created_at=at)
        call_command("realtime_relay", stdout=io.StringIO())
        self.assertEqual(sorted(Report.objects.values_list("pk", flat=True)), [1, 90])
        self.assertEqual(sorted(Held.objects.values_list("pk", flat=True)), [1, 90])

    def test_a_site_without_time_zones_keeps_reports(self) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE="Europe/Paris"):
            tell("chat.reported", REPORT)
            tell("chat.held", HELD)
            self.assertEqual(Report.objects.get().created_at.isoformat(), "2026-01-01T11:30:00.123456")
            self.assertEqual(Held.objects.get().created_at.isoformat(), "2026-01-01T11:30:00.123456")

    def test_a_site_may_keep_nothing(self) -> None:
        with vyzio(MODERATION_DAYS=0):
            tell("chat.reported", REPORT)
            tell("chat.held", HELD)
        self.assertEqual((Report.objects.count(), Held.objects.count(), Received.objects.count()), (0, 0, 2))


class AdminTests(GatewayMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.force_login(User.objects.create_superuser("root", password="x"))

    def do(self, model: str, action: str, ids: list[int], **fields: str) -> Any:
        url = reverse(f"admin:vyzio_realtime_{model}_changelist")
        return self.client.post(url, {"action": action, "_selected_action": ids, **fields}, follow=True)

    def hold(self, *ids: int) -> None:
        for held_id in ids:
            tell("chat.held", {**HELD, "event_id": f"chat.held-{held_id}", "held_id": held_id})

    def test_the_lists_show_what_is_open(self) -> None:
        tell("chat.reported", REPORT)
        tell("chat.held", HELD)
        for model, text in (("report", "Imbécile"), ("held", "06 12 34 56 78")):
            url = reverse(f"admin:vyzio_realtime_{model}_changelist")
            self.assertContains(self.client.get(url), text)
            self.assertContains(self.client.get(f"{url}?state=open"), text)
            self.assertNotContains(self.client.get(f"{url}?state=done"), text)
            self.assertContains(self.client.get(f"{url}?q=456"), text)
            self.assertEqual(self.client.get(reverse(f"admin:vyzio_realtime_{model}_add")).status_code, 403)
        change = self.client.get(reverse("admin:vyzio_realtime_report_change", args=[5]))
        self.assertContains(change, "Imbécile")

    def test_a_reported_message_is_removed_and_all_its_reports_are_closed(self) -> None:
        tell("chat.reported", REPORT)
        tell("chat.reported", {**REPORT, "event_id": "chat.reported-6", "report_id": 6})
        tell("chat.reported", {**REPORT, "event_id": "chat.reported-8", "report_id": 8, "message": None})
        self.assertContains(self.do("report", "remove_message", [5, 8]), "1 removed")
        removal = ("DELETE", "/backend/conversations/123/messages/987", {"reason": "report 5: rude"})
        self.assertEqual(self.gateway.requests, [removal])
        self.assertEqual(list(Report.objects.filter(closed_at=None).values_list("pk", flat=True)), [8])
        self.assertContains(self.do("report", "close", [5, 8]), "1 closed")
        notes = LogEntry.objects.order_by("pk").values_list("object_id", "change_message")
        self.assertEqual(list(notes), [("5", "removed the message"), ("6", "removed the message"), ("8", "closed")])

    def test_a_message_with_several_reports_is_removed_once(self) -> None:
        tell("chat.reported", REPORT)
        tell("chat.reported", {**REPORT, "event_id": "chat.reported-6", "report_id": 6})
        self.assertContains(self.do("report", "remove_message", [5, 6]), "1 removed")
        self.assertEqual(len(self.gateway.requests), 1)
        self.assertFalse(Report.objects.filter(closed_at=None).exists())

    def test_a_message_that_is_gone_already_closes_its_report(self) -> None:
        tell("chat.reported", REPORT)
        self.gateway.override = lambda method, path, body: (
            (404, problem(404, "not_found")) if method == "DELETE" else None
        )
        self.assertContains(self.do("report", "remove_message", [5]), "0 removed; 1 gone or decided elsewhere")
        self.assertFalse(Report.objects.filter(closed_at=None).exists())
        self.assertEqual(LogEntry.objects.get().change_message, "the message was gone")

    def test_a_gateway_without_backend_keys_closes_nothing(self) -> None:
        tell("chat.reported", REPORT)
        self.hold(7)
        for answer in (problem(404, "not_found"), "<html>"):
            self.gateway.override = lambda method, path, body: (404, answer)
            self.assertContains(self.do("report", "remove_message", [5]), "0 removed; the others were not")
            self.assertContains(self.do("held", "release", [7]), "0 released; the others were not")
        self.assertTrue(Report.objects.filter(closed_at=None).exists())
        self.assertTrue(Held.objects.filter(judged_at=None).exists())

    def test_an_action_with_too_many_rows_does_nothing(self) -> None:
        ids = list(range(1, 52))
        self.hold(*ids)
        for number in ids:
            message = {**MESSAGE, "message_id": number}
            report = {**REPORT, "event_id": f"chat.reported-{number}", "report_id": number, "message": message}
            tell("chat.reported", report)
        everything = {"select_across": "1"}
        self.assertContains(self.do("held", "release", [1], **everything), "Select at most 50 rows")
        self.assertContains(self.do("report", "remove_message", [1], **everything), "Select at most 50 rows")
        self.assertEqual(self.gateway.requests, [])
        self.assertContains(self.do("held", "release", ids[1:]), "50 released")

    def test_held_messages_are_released_in_their_order(self) -> None:
        self.hold(7, 8, 9)
        self.assertContains(self.do("held", "release", [9, 7]), "2 released")
        paths = [path for _, path, _ in self.gateway.requests]
        self.assertEqual(paths, ["/backend/held/7", "/backend/held/9"])
        self.assertEqual(list(Held.objects.filter(judged_at=None).values_list("pk", flat=True)), [8])
        # A second click sends nothing.
        self.assertContains(self.do("held", "release", [9, 7]), "0 released")
        self.assertEqual(len(self.gateway.requests), 2)

    def test_a_refusal_needs_a_reason(self) -> None:
        self.hold(7)
        self.assertContains(self.do("held", "refuse", [7], reason=" "), "needs a reason")
        self.assertEqual(self.gateway.requests, [])
        self.assertContains(self.do("held", "refuse", [7], reason="Coordonnées interdites"), "1 refused")
        body = {"verdict": "refuse", "reason": "Coordonnées interdites"}
        self.assertEqual(self.gateway.requests, [("POST", "/backend/held/7", body)])
        self.assertEqual(Held.objects.get().verdict, "refuse")

    def test_a_message_that_another_moderator_has_judged_is_done(self) -> None:
        self.hold(7, 8)
        self.gateway.override = lambda method, path, body: (
            (409, problem(409, "conflict")) if path == "/backend/held/7" else None
        )
        response = self.do("held", "release", [7, 8])
        self.assertContains(response, "1 released; 1 gone or decided elsewhere")
        self.assertContains(response, "decided elsewhere</td>")
        self.assertFalse(Held.objects.filter(judged_at=None).exists())

    def test_of_two_moderators_the_verdict_of_the_faster_one_is_kept(self) -> None:
        self.hold(7)

        def judge_first(held_id: int) -> None:
            Held.objects.filter(pk=held_id).update(judged_at=timezone.now(), verdict="refuse")
            raise Refused(409, "conflict")

        with mock.patch.object(held, "release", judge_first):
            self.assertContains(self.do("held", "release", [7]), "0 released; 1 gone or decided elsewhere")
        self.assertEqual(Held.objects.get().verdict, "refuse")

    def test_a_sender_who_is_erased_during_a_verdict_is_no_error(self) -> None:
        self.hold(7)

        with mock.patch.object(held, "release", lambda held_id: Held.objects.filter(pk=held_id).delete()):
            self.assertContains(self.do("held", "release", [7]), "1 released")
        self.assertFalse(Held.objects.exists())

    def test_a_gateway_that_is_away_leaves_the_rest_open(self) -> None:
        self.hold(7, 8)
        self.gateway.override = lambda method, path, body: (503, problem(503, "unavailable"))
        self.assertContains(self.do("held", "release", [7, 8]), "0 released; the others were not: 503 unavailable")
        self.assertEqual(len(self.gateway.requests), 1, "it stops at the first failure")
        self.assertEqual(Held.objects.filter(judged_at=None).count(), 2)

    def test_a_verdict_needs_the_permission_to_change(self) -> None:
        self.hold(7)
        staff = User.objects.create_user("mod", is_staff=True)
        staff.user_permissions.add(Permission.objects.get(codename="view_held"))
        self.client.force_login(staff)
        self.do("held", "release", [7])
        self.assertEqual(self.gateway.requests, [])
        staff.user_permissions.add(Permission.objects.get(codename="change_held"))
        self.assertContains(self.do("held", "release", [7]), "1 released")
