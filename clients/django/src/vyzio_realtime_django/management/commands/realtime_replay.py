"""Publishes events that the relay has given up."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from ... import outbox
from ...models import Outbox


class Command(BaseCommand):
    """All of them, or those that are named."""

    help = "Publishes events of the outbox that were given up: those with these ids, or all of them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="*", type=int, metavar="ID")
        parser.add_argument("--all", action="store_true", help="all events that were given up")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="the database of the outbox")

    def handle(self, *args: Any, **options: Any) -> None:
        if bool(options["ids"]) == options["all"]:
            raise CommandError("name ids, or use --all")
        failed = Outbox.objects.using(options["database"]).exclude(failed_at=None)
        if options["ids"]:
            failed = failed.filter(pk__in=options["ids"])
        sent = errors = 0
        while ids := list(failed.order_by("pk").values_list("pk", flat=True)[: outbox.BATCH]):
            done = outbox.relay(options["database"], only=ids)
            sent, errors = sent + done.sent, errors + done.errors
            if done.error is not None:
                raise CommandError(f"{sent} published; {done.error}")
            # Those that were refused again have failed again. They are not tried a third time.
            failed = failed.filter(pk__gt=ids[-1])
        self.stdout.write(f"{sent} published, {errors} errors")
