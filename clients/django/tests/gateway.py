"""A small gateway for the tests: a real HTTP server with the part of `/backend/` that the package uses.

Tests with a real gateway are in test_stack.py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a key of the tests, of 32 characters or more"
Answer = tuple[int, Any]


class Gateway:
    """Listens until `stop`. `start` listens again, on the same port."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.port = 0
        self.lock = threading.Lock()
        # Each event once, as the real one stores it, and every publication in its order.
        self.events: dict[str, dict[str, Any]] = {}
        self.publications: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, Any]] = []
        # For each connection, the processes that published events over it.
        self.processes: dict[int, set[int]] = {}
        # The answer to a request instead of the usual one, if it returns one.
        self.override: Callable[[str, str, Any], Answer | None] = lambda method, path, body: None
        # The problem of an event instead of its storage, if it returns one.
        self.refuse: Callable[[dict[str, Any]], Answer | None] = lambda event: None
        # Called with each event after it is stored, before the answer.
        self.stored: Callable[[dict[str, Any]], None] = lambda event: None
        self.signing_key_id: str | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        gateway = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away is no error here."""

        class Handler(_Handler):
            owner = gateway

        self.server = Server(("127.0.0.1", self.port), Handler)
        if self.tls:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.connections: set[socket.socket] = set()
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # Its client has closed it.

    def close_connections(self) -> None:
        """Closes idle connections, as a server does after some time."""
        for connection in list(self.connections):
            connection.shutdown(socket.SHUT_RDWR)

    def of_user(self, user: int) -> list[dict[str, Any]]:
        with self.lock:
            return [event for event in self.events.values() if user in event["user_ids"]]

    def wait_for(self, user: int, count: int) -> list[dict[str, Any]]:
        """Waits until a user has this number of events."""
        end = time.monotonic() + 60
        while len(events := self.of_user(user)) < count:
            assert time.monotonic() < end, f"{len(events)} of {count} events"
            time.sleep(0.02)
        return events

    def answer(self, connection: int, method: str, path: str, body: Any) -> Answer:
        with self.lock:
            self.requests.append((method, path, body))
        overridden = self.override(method, path, body)
        if overridden is not None:
            return overridden
        if (method, path) == ("POST", "/backend/events"):
            if len(body) > 100:
                return 400, problem(400, "invalid_request")
            return 200, {"items": [self.store(connection, event) for event in body]}
        if path == "/backend/whoami":
            answer: dict[str, Any] = {"name": "shop", "scopes": ["events", "chat", "users", "sessions", "moderation"]}
            if self.signing_key_id:
                answer["signing_key_id"] = self.signing_key_id
            return 200, answer
        if (method, path) == ("POST", "/backend/conversations"):
            return 201, {"conversation_id": 123, **body}
        if path == "/backend/sessions/revoke":
            return 200, {"revoked_before": "2026-01-01T00:00:00Z"}
        if re.fullmatch(r"/backend/users/\d+/erase", path):
            return 202, {"erasure_id": 7}
        if re.fullmatch(r"/backend/users/\d+/preferences", path):
            return 200, {"types": {}, "quiet": None, "defaults": {}, "mandatory": [], **(body or {})}
        if re.fullmatch(r"/backend/held/\d+", path):
            return 200, {}
        if found := re.fullmatch(r"/backend/conversations/(\d+)/messages(/(\d+))?", path):
            if body.get("sender_id") == 99:
                return 403, problem(403, "forbidden")
            status = 201 if method == "POST" else 200
            return status, {"conversation_id": int(found[1]), "message_id": int(found[3] or 987), **body}
        return 404, problem(404, "not_found", "no such path")

    def store(self, connection: int, event: dict[str, Any]) -> dict[str, Any]:
        refused = self.refuse(event)
        if refused is not None:
            return dict(refused[1])
        with self.lock:
            self.publications.append(event)
            self.events.setdefault(event["event_id"], event)
            process = event.get("data", {}).get("process")
            if process is not None:
                self.processes.setdefault(connection, set()).add(process)
            seq = len(self.events)
        self.stored(event)
        return {"event_id": event["event_id"], "seq": seq}


def problem(status: int, code: str, detail: str = "") -> dict[str, Any]:
    detail = detail or f"a {code} of the tests"
    return {"type": "about:blank", "title": "", "status": status, "code": code, "detail": detail}


def kill_process(event: dict[str, Any]) -> None:
    """For `stored`: kills the process that has published the event."""
    os.kill(event["data"]["process"], signal.SIGKILL)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: Gateway

    numbers = itertools.count()

    def setup(self) -> None:
        super().setup()
        self.number = next(self.numbers)
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        super().finish()

    def respond(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = json.loads(content) if content else None
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            status, answer = 401, problem(401, "unauthorized")
        else:
            status, answer = self.owner.answer(self.number, self.command, self.path, body)
        if status == 0:
            self.close_connection = True  # No answer.
            return
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload) if status != 299 else 1_000_000))
        self.end_headers()
        if status == 299:
            # Forever another byte, so that no single read takes long.
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)
        self.wfile.write(payload)

    do_GET = do_POST = do_PATCH = do_DELETE = respond

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
