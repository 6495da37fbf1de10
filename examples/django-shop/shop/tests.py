"""Webhooks, preferences and offers: `python manage.py test`, without a gateway."""

import base64
import hashlib
import hmac
import json
import os
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.cache import cache
from django.core.mail.backends.locmem import EmailBackend
from django.test import Client, TestCase, TransactionTestCase, override_settings
from vyzio_realtime_django import Unavailable, outbox, preferences, testing
from vyzio_realtime_django.models import Outbox

from . import push
from .models import Conversation, Listing, Offer, PushSubscription

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VYZIO = {"BACKEND": "vyzio_realtime_django.backends.locmem.Backend", "WEBHOOK_SECRET": SECRET}


def unpadded(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@override_settings(VYZIO=VYZIO)
class WebhookTestCase(testing.RealtimeMixin, TestCase):
    def setUp(self):
        super().setUp()
        cache.clear()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        changed = override_settings(VAPID_KEY_FILE=f"{folder.name}/vapid.pem")
        changed.enable()
        self.addCleanup(changed.disable)
        push.key.cache_clear()
        self.addCleanup(push.key.cache_clear)
        self.ada = get_user_model().objects.create_user("ada", "ada@shop.example")

    def deliver(self, kind, data, client=None):
        """Posts a webhook as notify-service does, and returns the status."""
        body = json.dumps({"type": kind, "timestamp": "2026-01-01T00:00:00Z", "data": data})
        now = str(int(time.time()))
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        digest = hmac.new(key, f"{data['event_id']}.{now}.{body}".encode(), hashlib.sha256).digest()
        headers = {
            "HTTP_WEBHOOK_ID": data["event_id"],
            "HTTP_WEBHOOK_TIMESTAMP": now,
            "HTTP_WEBHOOK_SIGNATURE": "v1," + base64.b64encode(digest).decode(),
        }
        client = client or Client(raise_request_exception=False)
        return client.post("/realtime/webhook/", body, content_type="application/json", **headers).status_code

    def remind(self, step="mail", number=1, message="ben a envoyé un message"):
        item = {
            "type": "message_received",
            "notification_id": number,
            "title": "Nouveau message",
            "message": message,
            "data": {"conversation_id": 123, "message_id": 987, "count": 3},
            "since": "2026-01-01T00:00:00Z",
        }
        event_id = f"reminder-{step}-{self.ada.pk}-{number}"
        data = {"event_id": event_id, "occurred_at": "2026-01-01T00:00:00Z", "step": step, "user_id": self.ada.pk}
        data |= {"lang": "fr", "present": False, "items": [item], "more": 0, "unread": {"notifications": 4}}
        return self.deliver("notify.reminder", data)


class MailTests(WebhookTestCase):
    def unsubscribe_link(self):
        [sent] = mail.outbox
        self.assertEqual(sent.extra_headers["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click")
        return sent.extra_headers["List-Unsubscribe"].strip("<>").removeprefix(settings.SITE_URL)

    def test_a_reminder_that_comes_three_times_is_one_mail(self):
        self.assertEqual([self.remind() for _ in range(3)], [204, 204, 204])
        [sent] = mail.outbox
        self.assertEqual((sent.to, sent.subject), (["ada@shop.example"], "ben a envoyé un message"))
        self.assertIn(f"{settings.SITE_URL}/messages/123/", sent.body)
        self.assertEqual(sent.alternatives[0][1], "text/html")

    def test_a_mail_server_that_is_away_gets_the_mail_later(self):
        with mock.patch.object(EmailBackend, "send_messages", side_effect=OSError("away")):
            self.assertEqual(self.remind(), 500)
        self.assertEqual(self.remind(), 204)
        self.assertEqual(len(mail.outbox), 1)

    def test_one_click_ends_the_mails_and_a_scanner_of_links_does_not(self):
        self.remind()
        link = self.unsubscribe_link()
        client = Client(enforce_csrf_checks=True)
        self.assertEqual(client.get(link).status_code, 200)
        self.assertEqual(testing.calls, [])
        self.assertEqual(client.post(link, {"List-Unsubscribe": "One-Click"}).status_code, 200)
        changes = {"user_id": self.ada.pk, "types": {"*": {"mail": False}}}
        self.assertEqual(testing.calls[-1], ("notify.preferences.set", changes))
        self.assertEqual(client.post("/unsubscribe/forged/").status_code, 404)

    def test_an_unsubscription_that_fails_says_so(self):
        self.remind()
        testing.fail_next(Unavailable("away"))
        self.assertEqual(Client().post(self.unsubscribe_link()).status_code, 503)

    def test_nothing_is_stored_about_a_user_who_was_deleted(self):
        self.remind()
        link = self.unsubscribe_link()
        self.ada.delete()
        calls = list(testing.calls)
        self.assertEqual(Client().post(link).status_code, 200)
        self.assertEqual(testing.calls, calls)

    def test_a_subject_is_one_short_line(self):
        self.assertEqual(self.remind(message="Un\nDeux\r\n" + "Trois " * 50), 204)
        [sent] = mail.outbox
        self.assertTrue(sent.subject.startswith("Un Deux Trois Trois"))
        self.assertEqual(len(sent.subject), 150)

    def test_a_user_who_is_gone_gets_nothing(self):
        self.ada.is_active = False
        self.ada.save()
        self.assertEqual(self.remind(), 204)
        self.assertEqual(mail.outbox, [])


class PushService:
    """A push service and a browser: what it receives, decrypted with the browser's keys."""

    def __init__(self, test):
        self.status = 201
        self.received = []
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.secret = os.urandom(16)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                text = http_ece.decrypt(content, private_key=service.private, auth_secret=service.secret)
                service.received.append((json.loads(text), self.headers["Authorization"]))
                self.send_response(service.status)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        test.addCleanup(server.server_close)
        test.addCleanup(server.shutdown)
        point = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.endpoint = f"http://127.0.0.1:{server.server_port}/push/1"
        self.keys = {"p256dh": unpadded(point), "auth": unpadded(self.secret)}


class PushTests(WebhookTestCase):
    def setUp(self):
        super().setUp()
        self.service = PushService(self)
        PushSubscription.objects.create(user=self.ada, endpoint=self.service.endpoint, **self.service.keys)

    def test_a_reminder_is_shown_and_removed_once_it_is_read(self):
        self.assertEqual(self.remind("push"), 204)
        event_id = f"reminder-push-{self.ada.pk}-1"
        settled = {"event_id": f"settled-push-{self.ada.pk}-1", "reminders": [event_id], "user_id": self.ada.pk}
        self.assertEqual(self.deliver("notify.settled", settled), 204)
        (shown, authorization), (closed, _) = self.service.received
        link = f"{settings.SITE_URL}/messages/123/"
        texts = {"title": "Nouveau message", "body": "ben a envoyé un message"}
        self.assertEqual(shown, {"show": {"tag": event_id, "link": link, **texts}})
        self.assertEqual(closed, {"close": [event_id]})
        self.assertTrue(authorization.startswith("vapid t="))
        self.assertIn(push.public_key(), authorization)
        self.assertEqual(mail.outbox, [])

    def test_a_reminder_that_comes_after_it_was_settled_is_not_shown(self):
        event_id = f"reminder-push-{self.ada.pk}-2"
        settled = {"event_id": f"settled-push-{self.ada.pk}-2", "reminders": [event_id], "user_id": self.ada.pk}
        self.assertEqual(self.deliver("notify.settled", settled), 204)
        self.assertEqual(self.remind("push", 2), 204)
        self.assertEqual([message for message, _ in self.service.received], [{"close": [event_id]}])

    def test_a_subscription_that_has_ended_is_deleted_and_one_that_fails_is_not(self):
        self.service.status = 500
        with self.assertLogs("shop.push", "WARNING"):
            self.assertEqual(self.remind("push", 1), 204)
        self.assertEqual(PushSubscription.objects.count(), 1)
        self.service.status = 410
        self.assertEqual(self.remind("push", 2), 204)
        self.assertEqual(PushSubscription.objects.count(), 0)

    def test_only_push_services_are_subscribed(self):
        self.client.force_login(self.ada)
        good = ["https://fcm.googleapis.com/fcm/send/a:B-c_1", "https://wns2-par02p.notify.windows.com/w/?token=a%2b"]
        for endpoint in good:
            self.assertEqual(self.subscribe(endpoint, self.service.keys), 204, endpoint)
        self.assertEqual(PushSubscription.objects.filter(user=self.ada, endpoint__in=good).count(), 2)
        for endpoint in (
            "http://fcm.googleapis.com/1",
            "https://127.0.0.1/1",
            "https://evil-fcm.googleapis.com/1",
            "https://fcm.googleapis.com.evil.example/1",
            # Parsers of addresses disagree about these.
            "https://127.0.0.1:8443\\@fcm.googleapis.com/x",
            "https://fcm.googleapis.com\\@127.0.0.1/x",
            "https://fcm.googleapis.com/\\x",
            "https://fcm.googleapis.com@127.0.0.1/x",
            "https://user@fcm.googleapis.com/x",
            "https://fcm.googleapis.com:8443/x",
            "https://fcm.googleapis.com#@127.0.0.1/x",
            "https://fcm.googleapis.com\t/x",
            "https://fcm.googleapis.com/x\n",
            "https://é.fcm.googleapis.com/x",
            "https://fcm.googleapis.com/" + "x" * 512,
            None,
        ):
            self.assertEqual(self.subscribe(endpoint, self.service.keys), 400, endpoint)
        self.assertEqual(self.client.post("/preferences/push/", "[]", content_type="application/json").status_code, 400)

    def subscribe(self, endpoint, keys):
        body = json.dumps({"endpoint": endpoint, "keys": keys})
        return self.client.post("/preferences/push/", body, content_type="application/json").status_code

    def test_keys_that_no_browser_makes_are_refused_and_known_ones_are_deleted(self):
        self.client.force_login(self.ada)
        good = self.service.keys
        wrong = ({"p256dh": "%"}, {"p256dh": "é"}, {"p256dh": unpadded(b"x" * 65)}, {"auth": "a"}, {"auth": ""}, {"auth": 1})
        for values in wrong:
            self.assertEqual(self.subscribe("https://fcm.googleapis.com/1", good | values), 400, values)
            PushSubscription.objects.create(user=self.ada, endpoint="https://fcm.googleapis.com/2", **(good | values))
            with self.assertLogs("shop.push", "WARNING"):
                self.assertEqual(self.remind("push", 10 + len(self.service.received)), 204, values)
            self.assertEqual(PushSubscription.objects.get().endpoint, self.service.endpoint)
        self.assertEqual(len(self.service.received), len(wrong), "the other browser")

    def test_a_browser_whose_user_signs_out_gets_no_more_pushes(self):
        self.client.force_login(self.ada)
        self.assertEqual(self.subscribe("https://fcm.googleapis.com/1", self.service.keys), 204)
        self.client.post("/sign-out/")
        self.assertEqual(PushSubscription.objects.get().endpoint, self.service.endpoint, "another browser")


class PreferencesTests(WebhookTestCase):
    def test_the_page_shows_and_changes_the_preferences(self):
        self.client.force_login(self.ada)
        page = self.client.get("/preferences/")
        self.assertContains(page, 'name="mail" id="id_mail" checked')
        self.assertContains(page, push.public_key())
        wrong = self.client.post("/preferences/", {"mail": "on", "quiet_from": "22:00"})
        self.assertContains(wrong, "Indiquez les deux heures")
        self.client.post("/preferences/", {"push": "on", "quiet_from": "22:00", "quiet_to": "08:00"})
        quiet = {"from": "22:00", "to": "08:00", "tz": "Europe/Paris"}
        changes = {"user_id": self.ada.pk, "types": {"*": {"mail": False}}, "quiet": quiet}
        self.assertEqual(testing.calls[-1], ("notify.preferences.set", changes))
        testing.fail_next(Unavailable("away"))
        self.assertEqual(self.client.get("/preferences/").status_code, 503)
        self.assertEqual(self.client.get("/sw.js")["Content-Type"], "text/javascript")

    def test_what_was_not_changed_stays(self):
        self.client.force_login(self.ada)
        quiet = {"from": "23:00", "to": "07:00", "tz": "America/Montreal"}
        found = {"types": {"*": {"push": False}}, "defaults": {"*": {"mail": False}}, "quiet": quiet, "mandatory": []}
        with mock.patch.object(preferences, "get", return_value=found):
            page = self.client.get("/preferences/")
            self.assertNotContains(page, " checked")
            self.assertContains(page, 'value="23:00"')
            hours = {"quiet_from": "23:00", "quiet_to": "07:00"}
            self.client.post("/preferences/", hours)
            self.assertEqual(testing.calls, [], "nothing is changed")
            self.client.post("/preferences/", {"push": "on", **hours})
            self.client.post("/preferences/", {"quiet_from": "", "quiet_to": ""})
        bodies = [body for _, body in testing.calls]
        user = {"user_id": self.ada.pk}
        self.assertEqual(bodies, [{**user, "types": {"*": {"push": True}}}, {**user, "quiet": None}])


@override_settings(VYZIO=VYZIO)
class OfferTests(testing.RealtimeMixin, TransactionTestCase):
    def setUp(self):
        super().setUp()
        users = get_user_model().objects
        self.buyer, self.seller = (users.create_user(name) for name in ("buyer", "seller"))
        listing = Listing.objects.create(seller=self.seller, title="Vélo", price=120_00)
        self.conversation = Conversation.objects.create(id=5, listing=listing, buyer=self.buyer)
        self.key = str(uuid.uuid4())

    def post(self, user, path, **fields):
        self.client.force_login(user)
        return self.client.post(path, fields).status_code

    def make(self, amount="50"):
        return self.post(self.buyer, "/messages/5/offers/", key=self.key, amount=amount)

    def test_an_answer_that_comes_late_leaves_the_state_that_the_message_will_show(self):
        self.assertEqual(self.make(), 204)
        offer = Offer.objects.get()
        testing.fail_next(Unavailable("the answer came late"))
        with self.assertLogs("vyzio_realtime", "WARNING"):
            self.assertEqual(self.post(self.seller, f"/offers/{offer.pk}/accepted/"), 204)
        offer.refresh_from_db()
        self.assertEqual(offer.state, "accepted")
        outbox.relay(only=Outbox.objects.values_list("pk", flat=True))
        update = {"conversation_id": 5, "message_id": offer.message_id, "data": offer.data()}
        self.assertEqual(testing.calls[-1], ("chat.messages.update", update))
        self.assertEqual(self.post(self.seller, f"/offers/{offer.pk}/declined/"), 409)
        self.assertEqual(self.post(self.buyer, f"/offers/{offer.pk}/paid/"), 204)

    def test_an_offer_is_made_once_with_one_amount(self):
        testing.fail_next(Unavailable("away"))
        self.assertEqual([self.make(), self.make(), self.make()], [503, 204, 204])
        self.assertEqual(Offer.objects.get().amount, 50_00)
        sent = [body["client_id"] for subject, body in testing.calls if subject == "chat.messages.send"]
        self.assertEqual(set(sent), {self.key})
        self.assertEqual(self.make("45"), 409, "another amount is another offer")
        self.assertEqual(Offer.objects.get().amount, 50_00)
