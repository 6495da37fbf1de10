"""The connection over HTTP: `http.client` with keep-alive, one connection for each thread of each process."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from ..conf import settings
from ..errors import RealtimeError, Refused, Unavailable
from . import ROUTES, Event

# Longest answer that is read.
ANSWER_BYTES = 4 * 1024 * 1024
# Statuses that pass: a repeat may succeed.
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
# Errors of a connection that the server closed while it was idle. They are no reason to fail.
CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class Backend:
    """The gateway's `/backend/` API."""

    def __init__(self) -> None:
        url = urlsplit(settings().URL)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ImproperlyConfigured('VYZIO["URL"] must be the address of the gateway, such as http://gateway:8000')
        self._host = url.hostname
        self._port = url.port
        self._prefix = url.path.rstrip("/")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._local = threading.local()

    def publish(self, events: Sequence[Event], timeout: float) -> list[RealtimeError | None]:
        items = [{"type": kind, **body} for kind, body in events]
        answer = self.request("POST", "/backend/events", items, timeout)
        outcomes = answer.get("items") if isinstance(answer, dict) else None
        if not isinstance(outcomes, list) or len(outcomes) != len(items):
            raise Unavailable("the answer does not have an item for each event")
        return [_outcome(outcome) for outcome in outcomes]

    def call(self, subject: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        method, template = ROUTES[subject]
        path = template.format_map({name: quote(str(value), safe="") for name, value in body.items()})
        rest = {name: value for name, value in body.items() if f"{{{name}}}" not in template}
        return _object(self.request(method, path, rest, timeout))

    def whoami(self, timeout: float) -> dict[str, Any]:
        """The name and the scopes of the API key, and the id of the key that verifies tokens. Raises a RealtimeError."""
        return _object(self.request("GET", "/backend/whoami", None, timeout))

    def request(self, method: str, path: str, body: Any, timeout: float) -> Any:
        """Sends a request and returns the JSON of its answer. Raises a RealtimeError."""
        headers = {"Authorization": f"Bearer {settings().API_KEY}", "Accept": "application/json"}
        payload = None
        if body is not None:
            payload = json.dumps(body, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        return _answer(*self._exchange(method, self._prefix + path, payload, headers, timeout))

    def _exchange(
        self, method: str, path: str, payload: bytes | None, headers: dict[str, str], timeout: float
    ) -> tuple[int, bytes]:
        """The status and the content of the answer. Repeats the request if the server had closed the idle connection."""
        end = time.monotonic() + timeout
        while True:
            connection, is_new = self._connection()
            try:
                connection.deadline.end = end
                connection.request(method, path, payload, headers)
                response = connection.getresponse()
                content = response.read(ANSWER_BYTES + 1)
                if len(content) > ANSWER_BYTES or not response.isclosed():
                    raise http.client.HTTPException("the answer is too long")
                return response.status, content
            except CLOSED as error:
                self._drop()
                if is_new:
                    raise Unavailable(_text(error)) from error
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                raise Unavailable(_text(error)) from error
            except BaseException:
                # The rest of an answer must not be read as the next one.
                self._drop()
                raise

    def _connection(self) -> tuple[_Connection, bool]:
        """This thread's connection, and whether it is new. A fork does not use the connection of its parent."""
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None and self._local.process == os.getpid() and connection.sock is not None:
            return connection, False
        self._drop()
        self._local.process = os.getpid()
        self._local.connection = _Connection(self._host, self._port, self._tls)
        return self._local.connection, True

    def _drop(self) -> None:
        connection: _Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()


class _Deadline:
    """The end of an exchange, by the monotonic clock."""

    end = 0.0

    def left(self) -> float:
        """Seconds until then. Raises TimeoutError."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Connection(http.client.HTTPConnection):
    """A connection with one deadline for all of its operations."""

    def __init__(self, host: str, port: int | None, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port or (443 if tls else 80))
        self.deadline = _Deadline()
        self._tls = tls

    def connect(self) -> None:
        """Connects to the first address that accepts."""
        failure: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self.deadline.left())
                opened.connect(address)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls:
                    opened.settimeout(self.deadline.left())
                    opened = self._tls.wrap_socket(opened, server_hostname=self.host)
                self.sock = _Socket(opened, self.deadline)
                return
            except OSError as error:
                opened.close()
                failure = error
        raise failure


class _Socket:
    """The part of a socket that `http.client` uses."""

    def __init__(self, opened: socket.socket, deadline: _Deadline) -> None:
        self._opened = opened
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._opened.settimeout(self._deadline.left())
        self._opened.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._opened, self._deadline))

    def close(self) -> None:
        self._opened.close()

    # The thread of a connection has ended.
    __del__ = close


class _Reader(io.RawIOBase):
    def __init__(self, opened: socket.socket, deadline: _Deadline) -> None:
        self._opened = opened
        self._deadline = deadline
        self._raw = opened.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._opened.settimeout(self._deadline.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _answer(status: int, content: bytes) -> Any:
    try:
        answer = json.loads(content) if content else {}
    except ValueError:
        answer = {}
    if status >= 300:
        raise _problem(status, answer)
    return answer


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise Unavailable("the answer is not an object")
    return answer


def _outcome(outcome: Any) -> RealtimeError | None:
    """The error in an item of the answer to a batch."""
    if isinstance(outcome, dict) and "code" not in outcome:
        return None
    status = outcome.get("status") if isinstance(outcome, dict) else None
    return _problem(status if isinstance(status, int) else 500, outcome)


def _problem(status: int, problem: Any) -> RealtimeError:
    problem = problem if isinstance(problem, dict) else {}
    code = str(problem.get("code", f"status_{status}"))
    detail = str(problem.get("detail", ""))[:500]
    if status in TEMPORARY or status < 400:
        return Unavailable(f"{status} {code}: {detail}")
    return Refused(status, code, detail)
