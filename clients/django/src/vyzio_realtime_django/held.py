"""Verdicts about messages that are held for a moderator."""

from __future__ import annotations

from typing import Any

from .backends import backend
from .conf import settings
from .ids import id_in


def release(held_id: int) -> dict[str, Any]:
    """Lets a held message into its conversation. Raises Refused (also if it was judged meanwhile) or Unavailable."""
    return _judge({"held_id": id_in(held_id, "held_id"), "verdict": "release"})


def refuse(held_id: int, reason: str) -> dict[str, Any]:
    """Refuses a held message. Its sender reads the reason. Raises Refused (also if it was judged meanwhile) or Unavailable."""
    return _judge({"held_id": id_in(held_id, "held_id"), "verdict": "refuse", "reason": reason})


def _judge(body: dict[str, Any]) -> dict[str, Any]:
    return backend().call("chat.held.judge", body, settings().TIMEOUT)
