"""The package against a real stack: `STACK` has its addresses as JSON. e2e/tests/client/django.rs starts it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import time
import unittest
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import TransactionTestCase
from servers import free_port, running
from support import later, vyzio

from shop.models import Report
from vyzio_realtime_django import (
    Refused,
    Unavailable,
    conversations,
    emit,
    messages,
    notify_now,
    outbox,
    sessions,
    token_for,
    users,
)
from vyzio_realtime_django.checks import signing_key_problem
from vyzio_realtime_django.models import Outbox, Received

STACK: dict[str, Any] = json.loads(os.environ.get("STACK", "{}"))
NATS = "vyzio_realtime_django.backends.nats.Backend"
# Longest wait for a notification, in seconds.
PATIENCE = 30


@unittest.skipUnless(STACK, "there is no stack")
class StackTests(TransactionTestCase):
    def setUp(self) -> None:
        changed = vyzio(URL=STACK["url"], API_KEY=STACK["key"], SIGNING_KEY=STACK["secret"], TIMEOUT=5)
        changed.enable()
        self.addCleanup(changed.disable)
        outbox._pause.succeeded()
        # Users of this test only: the stack is for all tests.
        first = uuid.uuid4().int % 2**30
        self.ada = User.objects.create(pk=first + 1, username="ada")
        self.ben = User.objects.create(pk=first + 2, username="ben")

    def get(self, path: str, user: User) -> Any:
        request = urllib.request.Request(STACK["url"] + path, headers={"Authorization": f"Bearer {token_for(user)}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)

    def notifications(self, user: User, count: int) -> list[Any]:
        """Waits until the user has this number of notifications. Returns them, oldest first."""
        end = time.monotonic() + PATIENCE
        while len(items := self.get("/api/notifications", user)["items"]) < count:
            assert time.monotonic() < end, f"{len(items)} of {count} notifications"
            time.sleep(0.05)
        return list(reversed(items))

    def emit(self, number: int, **event: Any) -> str:
        data = {"payment_id": number}
        return emit("payment_completed", to=[self.ada, self.ben], data=data, key=f"{self.ada.pk}-{number}", **event)

    def test_an_event_becomes_one_notification_of_each_user(self) -> None:
        for _ in range(2):
            self.emit(1)
        self.emit(2, title="Payé", message="Merci")
        self.assertFalse(Outbox.objects.exists())
        for user in (self.ada, self.ben):
            first, second = self.notifications(user, 2)
            self.assertEqual((first["type"], first["data"]), ("payment_completed", {"payment_id": 1}))
            self.assertEqual((second["title"], second["message"]), ("Payé", "Merci"))

    def test_the_relay_publishes_what_was_committed_without_the_gateway(self) -> None:
        with vyzio(URL="http://127.0.0.1:9"):
            for number in range(150):
                self.emit(number)
        self.assertEqual(Outbox.objects.count(), 150)
        later(minutes=2)
        done = outbox.relay()
        self.assertEqual((done.sent, done.errors, done.error), (150, 0, None))
        end = time.monotonic() + PATIENCE
        while (count := self.get("/api/notifications/unread_count", self.ada)["unread_count"]) < 150:
            self.assertLess(time.monotonic(), end, count)

    def test_an_event_that_the_gateway_refuses_is_an_error(self) -> None:
        with self.assertRaises(Refused) as raised:
            notify_now("payment_completed", to=self.ada, title="x" * 201)
        self.assertEqual(raised.exception.status, 400)

    def test_a_conversation_is_opened_and_written_in(self) -> None:
        opened = conversations.between(self.ada, self.ben, listing=12)
        self.assertEqual(
            conversations.between(self.ben, self.ada, listing=12)["conversation_id"], opened["conversation_id"]
        )
        self.assertEqual({user["username"] for user in opened["participants"]}, {"ada", "ben"})
        sent = messages.send(opened, self.ada, "Bonjour", client_id="question")
        self.assertEqual(
            messages.send(opened, self.ada, "Bonjour", client_id="question")["message_id"], sent["message_id"]
        )
        changed = messages.update(opened, sent, "Bonsoir")
        self.assertEqual(changed["content"], "Bonsoir")
        with self.assertRaises(Refused) as raised:
            messages.update(opened, sent, "Non", if_change=0)
        self.assertEqual((raised.exception.status, raised.exception.code), (409, "conflict"))
        messages.remove(opened, sent, "insulting")
        [item] = self.get(f"/api/conversations/{opened['conversation_id']}/messages", self.ben)["items"]
        self.assertIn("deleted_at", item)
        with self.assertRaises(Refused) as raised:
            messages.send(opened, 99, "Bonjour")
        self.assertEqual(raised.exception.code, "forbidden")

    def test_the_relay_gives_up_a_change_of_a_deleted_message_but_not_one_without_a_scope(self) -> None:
        opened = conversations.between(self.ada, self.ben)
        sent = messages.send(opened, self.ada, "Bonjour")
        ids = {"conversation_id": opened["conversation_id"], "message_id": sent["message_id"]}
        for wrong in ({"URL": f"{STACK['url']}/other"}, {"API_KEY": STACK["events_key"]}):
            with self.subTest(wrong=wrong):
                with vyzio(**wrong):
                    outbox.add("chat.messages.update", {**ids, "message": "Bonsoir"})
                self.assertIsNone(Outbox.objects.get().failed_at)
                later(minutes=1)
                self.assertEqual(outbox.relay().sent, 1)
        messages.remove(opened, sent, "insulting")
        outbox.add("chat.messages.update", {**ids, "message": "Bonne nuit"})
        row = Outbox.objects.get()
        self.assertIn("not_found", row.last_error)
        self.assertIsNotNone(row.failed_at)

    def test_an_offer_is_accepted_and_an_order_is_announced(self) -> None:
        opened = conversations.between(self.ada, self.ben)
        offer = {"amount": 4500, "currency": "EUR", "state": "open"}
        sent = messages.send(opened, self.ada, kind="offer", data=offer)
        accepted = messages.update(opened, sent, data={**offer, "state": "accepted"}, if_change=0)
        self.assertEqual((accepted["data"]["state"], accepted["change"]), ("accepted", 1))
        order = conversations.system(opened, kind="order", data={"order_id": 12, "state": "placed"})
        self.assertIs(order["system"], True)
        reply = messages.send(opened, self.ben, "Merci", reply_to=sent)
        self.assertEqual(reply["reply_to"], sent["message_id"])

    def test_a_user_is_erased(self) -> None:
        first = users.erase(self.ada, reason="her request")
        self.assertEqual(users.erase(self.ada), first)

    def test_a_revocation_refuses_the_tokens_until_then(self) -> None:
        token = token_for(self.ada)
        self.assertIn("revoked_before", sessions.revoke(self.ada))
        end = time.monotonic() + PATIENCE
        while True:
            request = urllib.request.Request(f"{STACK['url']}/api/unread", headers={"Authorization": f"Bearer {token}"})
            try:
                urllib.request.urlopen(request, timeout=PATIENCE).close()
            except urllib.error.HTTPError as error:
                error.close()
                self.assertEqual(error.code, 401)
                return
            self.assertLess(time.monotonic(), end, "the token is accepted still")

    def test_check_finds_the_gateway_and_its_key(self) -> None:
        output = io.StringIO()
        call_command("realtime_check", stdout=output)
        self.assertIn("knows this key as shop, for events, chat, users, sessions", output.getvalue())
        self.assertIsNone(signing_key_problem())
        changed = {"URL": STACK["url"], "API_KEY": STACK["key"], "SIGNING_KEY": "another key of at least 32 characters"}
        with vyzio(**changed):
            self.assertIsNotNone(signing_key_problem())

    def test_a_process_that_is_killed_after_its_commit_notifies_once(self) -> None:
        port = free_port()
        stack = {"API_KEY": STACK["key"], "SIGNING_KEY": STACK["secret"]}
        with running("manage.py", "runserver", "--noreload", str(port), url=STACK["url"], port=port, **stack) as server:
            self.assertEqual(server.get(f"/killed/{self.ada.pk}/"), 0)
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 1)
        self.notifications(self.ada, 1)
        # Another event arrives after any second notification of the first one.
        notify_now("payment_completed", to=self.ada, data={"payment_id": 2})
        self.assertEqual(len(self.notifications(self.ada, 2)), 2)

    @unittest.skipUnless("webhook_port" in STACK, "the stack sends no webhooks")
    def test_a_report_becomes_a_signal_once(self) -> None:
        port = int(STACK["webhook_port"])
        entries = {"API_KEY": STACK["key"], "WEBHOOK_SECRET": STACK["webhook_secret"]}
        with running("manage.py", "runserver", "--noreload", str(port), url=STACK["url"], port=port, **entries):
            for reporter in (self.ada, self.ben):
                body = json.dumps({"user_id": self.ada.pk, "reason": "rude"}).encode()
                headers = {"Authorization": f"Bearer {token_for(reporter)}", "Content-Type": "application/json"}
                request = urllib.request.Request(f"{STACK['url']}/api/reports", body, headers, method="POST")
                urllib.request.urlopen(request, timeout=PATIENCE).close()
            end = time.monotonic() + PATIENCE
            while Report.objects.count() < 2:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.05)
        reporters = set(Report.objects.values_list("reporter_id", flat=True))
        self.assertEqual(reporters, {self.ada.pk, self.ben.pk})
        self.assertEqual(Received.objects.filter(type="chat.reported").count(), 2)

    @unittest.skipUnless(importlib.util.find_spec("nats"), "nats-py is not installed")
    def test_everything_works_over_nats(self) -> None:
        with vyzio(BACKEND=NATS, NATS_URL=STACK["nats"], SIGNING_KEY=STACK["secret"], TIMEOUT=5):
            self.emit(1)
            self.assertFalse(Outbox.objects.exists())
            opened = conversations.between(self.ada, self.ben)
            self.assertEqual(messages.send(opened, self.ada, "Bonjour")["content"], "Bonjour")
            with self.assertRaises(Refused) as raised:
                messages.send(opened, 99, "Bonjour")
            self.assertEqual((raised.exception.status, raised.exception.code), (403, "forbidden"))
            self.assertIn("revoked_before", sessions.revoke(self.ben))
            output = io.StringIO()
            call_command("realtime_check", stdout=output)
            self.assertIn(NATS, output.getvalue())
        with vyzio(BACKEND=NATS, NATS_URL="nats://127.0.0.1:9", TIMEOUT=0.5):
            with self.assertRaises(Unavailable):
                sessions.revoke(self.ben)
            self.emit(2)
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 1)
        with vyzio(URL=STACK["url"], SIGNING_KEY=STACK["secret"]):
            self.notifications(self.ada, 2)

    @unittest.skipUnless(importlib.util.find_spec("nats"), "nats-py is not installed")
    @unittest.skipUnless(importlib.util.find_spec("gunicorn"), "gunicorn is not installed")
    def test_forks_over_nats_have_connections_of_their_own(self) -> None:
        port = free_port()
        arguments = ["-m", "gunicorn", "--no-control-socket", "--bind", f"127.0.0.1:{port}", "--workers=2"]
        arguments += ["--preload", "--config=preload.py", "project.wsgi"]
        entries = {"BACKEND": NATS, "NATS_URL": STACK["nats"], "SIGNING_KEY": STACK["secret"], "TIMEOUT": 5}
        with running(*arguments, url=STACK["url"], port=port, **entries) as server:
            with ThreadPoolExecutor(4) as pool:
                statuses = set(pool.map(server.get, [f"/pay/{self.ada.pk}/"] * 10))
            self.assertEqual(statuses, {200})
        self.assertFalse(Outbox.objects.exists())
        self.notifications(self.ada, 10)
