"""Servers that run the site of the tests, on the database of the test that runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

HERE = Path(__file__).parent
SECONDS = 60


class Server:
    """A process, and the processes that it has forked."""

    def __init__(self, arguments: list[str], env: dict[str, str], port: int) -> None:
        self.log = tempfile.TemporaryFile()
        self.port = port
        self.process = subprocess.Popen(
            arguments, cwd=HERE, env=env, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def get(self, path: str) -> int:
        """The status of a page, or 0 if the connection was lost."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        end = time.monotonic() + SECONDS
        while True:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self) -> int:
        """Stops it with SIGTERM, and returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not stop: {self.output()}") from None

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It has ended.
        self.process.wait(SECONDS)
        self.log.close()


def database_url() -> str:
    """The database of the test that runs."""
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite://{values['NAME']}"
    password = f":{values['PASSWORD']}" if values["PASSWORD"] else ""
    scheme = "mysql" if connection.vendor == "mysql" else "postgres"
    return f"{scheme}://{values['USER']}{password}@{values['HOST']}:{values['PORT']}/{values['NAME']}"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def running(*arguments: str, url: str, port: int = 0, **entries: Any) -> Iterator[Server]:
    """Runs Python with these arguments, for the gateway at `url`, with some entries of `VYZIO`."""
    vyzio = {**settings.VYZIO, "URL": url, **entries}
    env = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "VYZIO": json.dumps(vyzio),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])),
    }
    server = Server([sys.executable, *arguments], env, port)
    try:
        if port:
            server.wait_until_ready()
        yield server
    except BaseException:
        print(server.output(), file=sys.stderr)
        raise
    finally:
        server.kill()
