"""A Django site in one file. /pay/<user>/<payment>/ notifies the user of a payment.

A real site perhaps also needs an outbox: see docs/publishing.md.
"""

import json
import os
import sys
import urllib.request

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path

URL = os.environ.get("REALTIME_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("REALTIME_KEY", "the-key-of-backends-on-a-local-stack")

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="not for production", ALLOWED_HOSTS=["*"], DEBUG=False)


def publish(kind, event):
    """Returns once the event is stored."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{URL}/backend/events/{kind}", json.dumps(event).encode(), headers)
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def pay(request, user_id, payment_id):
    event = {"event_id": f"payment-{payment_id}", "user_id": user_id, "data": {"payment_id": payment_id}}
    stored = publish("payment_completed", event)
    return JsonResponse({"payment_id": payment_id, "event": stored["seq"]})


urlpatterns = [path("pay/<int:user_id>/<int:payment_id>/", pay)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
