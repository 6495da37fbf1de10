"""Requests: their paths and bodies over HTTP, and their errors."""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
import tempfile
import threading
import unittest
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib.auth.models import User
from django.test import SimpleTestCase
from gateway import Gateway, problem
from support import GatewayMixin, vyzio

from vyzio_realtime_django import Refused, Unavailable, conversations, held, messages, preferences, sessions, users


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


class RequestTests(GatewayMixin, SimpleTestCase):
    def test_each_request_has_its_path_and_body(self) -> None:
        ada = User(pk=456, username="ada")
        opened = conversations.between(ada, 457, listing=12, title="Vélo")
        self.assertEqual(opened["conversation_id"], 123)
        sent = messages.send(opened, ada, "Bonjour", client_id="question-31")
        messages.update(opened, sent, "Bonsoir", if_change=0)
        messages.remove(123, 987, "insulting")
        conversations.system(opened, kind="order", data={"state": "paid"}, client_id="order-5")
        sessions.revoke(ada)
        sessions.revoke(456, except_jti="abc")
        users.erase(456)
        held.release(5)
        held.refuse(6, "insulting")
        self.assertIsNone(preferences.get(ada)["quiet"])
        preferences.set(ada, types={"*": {"mail": False}})
        preferences.set(456, quiet=None)
        self.assertEqual(
            self.gateway.requests,
            [
                (
                    "POST",
                    "/backend/conversations",
                    {
                        "participants": [{"user_id": 456, "username": "ada"}, {"user_id": 457}],
                        "listing_id": 12,
                        "title": "Vélo",
                    },
                ),
                (
                    "POST",
                    "/backend/conversations/123/messages",
                    {"sender_id": 456, "message": "Bonjour", "client_id": "question-31"},
                ),
                ("PATCH", "/backend/conversations/123/messages/987", {"message": "Bonsoir", "if_change": 0}),
                ("DELETE", "/backend/conversations/123/messages/987", {"reason": "insulting"}),
                (
                    "POST",
                    "/backend/conversations/123/messages",
                    {"system": True, "client_id": "order-5", "kind": "order", "data": {"state": "paid"}},
                ),
                ("POST", "/backend/sessions/revoke", {"user_id": 456}),
                ("POST", "/backend/sessions/revoke", {"user_id": 456, "except_jti": "abc"}),
                ("POST", "/backend/users/456/erase", {}),
                ("POST", "/backend/held/5", {"verdict": "release"}),
                ("POST", "/backend/held/6", {"verdict": "refuse", "reason": "insulting"}),
                ("GET", "/backend/users/456/preferences", None),
                ("PATCH", "/backend/users/456/preferences", {"types": {"*": {"mail": False}}}),
                ("PATCH", "/backend/users/456/preferences", {"quiet": None}),
            ],
        )

    def test_a_channel_that_is_switched_off_is_off_for_types_with_a_setting_of_their_own(self) -> None:
        wave = {"mail": True, "push": True}
        types = {"*": {"mail": True}, "wave": wave, "paid": {"mail": False}, "sold": {"push": True}}
        self.gateway.override = lambda method, path, body: (
            (200, {"types": types, "quiet": None, "defaults": {}, "mandatory": []}) if method == "GET" else None
        )
        preferences.switch_off(456, "mail")
        path = "/backend/users/456/preferences"
        changes = {"types": {"*": {"mail": False}, "wave": {"mail": None}}}
        self.assertEqual(self.gateway.requests, [("GET", path, None), ("PATCH", path, changes)])

    def test_a_message_has_a_client_id_so_that_it_can_be_repeated(self) -> None:
        first, second = messages.send(123, 456, "Bonjour"), messages.send(123, 456, "Bonjour")
        self.assertNotEqual(first["client_id"], second["client_id"])

    def test_errors_have_a_code_or_are_temporary(self) -> None:
        with self.assertRaises(Refused) as raised:
            messages.send(123, 99, "Bonjour")
        self.assertEqual((raised.exception.status, raised.exception.code), (403, "forbidden"))
        with vyzio(URL=self.gateway.url, API_KEY="wrong"), self.assertRaises(Refused) as raised:
            sessions.revoke(456)
        self.assertEqual(raised.exception.code, "unauthorized")
        for status, code in ((429, "rate_limited"), (503, "unavailable"), (500, "internal"), (302, "moved")):
            self.gateway.override = lambda method, path, body: (status, problem(status, code))
            with self.assertRaisesRegex(Unavailable, code):
                sessions.revoke(456)
        self.gateway.override = lambda method, path, body: (200, ["no object"])
        with self.assertRaisesRegex(Unavailable, "not an object"):
            sessions.revoke(456)
        self.gateway.stop()
        with self.assertRaises(Unavailable):
            sessions.revoke(456)

    def lose_answers(self, count: int) -> None:
        """The next requests get no answer: the gateway closes their connection once it has handled them."""
        left = [None] * count

        def override(method: str, path: str, body: object) -> tuple[int, object] | None:
            if left:
                left.pop()
                return 0, None
            return None

        self.gateway.override = override

    def test_a_lost_answer_of_a_kept_connection_repeats_what_is_safe_to_repeat(self) -> None:
        sessions.revoke(456)
        self.lose_answers(1)
        self.assertEqual(messages.update(123, 987, "Bonsoir")["message_id"], 987)
        self.assertEqual(len(self.gateway.requests), 3)

    def test_a_lost_answer_does_not_repeat_a_conditional_update_or_a_verdict(self) -> None:
        calls: list[Callable[[], object]] = [
            lambda: messages.update(123, 987, "Bonsoir", if_change=0),
            lambda: held.release(5),
        ]
        for call in calls:
            sessions.revoke(456)
            self.gateway.requests.clear()
            self.lose_answers(1)
            with self.assertRaises(Unavailable):
                call()
            self.assertEqual(len(self.gateway.requests), 1)

    def test_a_conditional_update_replaces_a_connection_that_was_closed_before(self) -> None:
        sessions.revoke(456)
        self.gateway.close_connections()
        self.assertEqual(messages.update(123, 987, "Bonsoir", if_change=0)["message_id"], 987)
        self.assertEqual(len(self.gateway.requests), 2)

    def test_a_look_up_that_hangs_takes_no_more_than_the_timeout(self) -> None:
        hangs = threading.Event()
        self.addCleanup(hangs.set)
        asked: list[str] = []
        original = socket.getaddrinfo

        def getaddrinfo(host: str, port: int, **options: Any) -> Any:
            if host == "gateway.test" and not options.get("flags"):
                asked.append(host)
                hangs.wait(60)
                host = "127.0.0.1"
            return original(host, port, **options)

        url = f"http://gateway.test:{self.gateway.port}"
        with mock.patch("socket.getaddrinfo", getaddrinfo), vyzio(URL=url, TIMEOUT=0.2):
            for _ in range(3):
                with self.assertRaisesRegex(Unavailable, "look-up of gateway.test timed out"):
                    sessions.revoke(456)
            self.assertEqual(len(asked), 1, "all of them wait for one thread")
            hangs.set()
        with mock.patch("socket.getaddrinfo", getaddrinfo), vyzio(URL=url, TIMEOUT=30):
            self.assertIn("revoked_before", sessions.revoke(456))

    def test_a_name_that_does_not_exist_is_unavailable(self) -> None:
        with vyzio(URL="http://gateway.invalid"), self.assertRaisesRegex(Unavailable, "gaierror"):
            sessions.revoke(456)

    def test_an_answer_that_is_too_long_is_not_read(self) -> None:
        self.gateway.override = lambda method, path, body: (200, {"x": "y" * 5_000_000})
        with vyzio(URL=self.gateway.url, TIMEOUT=30), self.assertRaisesRegex(Unavailable, "too long"):
            sessions.revoke(456)

    def test_an_exchange_that_was_interrupted_does_not_answer_the_next_one(self) -> None:
        class Interrupted(BaseException):
            """Such as gevent.Timeout."""

        from vyzio_realtime_django.backends import http

        sessions.revoke(456)
        original = http._Connection.getresponse

        def getresponse(connection: http._Connection) -> object:
            http._Connection.getresponse = original  # type: ignore[method-assign]
            raise Interrupted

        http._Connection.getresponse = getresponse  # type: ignore[method-assign, assignment]
        self.addCleanup(setattr, http._Connection, "getresponse", original)
        with self.assertRaises(Interrupted):
            users.erase(456)
        self.assertIn("revoked_before", sessions.revoke(456))

    @unittest.skipUnless(importlib.util.find_spec("cryptography"), "cryptography is not installed")
    def test_https_checks_the_certificate(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = certify(Path(folder))
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate, key)
            gateway = Gateway(tls)
            self.addCleanup(gateway.stop)
            with vyzio(URL=gateway.url), self.assertRaisesRegex(Unavailable, "certificate verify failed"):
                sessions.revoke(456)
            with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(certificate)}), vyzio(URL=gateway.url):
                for _ in range(2):
                    self.assertIn("revoked_before", sessions.revoke(456))

    def test_ids_are_checked(self) -> None:
        with self.assertRaises(ValueError):
            messages.send("123", 456, "Bonjour")  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            conversations.between(456, User(username="unsaved"))
