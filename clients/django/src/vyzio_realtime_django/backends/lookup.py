"""The look-up of the gateway's name, which the system may take half a minute for, with a deadline."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any


class Lookup:
    """The addresses of a name. In each process, one thread at a time asks the system, and all callers wait for it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._running: _Question | None = None
        # At last: until then, other threads reset it too, instead of waiting for the lock of the process before.
        self._process = os.getpid()

    def addresses(self, seconds: float) -> list[Any]:
        """As `socket.getaddrinfo`. Raises OSError, or TimeoutError after these seconds."""
        try:
            return _ask(self.host, self.port, socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            pass  # It is a name, or nothing: the thread says what.
        if self._process != os.getpid():
            # The thread is not in a fork, and the lock may have been held while the process forked.
            self._reset()
        with self._lock:
            question = self._running
            if question is None or question.is_answered.is_set():
                question = self._running = _Question(self.host, self.port)
        if not question.is_answered.wait(seconds):
            raise TimeoutError(f"the look-up of {self.host} timed out")
        if question.error is not None:
            raise type(question.error)(*question.error.args)
        return question.addresses


class _Question:
    def __init__(self, host: str, port: int) -> None:
        self.is_answered = threading.Event()
        self.addresses: list[Any] = []
        self.error: OSError | None = None
        threading.Thread(target=self._run, args=(host, port), name="vyzio-lookup", daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        try:
            self.addresses = _ask(host, port)
        except OSError as error:
            self.error = error
        except UnicodeError as error:
            self.error = OSError(f"{host} is no name: {error}")
        finally:
            self.is_answered.set()


def _ask(host: str, port: int, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
