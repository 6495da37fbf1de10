"""Publishes the events of the outbox."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, close_old_connections

from ... import outbox
from ...retention import prune

log = logging.getLogger("vyzio_realtime")

# Seconds between two looks at the outbox, and between two prunings.
INTERVAL = 1.0
PRUNING = 600.0


class Command(BaseCommand):
    """Without `--forever`, for cron: publishes what is due and ends."""

    help = "Publishes the events of the outbox that were not published on commit. Run it from cron, or with --forever."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--forever", action="store_true", help="run until SIGTERM or SIGINT")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="the database of the outbox")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["forever"]:
            self._forever(options["database"])
            return
        done = outbox.relay(options["database"])
        prune(options["database"])
        self.stdout.write(f"{done.sent} published, {done.errors} errors")
        if done.error is not None:
            raise CommandError(str(done.error))

    def _forever(self, database: str) -> None:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        failures = 0
        prune_at = 0.0
        while not stopped.is_set():
            try:
                close_old_connections()
                failures = failures + 1 if outbox.relay(database).error is not None else 0
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + PRUNING
                    prune(database)
            except Error:  # Also InterfaceError, which is no DatabaseError.
                log.exception("the relay can't read its outbox")
                failures += 1
            pause = outbox.pause_after(failures) if failures else INTERVAL * random.uniform(0.9, 1.1)
            stopped.wait(pause)
