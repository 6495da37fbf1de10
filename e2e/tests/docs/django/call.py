import os

from django.core.management.base import BaseCommand
from django.db import connections
from django.test import Client
from vyzio_realtime_django.models import Outbox


class Command(BaseCommand):
    help = "Call views in this process; with --fork, all but the first one in forked processes."

    def add_arguments(self, parser):
        parser.add_argument("--fork", action="store_true")
        parser.add_argument("paths", nargs="+")

    def handle(self, *args, paths, fork, **options):
        for index, path in enumerate(paths):
            if fork and index > 0:
                connections.close_all()
                if os.fork() > 0:
                    os.wait()
                    continue
            self.stdout.write(str(Client(raise_request_exception=False).get(path).status_code))
            self.stdout.flush()
            if fork and index > 0:
                os._exit(0)
        if not fork:
            self.stdout.write(f"{Outbox.objects.count()} in the outbox")
