"""During a migration from Django Channels, `VYZIO["ALSO_CHANNELS"] = True` sends each event to the old pages, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from asgiref.sync import async_to_sync

from .conf import settings

log = logging.getLogger("vyzio_realtime")


def send(type: str, body: Mapping[str, Any], timeout: float) -> None:
    """Sends an event to its users' groups, if `ALSO_CHANNELS` is set. Never raises, and takes `timeout` seconds at most."""
    if not settings().ALSO_CHANNELS:
        return
    try:
        async_to_sync(_send)(type, body, timeout)
    except Exception:
        # Channels may lose messages anyway, and the event is not lost.
        log.warning("event %s was not sent to Django Channels", body["event_id"], exc_info=True)


async def _send(type: str, body: Mapping[str, Any], timeout: float) -> None:
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    if layer is None:
        raise RuntimeError("CHANNEL_LAYERS has no default layer")
    message = {
        "type": settings().CHANNELS_TYPE,
        "event": type,
        "title": body.get("title", ""),
        "message": body.get("message", ""),
        "data": body.get("data", {}),
    }
    groups = [settings().CHANNELS_GROUP.format(user_id=user) for user in body["user_ids"]]
    sending = asyncio.gather(*(layer.group_send(group, message) for group in groups))
    await asyncio.wait_for(sending, timeout)
