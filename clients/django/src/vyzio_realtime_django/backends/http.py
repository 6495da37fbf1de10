"""The connection over HTTP: `http.client` with keep-alive, one connection for each thread of each process."""

from __future__ import annotations

import http.client
import io
import json
import os
import select
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
from .lookup import Lookup

# Longest answer that is read.
ANSWER_BYTES = 4 * 1024 * 1024
# Statuses that pass: a repeat may succeed.
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
# Errors of a connection that the server closed.
CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class Backend:
    """The gateway's `/backend/` API."""

    def __init__(self) -> None:
        problem = 'VYZIO["URL"] must be the address of the gateway, such as http://gateway:8000'
        try:
            url = urlsplit(settings().URL)
            port = url.port
        except ValueError as error:
            raise ImproperlyConfigured(problem) from error
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ImproperlyConfigured(problem)
        self._prefix = url.path.rstrip("/")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._lookup = Lookup(url.hostname, port or (443 if self._tls else 80))
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
        # A second one would be answered with `conflict`, although the first one had its effect.
        is_once = subject == "chat.held.judge" or "if_change" in body
        content = None if method == "GET" else rest
        return _object(self.request(method, path, content, timeout, may_repeat=not is_once))

    def whoami(self, timeout: float) -> dict[str, Any]:
        """The name and the scopes of the API key, and the id of the key that verifies tokens. Raises a RealtimeError."""
        return _object(self.request("GET", "/backend/whoami", None, timeout))

    def request(self, method: str, path: str, body: Any, timeout: float, *, may_repeat: bool = True) -> Any:
        """Sends a request and returns the JSON of its answer. Raises a RealtimeError.

        `may_repeat`: two of these requests have the same effect and answer as one.
        """
        headers = {"Authorization": f"Bearer {settings().API_KEY}", "Accept": "application/json"}
        payload = None
        if body is not None:
            payload = json.dumps(body, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        end = time.monotonic() + timeout
        while True:
            connection, is_new = self._connection()
            connection.deadline.end = end
            try:
                return _answer(*self._exchange(connection, method, self._prefix + path, payload, headers))
            except _Closed as error:
                # An idle connection that the server has closed is no reason to fail.
                if is_new or (error.is_sent and not may_repeat):
                    raise Unavailable(_text(error.cause)) from error.cause

    def _exchange(
        self, connection: _Connection, method: str, path: str, payload: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """The status and the content of the answer. Raises _Closed or Unavailable."""
        is_sent = False
        try:
            connection.request(method, path, payload, headers)
            is_sent = True
            response = connection.getresponse()
            content = response.read(ANSWER_BYTES + 1)
            if len(content) > ANSWER_BYTES or not response.isclosed():
                raise http.client.HTTPException("the answer is too long")
            return response.status, content
        except CLOSED as error:
            self._drop()
            raise _Closed(error, is_sent) from error
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
        if connection is not None and self._local.process == os.getpid() and connection.is_open():
            return connection, False
        self._drop()
        self._local.process = os.getpid()
        self._local.connection = _Connection(self._lookup, self._tls)
        return self._local.connection, True

    def _drop(self) -> None:
        connection: _Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()


class _Closed(Exception):
    """The server has closed the connection. Until all of the request is sent, it does nothing with it."""

    def __init__(self, cause: Exception, is_sent: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.is_sent = is_sent


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

    def __init__(self, lookup: Lookup, tls: ssl.SSLContext | None) -> None:
        super().__init__(lookup.host, lookup.port)
        self.deadline = _Deadline()
        self._lookup = lookup
        self._tls = tls

    def is_open(self) -> bool:
        """Whether another request can be sent, as far as it is known here."""
        opened: Any = self.sock
        return opened is not None and not opened.has_input()

    def connect(self) -> None:
        """Connects to the first address that accepts."""
        failure: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in self._lookup.addresses(self.deadline.left()):
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

    def has_input(self) -> bool:
        """Whether something can be read. Between two requests, this is the end of the connection."""
        if not hasattr(select, "poll"):
            return bool(select.select([self._opened], [], [], 0)[0])  # Windows.
        poll = select.poll()
        poll.register(self._opened, select.POLLIN)
        return bool(poll.poll(0))

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
