"""Tokens, hooks, checks, the admin, the template tag, the test helper, Channels and the export."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import tempfile
import unittest
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import jwt
from django.contrib.auth import authenticate
from django.contrib.auth.models import AnonymousUser, User
from django.core import checks as django_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.urls import reverse
from gateway import problem
from support import GatewayMixin, later, vyzio

from shop.models import Conversation, Message
from vyzio_realtime_django import Refused, emit, messages, notify_now, preferences, sessions, testing, token_for, users
from vyzio_realtime_django.backends import locmem
from vyzio_realtime_django.conf import settings
from vyzio_realtime_django.models import Outbox
from vyzio_realtime_django.tokens import signing_key_id

KEY = "the key that signs tokens, at least 32 characters"
LOCMEM = "vyzio_realtime_django.backends.locmem.Backend"
HAS_SIMPLEJWT = importlib.util.find_spec("rest_framework_simplejwt") is not None
HAS_CRYPTOGRAPHY = importlib.util.find_spec("cryptography") is not None
HAS_CHANNELS = importlib.util.find_spec("channels") is not None


class TokenTests(TestCase):
    def setUp(self) -> None:
        self.ada = User.objects.create_user("ada", password="secret")

    def test_the_endpoint_gives_a_token_to_the_user_of_the_session(self) -> None:
        response = self.client.get("/realtime/token/")
        self.assertEqual(response.status_code, 401)
        self.assertIn("no-store", response["Cache-Control"])
        self.client.force_login(self.ada)
        response = self.client.get("/realtime/token/")
        self.assertIn("no-store", response["Cache-Control"])
        claims = jwt.decode(response.json()["token"], KEY, algorithms=["HS256"])
        self.assertEqual((claims["user_id"], claims["username"]), (self.ada.pk, "ada"))
        self.assertEqual((claims["exp"] - claims["iat"], claims["token_type"]), (300, "access"))
        self.assertEqual(self.client.post("/realtime/token/").status_code, 405)

    def test_a_token_has_the_issuer_and_audience_of_the_settings(self) -> None:
        with vyzio(ISSUER="shop", AUDIENCE="realtime", TOKEN_SECONDS=60):
            claims = jwt.decode(token_for(self.ada), KEY, algorithms=["HS256"], audience="realtime", issuer="shop")
        self.assertEqual(claims["exp"] - claims["iat"], 60)

    @unittest.skipUnless(HAS_SIMPLEJWT, "djangorestframework-simplejwt is not installed")
    def test_simplejwt_signs_if_there_is_no_key(self) -> None:
        with (
            vyzio(SIGNING_KEY=""),
            override_settings(SIMPLE_JWT={"SIGNING_KEY": "simplejwt's own key of 32 characters"}),
        ):
            claims = jwt.decode(token_for(self.ada), "simplejwt's own key of 32 characters", algorithms=["HS256"])
            of_simplejwt = signing_key_id()
        self.assertEqual((str(claims["user_id"]), claims["username"]), (str(self.ada.pk), "ada"))
        with vyzio(SIGNING_KEY="simplejwt's own key of 32 characters"):
            self.assertEqual(signing_key_id(), of_simplejwt)

    @unittest.skipIf(HAS_SIMPLEJWT, "djangorestframework-simplejwt is installed")
    def test_without_a_key_the_error_is_clear(self) -> None:
        with vyzio(SIGNING_KEY=""), self.assertRaisesRegex(ImproperlyConfigured, "SIGNING_KEY"):
            token_for(self.ada)

    def test_nobody_gets_no_token(self) -> None:
        for nobody in (AnonymousUser(), User(username="unsaved")):
            with self.assertRaises(ValueError):
                token_for(nobody)  # type: ignore[arg-type]

    @unittest.skipUnless(HAS_CRYPTOGRAPHY, "cryptography is not installed")
    def test_an_asymmetric_key_has_the_id_of_its_public_key(self) -> None:
        import base64
        import hashlib

        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        der = base64.b64decode("".join(public.splitlines()[1:-1]))
        with vyzio(SIGNING_KEY=private, ALGORITHM="ES256"):
            self.assertEqual(signing_key_id(), hashlib.sha256(der).hexdigest()[:16])
            jwt.decode(token_for(self.ada), public, algorithms=["ES256"])

    def test_the_command_prints_a_token(self) -> None:
        for name in ("ada", str(self.ada.pk)):
            output = io.StringIO()
            call_command("realtime_token", name, stdout=output)
            self.assertEqual(jwt.decode(output.getvalue().strip(), KEY, algorithms=["HS256"])["user_id"], self.ada.pk)
        with self.assertRaisesRegex(CommandError, "no user ben"):
            call_command("realtime_token", "ben")


class HookTests(GatewayMixin, TransactionTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.ada = User.objects.create_user("ada", password="secret")
        self.revoked = ("POST", "/backend/sessions/revoke", {"user_id": self.ada.pk})

    def test_a_logout_revokes(self) -> None:
        self.client.force_login(self.ada)
        self.client.logout()
        self.assertEqual(self.gateway.requests, [self.revoked])
        self.client.logout()
        self.assertEqual(len(self.gateway.requests), 1, "nobody was signed in")

    def test_a_revocation_is_not_lost_without_the_gateway(self) -> None:
        self.gateway.stop()
        self.client.force_login(self.ada)
        self.client.logout()
        self.gateway.start()
        later(minutes=1)
        call_command("realtime_relay", stdout=io.StringIO())
        self.assertEqual(self.gateway.requests, [self.revoked])

    def test_a_new_password_revokes(self) -> None:
        self.ada.set_password("another")
        self.assertEqual(self.gateway.requests, [])
        self.ada.save()
        self.assertEqual(self.gateway.requests, [self.revoked])
        self.ada.save()
        self.ada.first_name = "Ada"
        self.ada.save(update_fields=["first_name"])
        self.assertEqual(len(self.gateway.requests), 1)

    def test_a_rehash_of_the_old_password_does_not_revoke(self) -> None:
        hashers = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", "django.contrib.auth.hashers.MD5PasswordHasher"]
        with override_settings(PASSWORD_HASHERS=hashers):
            self.assertEqual(authenticate(username="ada", password="secret"), self.ada)
        self.ada.refresh_from_db()
        self.assertTrue(self.ada.password.startswith("pbkdf2"))
        self.assertEqual(self.gateway.requests, [])

    def test_a_deletion_erases_if_the_site_wants_it(self) -> None:
        ben = User.objects.create(username="ben")
        ben.delete()
        self.assertEqual(self.gateway.requests, [])
        number = self.ada.pk
        with vyzio(URL=self.gateway.url, ERASE_ON_USER_DELETION=True):
            self.ada.delete()
        self.assertEqual(self.gateway.requests, [("POST", f"/backend/users/{number}/erase", {})])

    def test_hooks_can_be_off(self) -> None:
        with vyzio(URL=self.gateway.url, REVOKE_ON_LOGOUT=False, REVOKE_ON_PASSWORD_CHANGE=False):
            self.client.force_login(self.ada)
            self.client.logout()
            self.ada.set_password("another")
            self.ada.save()
        self.assertEqual(self.gateway.requests, [])


class CheckTests(GatewayMixin, SimpleTestCase):
    def ids(self, deploy: bool = False, **entries: Any) -> list[str]:
        with vyzio(**{"URL": self.gateway.url, **entries}):
            found = django_checks.run_checks(tags=["vyzio_realtime"], include_deployment_checks=deploy)
        return sorted(str(message.id) for message in found)

    def test_each_check_finds_its_mistake(self) -> None:
        self.assertEqual(self.ids(), [])
        self.assertEqual(self.ids(URL=""), ["vyzio.E001"])
        for url in ("gateway:8000", "http://gateway:port", "http://gateway:80000", "http://[::1"):
            self.assertEqual(self.ids(URL=url), ["vyzio.E001"], url)
        self.assertEqual(self.ids(API_KEY="short"), ["vyzio.E002"])
        self.assertEqual(self.ids(URL="", API_KEY="", BACKEND=LOCMEM), [])
        self.assertEqual(self.ids(WEBHOOK_SECRETS="typo"), ["vyzio.E003"])
        self.assertEqual(self.ids(WEBHOOK_SECRET="whsec_no base64"), ["vyzio.E003"])
        self.assertEqual(self.ids(WEBHOOK_SECRET=["whsec_é", "whsec_c2hvcnQ="]), ["vyzio.E003", "vyzio.E003"])

    def test_users_need_ids_that_are_integers(self) -> None:
        with override_settings(AUTH_USER_MODEL="sessions.Session"):
            self.assertEqual(self.ids(), ["vyzio.E004"])

    def test_checks_of_a_deployment_ask_the_gateway(self) -> None:
        self.assertEqual(self.gateway.requests, [])
        self.gateway.signing_key_id = signing_key_id()
        self.assertEqual(self.ids(deploy=True), ["vyzio.W001"])
        self.gateway.signing_key_id = "0" * 16
        self.assertEqual(self.ids(deploy=True), ["vyzio.W001", "vyzio.W002"])
        self.gateway.stop()
        self.assertEqual(self.ids(deploy=True), ["vyzio.W001", "vyzio.W002"])

    def test_an_unknown_entry_is_an_error_at_its_first_use(self) -> None:
        with vyzio(TIMEOUTS=1), self.assertRaisesRegex(ImproperlyConfigured, "TIMEOUTS"):
            settings()


class AdminTests(GatewayMixin, TransactionTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.force_login(User.objects.create_superuser("root"))
        self.gateway.refuse = lambda event: (400, problem(400, "invalid_request"))
        for number in range(3):
            emit("paid", to=456, data={"number": number})
        self.list = reverse("admin:vyzio_realtime_outbox_changelist")

    def test_the_outbox_shows_age_and_error(self) -> None:
        later(hours=2)
        response = self.client.get(self.list)
        self.assertContains(response, "of the tests", count=3)
        self.assertContains(response, "2\xa0hours")
        self.assertContains(response, "given up")
        self.assertNotContains(self.client.get(self.list + "?state=waiting"), "invalid_request")
        row = Outbox.objects.earliest("pk")
        response = self.client.get(reverse("admin:vyzio_realtime_outbox_change", args=[row.pk]))
        self.assertEqual(response.status_code, 200)
        self.assertEqual(self.client.get(reverse("admin:vyzio_realtime_outbox_add")).status_code, 403)
        self.assertEqual(self.client.get(reverse("admin:vyzio_realtime_received_changelist")).status_code, 200)

    def test_publish_now_tries_again(self) -> None:
        self.gateway.refuse = lambda event: None
        ids = list(Outbox.objects.order_by("pk").values_list("pk", flat=True))[:2]
        response = self.client.post(self.list, {"action": "publish_now", "_selected_action": ids}, follow=True)
        self.assertContains(response, "2 of 2 published")
        self.assertEqual(Outbox.objects.count(), 1)
        self.gateway.stop()
        response = self.client.post(
            self.list, {"action": "publish_now", "_selected_action": [Outbox.objects.get().pk]}, follow=True
        )
        self.assertContains(response, "0 of 1 published: ConnectionRefusedError")


class TemplateTests(TestCase):
    def values(self) -> Any:
        text = self.client.get("/page/").content.decode()
        start = '<script id="vyzio-realtime" type="application/json">'
        self.assertIn(start, text)
        return json.loads(text.split(start)[1].split("</script>")[0])

    def test_a_page_has_what_the_client_needs(self) -> None:
        values = self.values()
        self.assertEqual(
            values,
            {
                "url": "https://rt.shop.example",
                "client": "https://rt.shop.example/client/realtime.js",
                "token": "/realtime/token/",
                "user": None,
            },
        )
        ada = User.objects.create(username="</script>")
        self.client.force_login(ada)
        self.assertEqual(self.values()["user"], {"id": ada.pk, "username": "</script>"})


@vyzio(BACKEND=LOCMEM, URL="", API_KEY="")
class TestingTests(testing.RealtimeMixin, TestCase):
    def test_events_are_sent_after_the_commit(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            emit("paid", to=456)
        self.assertEqual((len(callbacks), len(testing.sent)), (1, 0))
        with self.captureOnCommitCallbacks(execute=True):
            emit("paid", to=[457, 456], data={"payment_id": 1}, key="1")
            self.assertEqual(testing.sent, [])
        [event] = testing.sent
        self.assertEqual((event.type, event.to, event.data), ("paid", [456, 457], {"payment_id": 1}))
        self.assertEqual(testing.sent[0].body["event_id"], "paid:1")

    def test_each_test_starts_with_nothing_sent(self) -> None:
        self.assertEqual(len(testing.sent), 0)
        notify_now("paid", to=456)
        self.assertEqual(len(testing.sent), 1)

    def test_requests_are_kept_and_can_fail(self) -> None:
        sent = messages.send(123, 456, "Bonjour", client_id="1")
        self.assertIsInstance(sent["message_id"], int)
        sessions.revoke(456)
        self.assertEqual([subject for subject, _ in testing.calls], ["chat.messages.send", "sessions.revoke"])
        quiet = {"from": "22:00", "to": "08:00", "tz": "Europe/Paris"}
        self.assertIsInstance(users.erase(457)["erasure_id"], int)
        changed = preferences.set(456, types={"*": {"mail": False}}, quiet=quiet)
        self.assertEqual(changed, {"types": {"*": {"mail": False}}, "quiet": quiet, "defaults": {}, "mandatory": []})
        testing.fail_next(Refused(403, "blocked"))
        with self.assertRaises(Refused):
            messages.send(123, 456, "Bonjour")
        self.assertEqual(len(testing.calls), 4)


@unittest.skipUnless(HAS_CHANNELS, "channels is not installed")
@vyzio(BACKEND=LOCMEM, ALSO_CHANNELS=True)
class ChannelsTests(testing.RealtimeMixin, TransactionTestCase):
    LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    def test_the_old_pages_receive_each_event_too(self) -> None:
        from asgiref.sync import async_to_sync
        from channels.layers import get_channel_layer

        with override_settings(CHANNEL_LAYERS=self.LAYERS):
            layer = get_channel_layer()
            async_to_sync(layer.group_add)("notifications_456", "page")
            emit("paid", to=[456, 457], data={"payment_id": 1}, title="Payé", message="Merci")
            received = async_to_sync(layer.receive)("page")
        self.assertEqual(
            received,
            {
                "type": "notify",
                "event": "paid",
                "title": "Payé",
                "message": "Merci",
                "data": {"payment_id": 1},
            },
        )
        self.assertEqual(len(testing.sent), 1)

    def test_a_layer_that_fails_costs_nothing(self) -> None:
        with override_settings(CHANNEL_LAYERS={}):
            emit("paid", to=456)
            notify_now("paid", to=456)
        with override_settings(CHANNEL_LAYERS=self.LAYERS), vyzio(BACKEND=LOCMEM, ALSO_CHANNELS=True, TIMEOUT=2):
            with mock.patch("channels.layers.InMemoryChannelLayer.group_send", hang):
                emit("paid", to=456)
        self.assertEqual(len(testing.sent), 3)
        self.assertFalse(Outbox.objects.exists())

    def test_a_layer_that_hangs_and_a_gateway_take_no_more_than_the_timeout_together(self) -> None:
        with override_settings(CHANNEL_LAYERS=self.LAYERS), vyzio(BACKEND=LOCMEM, ALSO_CHANNELS=True, TIMEOUT=0.4):
            with mock.patch("channels.layers.InMemoryChannelLayer.group_send", hang):
                with mock.patch.object(locmem.Backend, "publish", return_value=[None]) as publish:
                    notify_now("paid", to=456)
        [_, timeout] = publish.call_args.args
        self.assertLess(timeout, 0.21)


async def hang(*args: Any) -> None:
    import asyncio

    await asyncio.Event().wait()


class ExportTests(TransactionTestCase):
    def read(self, folder: str, name: str) -> list[dict[str, str]]:
        with (Path(folder) / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_the_files_have_what_the_import_reads(self) -> None:
        ada, ben = User.objects.create(username="ada"), User.objects.create(username='ben, "b"')
        at = datetime(2026, 1, 1, tzinfo=timezone.utc)
        conversation = Conversation.objects.create(listing_id=12, title="Vélo", created_at=at)
        conversation.participants.add(ada, ben)
        Conversation.objects.create(created_at=at)  # Nobody is in it.
        texts = [
            (ada, 'Bonjour,\n"vous"', True),
            (ben, "Oui", False),
            (ada, "", True),
            (ada, "?", True),
            (ada, "!", False),
        ]
        sent = [
            Message.objects.create(conversation=conversation, sender=sender, content=text, is_read=read, created_at=at)
            for sender, text, read in texts
        ]
        export = {"CONVERSATION": "shop.Conversation", "MESSAGE": "shop.Message"}
        with tempfile.TemporaryDirectory() as folder, vyzio(EXPORT=export):
            call_command("realtime_export", folder, stdout=io.StringIO())
            conversations = self.read(folder, "conversations.csv")
            participants = self.read(folder, "participants.csv")
            exported = self.read(folder, "messages.csv")
        number = str(conversation.pk)
        self.assertEqual(
            conversations,
            [
                {
                    "conversation_id": number,
                    "listing_id": "12",
                    "title": "Vélo",
                    "created_at": "2026-01-01T00:00:00+00:00",
                }
            ],
        )
        self.assertEqual(
            participants,
            [
                {"conversation_id": number, "user_id": str(ada.pk), "username": "ada", "read_message_id": ""},
                {
                    "conversation_id": number,
                    "user_id": str(ben.pk),
                    "username": 'ben, "b"',
                    "read_message_id": str(sent[3].pk),
                },
            ],
        )
        self.assertEqual(
            [(row["message_id"], row["sender_id"], row["content"]) for row in exported],
            [(str(message.pk), str(message.sender.pk), message.content) for message in sent if message.content],
        )

    def test_wrong_names_are_a_clear_error(self) -> None:
        export = {"CONVERSATION": "shop.Conversation", "MESSAGE": "shop.Message"}
        for entries, text in (
            ({}, "CONVERSATION"),
            ({**export, "MESSAGE": "shop.Letter"}, "Letter"),
            ({**export, "FIELDS": {"participants": "people"}}, "people"),
            ({**export, "FIELDS": {"participants": "title"}}, "title|m2m"),
        ):
            with self.subTest(entries=entries), vyzio(EXPORT=entries), self.assertRaisesRegex(CommandError, text):
                call_command("realtime_export", tempfile.gettempdir())
