"""Requests: their paths and bodies over HTTP, and their errors."""

from __future__ import annotations

import importlib.util
import os
import ssl
import tempfile
import unittest
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

from django.contrib.auth.models import User
from django.test import SimpleTestCase
from gateway import Gateway, problem
from support import GatewayMixin, vyzio

from vyzio_realtime_django import Refused, Unavailable, conversations, messages, sessions, users


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
            ],
        )

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
