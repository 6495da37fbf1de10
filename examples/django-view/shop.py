"""A Django site in one file. /pay/<user>/<payment>/ notifies the user of a payment.

A real site also needs one connection per process and perhaps an outbox: see docs/publishing.md.
"""

import asyncio
import json
import os
import sys

import nats
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path

SERVERS = os.environ.get("NATS_URL", "nats://127.0.0.1:4222").split(",")

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="not for production", ALLOWED_HOSTS=["*"], DEBUG=False)


async def publish(kind, event):
    connection = await nats.connect(SERVERS)
    try:
        return await connection.jetstream().publish(f"events.{kind}", json.dumps(event).encode(), timeout=5)
    finally:
        await connection.close()


def pay(request, user_id, payment_id):
    event = {"event_id": f"payment-{payment_id}", "user_id": user_id, "data": {"payment_id": payment_id}}
    stored = asyncio.run(publish("payment_completed", event))
    return JsonResponse({"payment_id": payment_id, "event": stored.seq})


urlpatterns = [path("pay/<int:user_id>/<int:payment_id>/", pay)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
