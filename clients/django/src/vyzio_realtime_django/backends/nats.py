"""The connection over NATS, with nats-py: one connection for each process, on a thread of its own.

It needs real threads: with gevent, use HTTP.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import os
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import nats
import nats.errors

from ..conf import settings
from ..errors import RealtimeError, Refused, Unavailable
from . import Event

T = TypeVar("T")
log = logging.getLogger("vyzio_realtime")


class Backend:
    """The subjects of events and of `ROUTES`."""

    def __init__(self) -> None:
        self._reset()
        # A fork opens a connection of its own. The lock may be held by another thread while the process forks.
        os.register_at_fork(after_in_child=self._reset)

    def publish(self, events: Sequence[Event], timeout: float) -> list[RealtimeError | None]:
        return self._run(self._publish(events, timeout), timeout)

    def call(self, subject: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        return self._run(self._call(subject, body, timeout), timeout)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._connecting = asyncio.Lock()

    def _run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="vyzio-realtime", daemon=True).start()
        running = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), self._loop)
        try:
            return running.result()
        except RealtimeError:
            raise
        except (
            TimeoutError,
            asyncio.TimeoutError,
            concurrent.futures.TimeoutError,
            nats.errors.Error,
            OSError,
        ) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._connection is None:
                credentials = {"user_credentials": settings().NATS_CREDS} if settings().NATS_CREDS else {}
                servers = settings().NATS_URL.split(",")
                self._connection = await nats.connect(
                    servers, name="django", max_reconnect_attempts=-1, error_cb=_log_error, **credentials
                )
        return self._connection

    async def _publish(self, events: Sequence[Event], timeout: float) -> list[RealtimeError | None]:
        jetstream = (await self._connected()).jetstream()
        outcomes: list[RealtimeError | None] = []
        for kind, body in events:
            try:
                await jetstream.publish(f"events.{kind}", json.dumps(body, allow_nan=False).encode(), timeout=timeout)
                outcomes.append(None)
            except nats.errors.Error as error:
                # Later events wait, so that their order is kept.
                outcomes += [Unavailable(f"{type(error).__name__}: {error}")] * (len(events) - len(outcomes))
                break
        return outcomes

    async def _call(self, subject: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        connection = await self._connected()
        payload = json.dumps(body, allow_nan=False).encode()
        headers = {"Vyzio-Deadline": str(int((time.time() + timeout) * 1000))}
        reply = await connection.request(subject, payload, timeout=timeout, headers=headers)
        status = (reply.headers or {}).get("Nats-Service-Error-Code")
        if status is None:
            answer: dict[str, Any] = json.loads(reply.data) if reply.data else {}
            return answer
        code, _, detail = reply.headers.get("Nats-Service-Error", "").partition(": ")
        if int(status) in (429, 500, 503):
            raise Unavailable(f"{status} {code}: {detail}")
        raise Refused(int(status), code, detail)


async def _log_error(error: Exception) -> None:
    log.info("the connection to NATS: %r", error)
