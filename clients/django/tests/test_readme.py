"""Runs the snippets of README.md as one program, in a site with a model of payments."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib.auth.models import User
from django.core import mail
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.test import RequestFactory, TestCase, override_settings
from django.urls import path
from support import vyzio

from shop.models import Payment
from vyzio_realtime_django import Unavailable, testing
from vyzio_realtime_django.conf import Settings
from vyzio_realtime_django.signals import message_reported, reminder_due

SNIPPET = re.compile(r"<!-- snippet -->\n```python\n(.*?)```", re.S)
urlpatterns: list[Any] = []
REPORT = {"report_id": 5, "reporter_id": 457, "user_id": 456, "message": None, "reason": "rude"}


class Payments:
    """`Payment` with the amount of the README."""

    class objects:
        @staticmethod
        def create(user_id: int, amount: int) -> Payment:
            return Payment.objects.create(user_id=user_id)


@vyzio(BACKEND="vyzio_realtime_django.backends.locmem.Backend")
class ReadmeTests(testing.RealtimeMixin, TestCase):
    def test_the_snippets_work(self) -> None:
        readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
        ada, ben = (User.objects.create(username=name, email=f"{name}@shop.example") for name in ("ada", "ben"))
        world: dict[str, Any] = {
            "__name__": "readme",
            "INSTALLED_APPS": [],
            "urlpatterns": urlpatterns,
            "buyer": ada,
            "seller": ben,
            "Payment": Payments,
            "User": User,
            "JsonResponse": JsonResponse,
        }
        snippets = SNIPPET.findall(readme)
        environment = {
            "VYZIO_KEY": "x" * 32,
            "JWT_SECRET": "y" * 32,
            "VYZIO_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        }
        with mock.patch.dict(os.environ, environment):
            for snippet in snippets:
                exec(compile(snippet, "README.md", "exec"), world)
        self.assertEqual(len(snippets), 7)
        Settings(**world["VYZIO"])
        self.assertEqual(
            [subject for subject, _ in testing.calls],
            [
                "chat.conversations.create",
                "chat.messages.send",
                "chat.messages.update",
                "chat.messages.remove",
                "sessions.revoke",
            ],
        )

        with override_settings(MANAGERS=[("mod", "mod@shop.example")]):
            message_reported.send(sender=None, data=REPORT, event_id="1", timestamp=None)
        message_reported.disconnect(world["tell_moderators"])
        self.assertEqual([sent.body for sent in mail.outbox], ["rude"])
        mail.outbox.clear()

        gone = ada.pk + 1000
        for user_id, step in ((ada.pk, "push"), (ada.pk, "mail"), (gone, "mail")):
            data = {"user_id": user_id, "step": step, "items": [{"message": "ben a envoyé un message"}]}
            reminder_due.send(sender=None, data=data, event_id="1", timestamp=None)
        reminder_due.disconnect(world["send_reminder"])
        [sent] = mail.outbox
        self.assertEqual((sent.to, sent.body), ([ada.email], "ben a envoyé un message"))
        token = sent.extra_headers["List-Unsubscribe"].split("/")[-2]
        for method in ("get", "post"):
            request = getattr(RequestFactory(), method)("/")
            self.assertEqual(world["unsubscribe"](request, token).status_code, 200)
        off = {"user_id": ada.pk, "types": {"*": {"mail": False}}}
        calls = [("notify.preferences.get", {"user_id": ada.pk}), ("notify.preferences.set", off)]
        self.assertEqual(testing.calls[5:], calls, "only the POST changes something")
        with self.assertRaises(Http404):
            world["unsubscribe"](RequestFactory().post("/"), token[:-1] + ("a" if token[-1] != "a" else "b"))
        testing.fail_next(Unavailable("away"))
        self.assertEqual(world["unsubscribe"](RequestFactory().post("/"), token).status_code, 503)

        # The test of the README, with its view.
        def pay(request: HttpRequest, user_id: int, amount: int) -> HttpResponse:
            response: HttpResponse = world["pay"](request, user_id, amount)
            return response

        urlpatterns.append(path("pay/<int:user_id>/<int:amount>/", pay))
        with self.settings(ROOT_URLCONF="test_readme"):
            test = world["PaymentTests"]("test_a_payment_notifies_its_user")
            test.setUp()
            test.client = self.client
            test.test_a_payment_notifies_its_user()
