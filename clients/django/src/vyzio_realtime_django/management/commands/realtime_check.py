"""Says whether this site and its gateway work together."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.utils import timezone

from ...backends import backend
from ...backends.http import Backend
from ...checks import check_settings, check_user_model, signing_key_problem
from ...conf import settings
from ...errors import RealtimeError
from ...models import Outbox


class Command(BaseCommand):
    """Fails if something is wrong, for a monitor."""

    help = "Checks the settings, the gateway, the signing key, and the age of the outbox."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="the database of the outbox")
        parser.add_argument("--max-age", type=float, default=300, help="seconds that an event may wait (300)")

    def handle(self, *args: Any, **options: Any) -> None:
        problems = [str(error) for error in [*check_settings(), *check_user_model()]]
        if not problems:
            problems += self._gateway()
        problems += self._outbox(options["database"], options["max_age"])
        if problems:
            raise CommandError("\n".join(problems))

    def _gateway(self) -> list[str]:
        try:
            connection = backend()
            if not isinstance(connection, Backend):
                self.stdout.write(f"backend: {settings().BACKEND}")
                return []
            answer = connection.whoami(settings().RELAY_TIMEOUT)
            self.stdout.write(
                f"gateway: {settings().URL} knows this key as {answer.get('name')}, "
                f"for {', '.join(answer.get('scopes', []))}"
            )
            problem = signing_key_problem()
        except (RealtimeError, ImproperlyConfigured) as error:
            return [f"gateway: {error}"]
        return [problem] if problem else []

    def _outbox(self, database: str, max_age: float) -> list[str]:
        rows = Outbox.objects.using(database)
        waiting = rows.filter(failed_at=None)
        oldest = waiting.order_by("created_at").first()
        age = (timezone.now() - oldest.created_at).total_seconds() if oldest else 0.0
        failed = rows.exclude(failed_at=None).count()
        self.stdout.write(f"outbox: {waiting.count()} waiting, the oldest for {age:.0f} s; {failed} given up")
        problems = []
        if age > max_age:
            problems.append(f"outbox: an event waits for {age:.0f} s. Does realtime_relay run?")
        if failed:
            problems.append(f"outbox: {failed} events were given up. See the admin, or realtime_replay.")
        return problems
