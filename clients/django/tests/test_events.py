"""`emit`, `notify_now` and the outbox: what is sent, what stays, and in which order."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.test import SimpleTestCase, TransactionTestCase
from django.utils.functional import SimpleLazyObject
from gateway import problem
from support import GatewayMixin, later, vyzio

from vyzio_realtime_django import Refused, Unavailable, aemit, emit, notify_now, outbox
from vyzio_realtime_django.models import Outbox


def publish(type: str, number: int, **event: Any) -> str:
    return emit(type, to=456, data={"number": number}, **event)


class EventTests(GatewayMixin, TransactionTestCase):
    def numbers(self) -> list[int]:
        return [event["data"]["number"] for event in self.gateway.publications]

    def test_a_committed_event_is_sent_and_its_row_is_gone(self) -> None:
        user = User.objects.create(username="ada")
        with transaction.atomic():
            event_id = emit(
                "paid",
                to=[user, 457, 457],
                data={"at": datetime(2026, 1, 1, tzinfo=timezone.utc), "amount": Decimal("4.50")},
                key="payment-1",
                lang="en",
            )
            self.assertEqual(self.gateway.publications, [])
        self.assertEqual(event_id, "paid:payment-1")
        [event] = self.gateway.publications
        self.assertEqual(
            event,
            {
                "type": "paid",
                "event_id": "paid:payment-1",
                "user_ids": sorted([user.pk, 457]),
                "data": {"at": "2026-01-01T00:00:00Z", "amount": "4.50"},
                "lang": "en",
            },
        )
        self.assertFalse(Outbox.objects.exists())

    def test_the_user_of_a_request_is_notified(self) -> None:
        user = User.objects.create(username="ada")
        emit("paid", to=SimpleLazyObject(lambda: user))
        [event] = self.gateway.publications
        self.assertEqual(event["user_ids"], [user.pk])

    def test_a_rolled_back_event_is_not_sent(self) -> None:
        with self.assertRaises(RuntimeError), transaction.atomic():
            publish("paid", 1)
            raise RuntimeError
        with transaction.atomic():
            try:
                with transaction.atomic():
                    publish("paid", 2)
                    raise RuntimeError
            except RuntimeError:
                publish("paid", 3)
        self.assertEqual(outbox.relay().sent, 0)
        self.assertEqual(self.numbers(), [3])

    def test_an_event_without_the_gateway_is_sent_later_once(self) -> None:
        self.gateway.stop()
        with transaction.atomic():
            publish("paid", 1, key="1")
        row = Outbox.objects.get()
        self.assertEqual(row.attempts, 1)
        self.assertIn("ConnectionRefusedError", row.last_error)
        for _ in range(3):
            later(minutes=20)
            self.assertIsInstance(outbox.relay().error, Unavailable)
        self.assertEqual(Outbox.objects.get().attempts, 4)
        self.assertEqual(outbox.relay().errors, 0, "it has a pause now")
        self.gateway.start()
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 1)
        self.assertFalse(Outbox.objects.exists())
        self.assertEqual(self.numbers(), [1])

    def test_an_answer_that_is_lost_sends_the_same_id_again(self) -> None:
        self.gateway.stored = lambda event: self.gateway.stop()
        with transaction.atomic():
            publish("paid", 1)
        self.gateway.stored = lambda event: None
        self.gateway.start()
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 1)
        self.assertEqual(self.numbers(), [1, 1])
        self.assertEqual(len(self.gateway.events), 1, "both have one event_id")

    def test_a_refused_event_stays_with_its_error(self) -> None:
        self.gateway.refuse = lambda event: (400, problem(400, "invalid_request"))
        with transaction.atomic():
            publish("paid", 1)
        row = Outbox.objects.get()
        self.assertIsNotNone(row.failed_at)
        self.assertEqual(row.last_error, "invalid_request: a invalid_request of the tests")
        later(days=1)
        self.assertEqual(outbox.relay().errors, 0, "the relay does not try it again")

    def test_a_wrong_key_can_be_corrected(self) -> None:
        with vyzio(URL=self.gateway.url, API_KEY="wrong"), transaction.atomic():
            publish("paid", 1)
        row = Outbox.objects.get()
        self.assertIsNone(row.failed_at)
        self.assertIn("unauthorized", row.last_error)
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 1)

    def test_the_relay_gives_up_an_event_after_some_days(self) -> None:
        self.gateway.stop()
        publish("paid", 1)
        later(days=8)
        outbox.relay()
        self.assertIsNotNone(Outbox.objects.get().failed_at)

    def test_the_relay_leaves_new_rows_to_their_process(self) -> None:
        Outbox.objects.all().delete()
        with transaction.atomic():
            publish("paid", 1)
            self.assertEqual(outbox.relay().sent, 0)
        self.assertEqual(self.numbers(), [1])

    def test_events_of_one_key_keep_their_order(self) -> None:
        failing = {1}

        def refuse(event: dict[str, Any]) -> Any:
            return (503, problem(503, "unavailable")) if event["data"]["number"] in failing else None

        self.gateway.refuse = refuse
        for number in range(1, 6):
            with transaction.atomic():
                # Another key is not held up.
                publish(f"step{number}", number, key="order-2" if number == 3 else "order-1")
            outbox._pause.succeeded()
        self.assertEqual(self.numbers(), [3])
        later(minutes=1)
        outbox.relay()
        self.assertEqual(self.numbers(), [3], "the first one fails still")
        failing.clear()
        later(minutes=2)
        self.assertEqual(outbox.relay().sent, 4)
        self.assertEqual(self.numbers(), [3, 1, 2, 4, 5])

    def test_an_event_that_was_given_up_holds_up_nothing(self) -> None:
        self.gateway.refuse = lambda event: (400, problem(400, "x")) if event["data"]["number"] == 1 else None
        publish("step1", 1, key="order")
        publish("step2", 2, key="order")
        self.assertEqual(self.numbers(), [2])

    def test_the_relay_sends_batches(self) -> None:
        self.gateway.stop()
        with transaction.atomic():
            for number in range(250):
                publish("paid", number)
        self.gateway.start()
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 250)
        self.assertEqual(self.numbers(), list(range(250)))
        self.assertEqual([len(body) for _, _, body in self.gateway.requests], [100, 100, 50])

    def test_large_events_make_smaller_batches(self) -> None:
        self.gateway.stop()
        with transaction.atomic():
            for number in range(20):
                emit("paid", to=456, data={"number": number, "text": "x" * 60_000})
        self.gateway.start()
        later(minutes=1)
        self.assertEqual(outbox.relay().sent, 20)
        self.assertEqual([len(body) for _, _, body in self.gateway.requests], [13, 7])

    def test_one_event_does_not_spoil_a_batch(self) -> None:
        self.gateway.stop()
        with transaction.atomic():
            for number in range(4):
                publish("paid", number)
        self.gateway.start()
        later(minutes=1)
        self.gateway.override = lambda method, path, body: (
            (400, problem(400, "invalid_json")) if any(event["data"]["number"] == 2 for event in body) else None
        )
        done = outbox.relay()
        self.assertEqual((done.sent, done.errors), (3, 1))
        self.assertIsNotNone(Outbox.objects.get().failed_at)

    def test_a_gateway_that_hangs_is_asked_once_in_a_request(self) -> None:
        # Both an answer that never comes and one that never ends.
        for status in (0, 299):
            with self.subTest(status=status):
                outbox._pause.succeeded()
                self.gateway.requests.clear()
                self.gateway.override = lambda method, path, body: self.hang(status)
                with vyzio(URL=self.gateway.url, TIMEOUT=0.2):
                    self.assertEqual(self.client.get("/several/456/").status_code, 200)
                self.assertLessEqual(len(self.gateway.requests), 1)
                self.release()
        self.assertEqual(Outbox.objects.count(), 10)

    def hang(self, status: int) -> Any:
        if status == 0:
            self.waiting.wait()
        return status, {}

    def release(self) -> None:
        self.waiting.set()

    def setUp(self) -> None:
        super().setUp()
        self.waiting = threading.Event()
        self.addCleanup(self.waiting.set)

    def test_a_slow_gateway_takes_no_more_than_the_time_of_a_request(self) -> None:
        # Each answer takes half of the time.
        def pause(event: dict[str, Any]) -> None:
            self.waiting.wait(0.5)

        self.gateway.stored = pause
        with vyzio(URL=self.gateway.url, TIMEOUT=1.0):
            self.client.get("/several/456/")
        self.assertLess(len(self.gateway.publications), 3)
        self.assertGreater(Outbox.objects.count(), 2)

    def test_notify_now_raises(self) -> None:
        with transaction.atomic():
            notify_now("paid", to=456, key="1")
            self.assertEqual(len(self.gateway.publications), 1, "not after the commit")
        self.gateway.refuse = lambda event: (400, problem(400, "invalid_request"))
        with self.assertRaises(Refused) as raised:
            notify_now("paid", to=456)
        self.assertEqual((raised.exception.code, raised.exception.status), ("invalid_request", 400))
        self.gateway.stop()
        with self.assertRaises(Unavailable):
            notify_now("paid", to=456)

    def test_an_idle_connection_that_the_server_closed_is_replaced(self) -> None:
        notify_now("paid", to=456)
        self.gateway.close_connections()
        notify_now("paid", to=456)
        self.assertEqual(len(self.gateway.events), 2)

    def test_one_connection_serves_many_events(self) -> None:
        for _ in range(5):
            notify_now("paid", to=456, data={"process": 1})
        self.assertEqual(len(self.gateway.processes), 1)

    async def test_asynchronous_code_emits(self) -> None:
        await aemit("paid", to=456, data={"number": 1})
        self.assertEqual(self.numbers(), [1])

    def test_an_event_of_the_greatest_size_is_published(self) -> None:
        emit("x" * 128, to=456, data={"text": "x" * (63 * 1024 - 120)})
        self.assertEqual(len(self.gateway.events), 1)
        self.assertLess(len(json.dumps(self.gateway.publications[0])), 64 * 1024)

    def test_an_event_outside_a_transaction_logs_a_warning_once(self) -> None:
        outbox._warned = False
        with self.assertLogs("vyzio_realtime", "WARNING") as logs:
            publish("paid", 1)
            publish("paid", 2)
        self.assertEqual(len([line for line in logs.output if "vyzio.W001" in line]), 1)


class InvalidEventTests(SimpleTestCase):
    def test_an_invalid_event_is_a_clear_error(self) -> None:
        class Anything:
            pass

        invalid: list[tuple[dict[str, Any], str]] = [
            ({"type": "a b"}, "letters, digits"),
            ({"type": "x" * 129}, "at most 128"),
            ({"type": "read"}, "reserved"),
            ({"type": "seen"}, "reserved"),
            ({"to": []}, "1 to 1000 users"),
            ({"to": range(1, 1002)}, "1 to 1000 users"),
            ({"to": "456"}, "a user's id"),
            ({"to": True}, "a user's id"),
            ({"to": 0}, "a user's id"),
            ({"to": None}, "a user's id"),
            ({"to": User(username="unsaved")}, "a user's id"),
            ({"data": [1]}, "a dict"),
            ({"data": {"x": Anything()}}, "no JSON"),
            ({"data": {"x": float("nan")}}, "JSON"),
            ({"data": {"x": "é" * 40_000}}, "63 KiB"),
            ({"key": "x" * 256}, "255 bytes"),
            ({"data": {"x": ["\0"]}}, "NUL"),
            ({"title": "\ud83d"}, "surrogate"),
            ({"key": "\0"}, "NUL"),
        ]
        for change, text in invalid:
            with self.subTest(change=change), self.assertRaisesRegex(ValueError, text):
                emit(**{"type": "paid", "to": 456, **change})
