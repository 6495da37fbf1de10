"""Prints a token, for a try in a terminal."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...tokens import token_for


class Command(BaseCommand):
    """Prints a token of any user. Anyone who can run this command already has the signing key."""

    help = "Prints a token of a user, who is named by id or by username."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", metavar="USER", help="id or username")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()._default_manager
        name = options["user"]
        user = users.filter(pk=int(name)).first() if name.isdecimal() else None
        user = user or users.filter(**{get_user_model().USERNAME_FIELD: name}).first()
        if user is None:
            raise CommandError(f"there is no user {name}")
        try:
            self.stdout.write(token_for(user))
        except (ImproperlyConfigured, ValueError) as error:
            raise CommandError(str(error)) from error
