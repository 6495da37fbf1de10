"""The relay's commands, and several relays at once."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from datetime import timedelta
from typing import Any
from unittest import mock

from django.core.management import CommandError, call_command
from django.db import InterfaceError, connection
from django.test import TransactionTestCase
from django.utils import timezone
from gateway import problem
from servers import running
from support import GatewayMixin, later, vyzio

from vyzio_realtime_django import emit, outbox
from vyzio_realtime_django.models import Outbox, Received


def call(name: str, *arguments: Any) -> str:
    output = io.StringIO()
    call_command(name, *arguments, stdout=output)
    return output.getvalue()


class RelayTests(GatewayMixin, TransactionTestCase):
    def emit_without_gateway(self, count: int, **event: Any) -> None:
        self.gateway.stop()
        for number in range(count):
            emit("paid", to=456, data={"number": number}, **event)
        self.gateway.start()
        later(minutes=1)

    def relay_in_threads(self, count: int) -> list[int]:
        """Runs relays at once. Returns the number of events that each has sent."""
        sent: list[int] = []

        def work() -> None:
            try:
                sent.append(outbox.relay().sent)
            finally:
                connection.close()

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sent

    def test_the_command_publishes_what_is_due(self) -> None:
        self.emit_without_gateway(3)
        self.assertEqual(call("realtime_relay"), "3 published, 0 errors\n")
        self.assertEqual(call("realtime_relay"), "0 published, 0 errors\n")

    def test_the_command_fails_without_the_gateway(self) -> None:
        self.emit_without_gateway(3)
        self.gateway.stop()
        with self.assertRaisesRegex(CommandError, "ConnectionRefusedError"):
            call("realtime_relay")
        self.assertEqual(len(self.gateway.events), 0)
        self.assertEqual(Outbox.objects.filter(claim=None).count(), 3, "they are free for another relay")

    def test_a_gateway_without_backend_keys_loses_nothing(self) -> None:
        self.emit_without_gateway(1)
        self.gateway.override = lambda method, path, body: (404, problem(404, "not_found"))
        with self.assertRaisesRegex(CommandError, "not_found"):
            call("realtime_relay")
        self.gateway.override = lambda method, path, body: None
        later(minutes=2)
        self.assertEqual(call("realtime_relay"), "1 published, 0 errors\n")

    def test_a_request_without_a_scope_does_not_hold_up_events(self) -> None:
        self.gateway.stop()
        for user in (1, 2):
            outbox.add("sessions.revoke", {"user_id": user})
        emit("paid", to=456)
        self.gateway.start()
        later(minutes=1)
        self.gateway.override = lambda method, path, body: (
            (403, problem(403, "forbidden", "the key lacks the scope for this call")) if "sessions" in path else None
        )
        self.assertEqual(call("realtime_relay"), "1 published, 2 errors\n")
        self.assertEqual(len(self.gateway.events), 1)
        self.assertEqual(Outbox.objects.filter(failed_at=None).count(), 2)

    def update(self, number: int, state: str) -> None:
        body = {"conversation_id": 123, "message_id": number, "data": {"state": state}}
        outbox.add("chat.messages.update", body, key=f"offer-{number}")

    def test_a_request_that_a_service_refuses_is_given_up(self) -> None:
        refusals = [(403, "blocked"), (403, "forbidden"), (404, "not_found"), (409, "conflict"), (409, "too_late")]
        for number, (status, code) in enumerate(refusals, 1):
            with self.subTest(code=code):
                Outbox.objects.all().delete()
                self.gateway.override = lambda method, path, body: (status, problem(status, code))
                self.update(number, "accepted")
                row = Outbox.objects.get()
                self.assertIsNotNone(row.failed_at)
                self.assertEqual(row.last_error, f"{code}: a {code} of the tests")
                self.assertEqual(call("realtime_replay", row.pk), "0 published, 1 errors\n")
                self.assertFalse(Outbox.objects.filter(failed_at=None).exists(), "the relay gives it up too")
                self.gateway.override = lambda method, path, body: None
                self.update(number, "paid")
                self.assertEqual(Outbox.objects.get(), row, "the next change of the offer has not waited")

    def test_a_request_that_operators_can_help_is_not_given_up(self) -> None:
        answers: list[tuple[int, Any]] = [
            (401, problem(401, "unauthorized")),
            (403, problem(403, "forbidden", "the key lacks the scope for this call")),
            (403, problem(403, "origin_not_allowed")),
            (404, problem(404, "not_found", "no such path")),
            (404, "a page of a proxy"),
            (409, problem(409, "a_code_of_a_later_release")),
        ]
        for number, (status, answer) in enumerate(answers, 1):
            with self.subTest(status=status, answer=answer):
                self.gateway.override = lambda method, path, body: (status, answer)
                self.update(number, "accepted")
                later(minutes=1)
                with contextlib.suppress(CommandError):
                    call("realtime_relay")
                row = Outbox.objects.get()
                self.assertEqual((row.attempts, row.failed_at), (2, None))
                later(minutes=2)
                self.gateway.override = lambda method, path, body: None
                self.assertEqual(call("realtime_relay"), "1 published, 0 errors\n")

    def test_several_relays_publish_each_event_once(self) -> None:
        self.emit_without_gateway(300)
        self.assertEqual(sum(self.relay_in_threads(4)), 300)
        self.assertEqual(len(self.gateway.publications), 300)
        self.assertFalse(Outbox.objects.exists())

    def test_several_relays_keep_the_order_of_a_key(self) -> None:
        self.emit_without_gateway(1)
        self.gateway.stop()
        for number in range(30):
            emit(f"step{number}", to=456, data={"number": number}, key="order")
        self.gateway.start()
        later(minutes=1)
        self.relay_in_threads(3)
        outbox.relay()
        steps = [event for event in self.gateway.publications if event["type"] != "paid"]
        self.assertEqual([event["data"]["number"] for event in steps], list(range(30)))

    def test_rows_of_a_relay_that_died_are_taken_by_another(self) -> None:
        self.emit_without_gateway(2)
        self.assertEqual(len(outbox._claim("default", None)), 2)
        self.assertEqual(outbox.relay().sent, 0)
        later(minutes=2)
        self.assertEqual(outbox.relay().sent, 2)

    def test_replay_tries_again_what_was_given_up(self) -> None:
        self.gateway.refuse = lambda event: (400, problem(400, "invalid_request"))
        for number in range(3):
            emit("paid", to=456, data={"number": number})
        ids = list(Outbox.objects.order_by("pk").values_list("pk", flat=True))
        self.assertEqual(call("realtime_replay", ids[0]), "0 published, 1 errors\n")
        self.assertEqual(Outbox.objects.exclude(failed_at=None).count(), 3)
        self.gateway.refuse = lambda event: None
        self.assertEqual(call("realtime_replay", ids[0]), "1 published, 0 errors\n")
        self.assertEqual(call("realtime_replay", "--all"), "2 published, 0 errors\n")
        with self.assertRaisesRegex(CommandError, "name ids"):
            call("realtime_replay")

    def test_old_ids_of_webhooks_are_deleted(self) -> None:
        for days in (0, 29, 31):
            Received.objects.create(
                webhook_id=str(days), type="chat.sent", received_at=timezone.now() - timedelta(days=days)
            )
        call("realtime_relay")
        self.assertEqual(sorted(Received.objects.values_list("pk", flat=True)), ["0", "29"])

    def test_a_relay_runs_until_it_is_stopped(self) -> None:
        with running("manage.py", "realtime_relay", "--forever", url=self.gateway.url, RELAY_AFTER=0) as relay:
            with vyzio(URL="http://127.0.0.1:9", RELAY_AFTER=0):
                for number in range(3):
                    emit("paid", to=456, data={"number": number})
            self.gateway.wait_for(456, 3)
            self.assertEqual(relay.stop(), 0)

    def test_a_relay_survives_a_lost_connection_to_its_database(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        looks: list[str] = []

        def look(database: str) -> outbox.Relayed:
            looks.append(database)
            if len(looks) == 1:
                raise InterfaceError("connection already closed")
            os.kill(os.getpid(), signal.SIGTERM)
            return outbox.Relayed()

        with mock.patch.object(outbox, "relay", look), mock.patch.object(outbox, "pause_after", lambda attempts: 0.0):
            with self.assertLogs("vyzio_realtime", "ERROR"):
                call("realtime_relay", "--forever")
        self.assertEqual(looks, ["default", "default"])

    def test_check_tells_what_is_wrong(self) -> None:
        output = call("realtime_check")
        self.assertIn("knows this key as shop, for events, chat, users, sessions", output)
        self.assertIn("outbox: 0 waiting", output)
        self.emit_without_gateway(1)
        later(hours=1)
        with self.assertRaisesRegex(CommandError, "Does realtime_relay run?"):
            call("realtime_check")
        self.gateway.signing_key_id = "0" * 16
        with self.assertRaisesRegex(CommandError, "another key"):
            call("realtime_check")
        with vyzio(URL=self.gateway.url, API_KEY="another key of 32 characters or more"):
            with self.assertRaisesRegex(CommandError, "gateway: unauthorized"):
                call("realtime_check")
        with vyzio(URL=""), self.assertRaisesRegex(CommandError, "E001"):
            call("realtime_check")
