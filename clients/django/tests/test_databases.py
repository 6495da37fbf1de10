"""Sites that keep their users in a database of their own."""

from __future__ import annotations

import io
from unittest import mock

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError, connections, transaction
from django.test import TransactionTestCase
from support import GatewayMixin, later, vyzio

from vyzio_realtime_django.models import Outbox


class UsersElsewhereTests(GatewayMixin, TransactionTestCase):
    databases = {"default", "users"}

    def setUp(self) -> None:
        super().setUp()
        self.ada = User.objects.db_manager("users").create_user("ada", password="secret")
        self.revoked = ("POST", "/backend/sessions/revoke", {"user_id": self.ada.pk})

    def drop_outbox_of_users(self) -> None:
        """As if the app was not migrated there. No router says so, as with the one in Django's documentation."""
        with connections["users"].schema_editor() as editor:
            editor.delete_model(Outbox)
        self.addCleanup(self._create_outbox_of_users)

    def _create_outbox_of_users(self) -> None:
        with connections["users"].schema_editor() as editor:
            editor.create_model(Outbox)

    def test_a_new_password_needs_no_outbox_beside_the_users(self) -> None:
        self.drop_outbox_of_users()
        self.ada.set_password("another")
        self.ada.save()
        self.assertEqual(self.gateway.requests, [self.revoked])

    def test_a_deletion_needs_no_outbox_beside_the_users(self) -> None:
        self.drop_outbox_of_users()
        number = self.ada.pk
        with vyzio(URL=self.gateway.url, ERASE_ON_USER_DELETION=True):
            self.ada.delete()
        self.assertEqual(self.gateway.requests, [("POST", f"/backend/users/{number}/erase", {})])

    def test_the_relay_without_arguments_finds_what_the_hooks_have_added(self) -> None:
        self.gateway.stop()
        self.ada.set_password("another")
        self.ada.save()
        self.gateway.start()
        self.assertFalse(Outbox.objects.using("users").exists())
        later(minutes=1)
        call_command("realtime_relay", stdout=io.StringIO())
        self.assertEqual(self.gateway.requests, [self.revoked])

    def test_a_user_whose_deletion_is_rolled_back_is_not_erased(self) -> None:
        with vyzio(URL=self.gateway.url, ERASE_ON_USER_DELETION=True), transaction.atomic(using="users"):
            self.ada.delete()
            self.assertFalse(Outbox.objects.exists())
            transaction.set_rollback(True, using="users")
        self.assertEqual(self.gateway.requests, [])
        self.assertFalse(Outbox.objects.exists())

    def test_a_new_password_is_saved_even_if_the_database_of_the_outbox_is_away(self) -> None:
        self.ada.set_password("another")
        with mock.patch.object(Outbox.objects, "using", side_effect=OperationalError("no connection")):
            with self.assertLogs("django", "ERROR"):
                self.ada.save()
        self.assertTrue(User.objects.using("users").get().check_password("another"))
