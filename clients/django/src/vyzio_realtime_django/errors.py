"""Errors of calls to Vyzio Realtime."""

from __future__ import annotations


class RealtimeError(Exception):
    """A call to Vyzio Realtime has failed."""


class Unavailable(RealtimeError):
    """A temporary failure. The call may have had its effect. Repeat it with the same `key` or `client_id`, if it has one."""


class Refused(RealtimeError):
    """The server has refused the call. `status` is the HTTP status, `code` is for programs, `detail` is for people."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.status = status
        self.code = code
        self.detail = detail


class InvalidWebhook(Exception):
    """A webhook that is not from Vyzio Realtime, or is not complete. The message is for the sender."""
