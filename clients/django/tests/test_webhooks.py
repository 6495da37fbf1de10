"""The webhook endpoint: signatures, repeats, receivers that fail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import threading
import time
import unittest
from datetime import datetime, timezone
from typing import Any
from unittest import mock

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, connections
from django.http import HttpResponse
from django.test import Client, TransactionTestCase
from support import vyzio

from shop.models import Reminder
from vyzio_realtime_django import signals
from vyzio_realtime_django.models import Received

SECRET = settings.VYZIO["WEBHOOK_SECRET"]
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes......").decode()
BODY: dict[str, Any] = {
    "type": "notify.reminder",
    "timestamp": "2026-01-01T00:00:00.123456Z",
    "data": {"event_id": "reminder-mail-456-1", "step": "mail", "user_id": 456, "items": []},
}


def signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def deliver(client: Client, content: bytes, headers: dict[str, str]) -> HttpResponse:
    extra: Any = headers
    response: Any = client.post("/realtime/webhook/", content, content_type="application/json", **extra)
    assert isinstance(response, HttpResponse)
    return response


def atomic_requests(database: str) -> Any:
    """Sets `ATOMIC_REQUESTS` of a database, as a context manager."""
    return mock.patch.dict(connections.settings[database], ATOMIC_REQUESTS=True)


class WebhookMixin(TransactionTestCase):
    """What the tests of webhooks need."""

    def setUp(self) -> None:
        self.received: list[dict[str, Any]] = []

    def connect(self, signal: Any, receiver: Any) -> None:
        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)

    def remind(self, **kwargs: Any) -> None:
        self.received.append(kwargs)
        Reminder.objects.create(user_id=kwargs["data"]["user_id"])

    def post(
        self,
        body: Any = BODY,
        webhook_id: str = "reminder-mail-456-1",
        secrets: tuple[str, ...] = (SECRET,),
        age: int = 0,
        client: Client | None = None,
    ) -> HttpResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        timestamp = int(time.time()) - age
        signatures = " ".join(signature(secret, webhook_id, timestamp, content) for secret in secrets)
        headers = {
            "HTTP_WEBHOOK_ID": webhook_id,
            "HTTP_WEBHOOK_TIMESTAMP": str(timestamp),
            "HTTP_WEBHOOK_SIGNATURE": signatures,
        }
        client = client or Client(enforce_csrf_checks=True)
        return deliver(client, content, headers)


class WebhookTests(WebhookMixin):
    def test_a_webhook_is_handled_once(self) -> None:
        self.connect(signals.reminder_due, self.remind)
        for _ in range(3):
            self.assertEqual(self.post().status_code, 204)
        [event] = self.received
        self.assertEqual(event["data"], BODY["data"])
        self.assertEqual(event["event_id"], "reminder-mail-456-1")
        self.assertEqual(event["timestamp"].microsecond, 123456)
        self.assertEqual(Reminder.objects.count(), 1)

    def test_a_receiver_that_fails_gets_the_webhook_again(self) -> None:
        failures = [1, 1]

        def fail_twice(**kwargs: Any) -> None:
            if failures:
                failures.pop()
                raise RuntimeError("no mail server")

        self.connect(signals.reminder_due, self.remind)
        self.connect(signals.reminder_due, fail_twice)
        for status in (500, 500, 204, 204):
            response = self.post(client=Client(raise_request_exception=False))
            self.assertEqual(response.status_code, status)
        self.assertEqual(Reminder.objects.count(), 1, "the others were rolled back")
        self.assertEqual(Received.objects.count(), 1)

    def test_a_webhook_that_comes_twice_at_once_is_handled_once(self) -> None:
        if connection.vendor == "sqlite":
            self.skipTest("SQLite has one writer at a time")
        meeting = threading.Barrier(2)
        statuses: list[int] = []

        def deliver_once() -> None:
            meeting.wait()
            try:
                statuses.append(self.post().status_code)
            finally:
                connection.close()

        self.connect(signals.reminder_due, self.remind)
        threads = [threading.Thread(target=deliver_once) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(statuses, [204, 204])
        self.assertEqual(Reminder.objects.count(), 1)

    def test_a_webhook_with_a_wrong_signature_is_refused(self) -> None:
        self.connect(signals.reminder_due, self.remind)
        self.assertEqual(self.post(secrets=()).status_code, 400)
        self.assertEqual(self.post(secrets=(OTHER,)).status_code, 400)
        self.assertEqual(self.post(age=301).status_code, 400)
        self.assertEqual(self.post(age=-302).status_code, 400)
        self.assertEqual(self.post(webhook_id="").status_code, 400)
        self.assertEqual(self.post(webhook_id="x" * 256).status_code, 400)
        self.assertEqual(Client().get("/realtime/webhook/").status_code, 405)
        self.assertEqual(Client().post("/realtime/webhook/", b"{}", content_type="application/json").status_code, 400)
        headers = {"HTTP_WEBHOOK_ID": "1", "HTTP_WEBHOOK_TIMESTAMP": "١٢٣", "HTTP_WEBHOOK_SIGNATURE": "v1,é"}
        self.assertEqual(deliver(Client(), b"{}", headers).status_code, 400)
        self.assertEqual((self.received, Received.objects.count()), ([], 0))

    def test_any_of_several_secrets_and_signatures_will_do(self) -> None:
        with vyzio(WEBHOOK_SECRET=[OTHER, SECRET]):
            self.assertEqual(self.post().status_code, 204)
            self.assertEqual(self.post(secrets=(OTHER,)).status_code, 204)
        self.assertEqual(self.post(secrets=(OTHER, SECRET)).status_code, 204)

    def test_without_a_secret_nothing_is_accepted(self) -> None:
        with vyzio(WEBHOOK_SECRET=""):
            self.assertEqual(self.post().status_code, 503)

    def test_a_webhook_of_another_shape_is_refused(self) -> None:
        wrong = {"type": "x", "data": {}, "timestamp": "2026-13-01T00:00:00Z"}
        bodies: list[Any] = [
            b"",
            b"{",
            [],
            {"type": "chat.sent"},
            {"type": 1, "data": {}},
            {"type": "x", "data": []},
            wrong,
        ]
        for body in bodies:
            with self.subTest(body=body):
                self.assertEqual(self.post(body).status_code, 400)
        self.assertFalse(Received.objects.exists())

    def test_a_type_without_a_signal_is_accepted(self) -> None:
        self.assertEqual(self.post({"type": "chat.later", "data": {}}).status_code, 204)

    def test_optional_events_have_signals(self) -> None:
        for kind, signal in [
            ("chat.opened", signals.conversation_opened),
            ("presence.changed", signals.presence_changed),
        ]:
            with self.subTest(kind=kind):
                self.received.clear()
                self.connect(signal, self.remind)
                self.assertEqual(self.post({**BODY, "type": kind}, webhook_id=kind).status_code, 204)
                self.assertEqual(len(self.received), 1)

    def test_each_type_has_its_signal(self) -> None:
        for number, (kind, signal) in enumerate(signals.SIGNALS.items()):
            self.received.clear()
            receiver = lambda **kwargs: self.received.append(kwargs)  # noqa: E731
            signal.connect(receiver, weak=False)
            data = {"kind": kind, "report_id": 3, "reporter_id": 1, "user_id": 2, "held_id": 4}
            data |= {"conversation_id": 123, "sender_id": 2}
            self.post({"type": kind, "data": data}, webhook_id=str(number))
            signal.disconnect(receiver)
            self.assertEqual([event["data"] for event in self.received], [data])

    @unittest.skipUnless(importlib.util.find_spec("standardwebhooks"), "standardwebhooks is not installed")
    def test_the_reference_library_signs_the_same(self) -> None:
        from standardwebhooks.webhooks import Webhook

        now = datetime.now(timezone.utc)
        body = json.dumps(BODY)
        signed = Webhook(SECRET).sign("reminder-1", now, body)
        self.assertEqual(signed, signature(SECRET, "reminder-1", int(now.timestamp()), body.encode()))


class AtomicRequestsTests(WebhookTests):
    """The same, in the transaction of the request."""

    def setUp(self) -> None:
        super().setUp()
        changed = atomic_requests("default")
        changed.start()
        self.addCleanup(changed.stop)


class ReceiversElsewhereTests(WebhookMixin):
    """Receivers that write to another database than the one that remembers the webhook."""

    databases = {"default", "users"}

    def setUp(self) -> None:
        super().setUp()
        self.failures = [1]
        self.connect(signals.reminder_due, self.write_and_fail_once)

    def write_and_fail_once(self, **kwargs: Any) -> None:
        self.remind(**kwargs)
        User.objects.using("users").create(username=f"user {len(self.received)}")
        if self.failures:
            self.failures.pop()
            raise RuntimeError("no mail server")

    def deliver_twice(self) -> tuple[int, int]:
        """The rows in the webhook's database and in the other one after a delivery that fails and one that does not."""
        client = Client(raise_request_exception=False)
        self.assertEqual([self.post(client=client).status_code for _ in range(2)], [500, 204])
        return Reminder.objects.count(), User.objects.using("users").count()

    def test_a_receiver_that_fails_leaves_what_it_wrote_to_another_database(self) -> None:
        self.assertEqual(self.deliver_twice(), (1, 2))

    def test_atomic_requests_roll_back_the_other_database_too(self) -> None:
        with atomic_requests("users"):
            self.assertEqual(self.deliver_twice(), (1, 1))
