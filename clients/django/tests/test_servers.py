"""The site in each kind of server, and with processes that are killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from django.db import connection
from django.test import TransactionTestCase, tag
from gateway import kill_process
from servers import Server, free_port, running
from support import GatewayMixin, later

from shop.models import Payment
from vyzio_realtime_django import outbox
from vyzio_realtime_django.models import Outbox

# The folder of the programs of this environment.
PROGRAMS = str(Path(sys.executable).parent)


def needs(module: str) -> bool:
    return importlib.util.find_spec(module) is None


@tag("servers")
class ServerTests(GatewayMixin, TransactionTestCase):
    def work(self, server: Server, path: str = "/pay/{}/", processes: int = 1) -> None:
        """Users pay at the same time, some of them in a view that fails. Checks what the gateway has received."""
        users = list(range(1, 41))
        # The forks open their connections at the same time.
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda user: server.get(path.format(user)), users))
            broken = list(pool.map(lambda user: server.get(f"/broken/{user}/"), users[:5]))
        self.assertEqual(set(statuses), {200}, server.output())
        self.assertEqual(set(broken), {500})
        self.check(users, processes)

    def check(self, users: list[int], processes: int) -> None:
        """Each user has one event, and each connection belongs to one process."""
        for user in users:
            self.assertEqual(len(self.gateway.of_user(user)), 1, user)
        self.assertFalse(Outbox.objects.exists())
        self.assertEqual(len(self.gateway.publications), len(users))
        owners = [owners for owners in self.gateway.processes.values()]
        self.assertTrue(all(len(of_one) == 1 for of_one in owners), "no connection is shared by processes")
        self.assertGreaterEqual(len(set.union(*owners)), processes)

    def gunicorn(self, *arguments: str, port: int) -> list[str]:
        return ["-m", "gunicorn", "--no-control-socket", "--bind", f"127.0.0.1:{port}", *arguments, "project.wsgi"]

    def test_runserver(self) -> None:
        port = free_port()
        with running("manage.py", "runserver", "--noreload", str(port), url=self.gateway.url, port=port) as server:
            self.work(server)

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_gunicorn_with_four_forks(self) -> None:
        port = free_port()
        with running(*self.gunicorn("--workers=4", port=port), url=self.gateway.url, port=port) as server:
            self.work(server, processes=2)

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_gunicorn_with_four_forks_of_a_process_that_has_a_connection(self) -> None:
        port = free_port()
        arguments = self.gunicorn("--workers=4", "--preload", "--config=preload.py", port=port)
        with running(*arguments, url=self.gateway.url, port=port) as server:
            # gunicorn forks after that.
            self.gateway.wait_for(999, 1)
            self.gateway.publications.clear()
            self.work(server, processes=2)

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_gunicorn_with_threads(self) -> None:
        port = free_port()
        arguments = self.gunicorn("--workers=2", "--threads=4", port=port)
        with running(*arguments, url=self.gateway.url, port=port) as server:
            self.work(server)

    @unittest.skipIf(needs("gunicorn") or needs("gevent"), "gunicorn or gevent is not installed")
    def test_gevent(self) -> None:
        port = free_port()
        arguments = self.gunicorn("--workers=2", "--worker-class=gevent", port=port)
        # By name, whose look-up must not block the other greenlets.
        url = self.gateway.url.replace("127.0.0.1", "localhost")
        with running(*arguments, url=url, port=port) as server:
            self.work(server)

    @unittest.skipIf(shutil.which("uwsgi", path=PROGRAMS) is None, "uwsgi is not installed")
    def test_uwsgi_with_four_forks(self) -> None:
        port = free_port()
        execute = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
        arguments = ["--master", "--http-socket", f"127.0.0.1:{port}", "--processes=4", "--die-on-term"]
        arguments += ["--home", sys.prefix, "--module", "project.wsgi"]
        program = str(shutil.which("uwsgi", path=PROGRAMS))
        # By name, for which a thread looks up the address: these processes have no threads of their own.
        url = self.gateway.url.replace("127.0.0.1", "localhost")
        with running("-c", execute, program, *arguments, url=url, port=port) as server:
            self.work(server, processes=2)

    @unittest.skipIf(needs("celery"), "celery is not installed")
    def test_celery_with_four_forks(self) -> None:
        users = list(range(1, 41))
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"CELERY_FOLDER": folder}):
            from project.celery import celery

            arguments = ["-m", "celery", "--app=project.celery", "worker", "--concurrency=4", "--without-mingle"]
            with running(*arguments, "--without-gossip", url=self.gateway.url) as worker:
                # Celery forks after that.
                self.gateway.wait_for(999, 1)
                self.gateway.publications.clear()
                app = celery(folder)
                for user in users:
                    app.send_task("pay", [user])
                for user in users:
                    self.gateway.wait_for(user, 1)
                # A warm shutdown ends what is in progress.
                self.assertEqual(worker.stop(), 0)
        self.check(users, processes=2)

    @unittest.skipIf(needs("uvicorn"), "uvicorn is not installed")
    def test_uvicorn(self) -> None:
        port = free_port()
        arguments = ["-m", "uvicorn", "--port", str(port), "--lifespan=off", "project.asgi:application"]
        with running(*arguments, url=self.gateway.url, port=port) as server:
            self.work(server)
            self.gateway.events.clear()
            self.gateway.publications.clear()
            self.work(server, "/async/{}/")

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_a_kill_between_commit_and_publication_loses_nothing(self) -> None:
        port = free_port()
        with running(*self.gunicorn("--workers=2", port=port), url=self.gateway.url, port=port) as server:
            self.assertEqual(server.get("/killed/456/"), 0)
            self.assertEqual(Payment.objects.count(), 1, "it was committed")
            self.assertEqual(self.gateway.of_user(456), [])
            self.assertEqual(outbox.relay().sent, 0, "the process might be about to publish it")
            later(seconds=20)
            self.assertEqual(outbox.relay().sent, 1)
        self.assertEqual(len(self.gateway.publications), 1)

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_a_kill_between_publication_and_its_answer_notifies_once(self) -> None:
        port = free_port()
        with running(*self.gunicorn("--workers=2", port=port), url=self.gateway.url, port=port) as server:
            self.gateway.stored = kill_process
            self.assertEqual(server.get("/pay/456/"), 0)
            self.gateway.stored = lambda event: None
            later(seconds=20)
            self.assertEqual(outbox.relay().sent, 1)
        self.assertEqual(len(self.gateway.publications), 2)
        self.assertEqual(len(self.gateway.of_user(456)), 1, "both have one event_id")

    @unittest.skipIf(needs("gunicorn"), "gunicorn is not installed")
    def test_views_work_while_the_gateway_is_away_for_an_hour(self) -> None:
        port = free_port()
        with running(*self.gunicorn("--workers=4", port=port), url=self.gateway.url, port=port) as server:
            self.assertEqual(server.get("/pay/1/"), 200)
            self.gateway.stop()
            with ThreadPoolExecutor(8) as pool:
                statuses = set(pool.map(server.get, [f"/pay/{user}/" for user in range(2, 42)]))
            self.assertEqual(statuses, {200})
            for _ in range(6):
                later(minutes=10)
                outbox.relay()
            self.assertEqual(Outbox.objects.count(), 40)
            self.gateway.start()
            later(minutes=1)
            self.assertEqual(outbox.relay().sent, 40)
            # The server's own connections are replaced.
            for user in range(42, 62):
                self.assertEqual(server.get(f"/pay/{user}/"), 200)
            later(minutes=1)
            outbox.relay()
        for user in range(1, 62):
            self.assertEqual(len(self.gateway.of_user(user)), 1, user)

    def tearDown(self) -> None:
        # The servers have used it.
        connection.close()
        super().tearDown()
