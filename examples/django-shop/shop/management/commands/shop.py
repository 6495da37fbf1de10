"""Runs the shop: `python manage.py shop`."""

import signal
import subprocess
import sys
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from vyzio_realtime_django import RealtimeError

from shop import samples

STACK = """Start the stack first, in the checkout:

    ALLOWED_ORIGINS={site},http://127.0.0.1:8000 \\
    WEBHOOK_URL={site}/realtime/webhook/ WEBHOOK_SECRET={secret} \\
    REMINDERS="push:20s/3m:settle mail:1m/5m:every=10m" \\
    cargo xtask up
"""


class Command(BaseCommand):
    help = "Creates the database and the sample data, and serves the shop and its relay until Ctrl-C."

    def handle(self, *args, **options):
        site = settings.SITE_URL
        call_command("migrate", verbosity=0)
        samples.load()
        try:
            call_command("realtime_check", stdout=self.stdout)
            samples.open_conversations()
        except (CommandError, RealtimeError) as error:
            stack = STACK.format(site=site, secret=settings.VYZIO["WEBHOOK_SECRET"])
            raise CommandError(f"The realtime service is not ready: {error}\n{stack}") from error
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        relay = subprocess.Popen([sys.executable, sys.argv[0], "realtime_relay", "--forever"])
        self.stdout.write(f"\nThe shop is at {site}. Sign in as alice, and as bruno in a private window.\n")
        try:
            call_command("runserver", urlsplit(site).netloc, use_reloader=False, skip_checks=True)
        finally:
            relay.terminate()
            relay.wait()
