"""A buyer visits the shop of examples/django-shop. Prints what has happened as JSON."""

import base64
import hashlib
import hmac
import json
import os
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
import django

django.setup()

from django.conf import settings
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from shop.models import Listing, NoMails

settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
mail.outbox = []
seller, buyer = (User.objects.create_user(name, f"{name}@shop.example") for name in ("seller", "buyer"))
listing = Listing.objects.create(seller=seller, title="Vélo")
client = Client()
client.force_login(buyer)
assert "vyzio-realtime" in client.get(f"/listings/{listing.pk}/").content.decode()
assert client.get("/realtime/token/").status_code == 200
for _ in range(2):
    response = client.post(f"/listings/{listing.pk}/contact/", {"text": "Bonjour", "client_id": "1"}, follow=True)
    assert "Your message was sent." in response.content.decode(), response.content
assert client.post(f"/listings/{listing.pk}/pay/").status_code == 302


def remind(number):
    data = {"event_id": f"reminder-{number}", "user_id": seller.pk, "items": [{"message": "buyer a envoyé un message"}]}
    body = json.dumps({"type": "notify.reminder", "timestamp": "2026-01-01T00:00:00Z", "data": data})
    now = str(int(time.time()))
    key = base64.b64decode(os.environ["VYZIO_WEBHOOK_SECRET"].removeprefix("whsec_"))
    signature = hmac.new(key, f"reminder-{number}.{now}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "HTTP_WEBHOOK_ID": f"reminder-{number}",
        "HTTP_WEBHOOK_TIMESTAMP": now,
        "HTTP_WEBHOOK_SIGNATURE": "v1," + base64.b64encode(signature).decode(),
    }
    response = Client().post("/realtime/webhook/", body, content_type="application/json", **headers)
    assert response.status_code == 204, response.content


remind(1)
remind(1)
[sent] = mail.outbox
link = sent.extra_headers["List-Unsubscribe"].strip("<>").removeprefix("http://127.0.0.1:8080")
assert Client().get(link).status_code == 200 and not NoMails.objects.exists(), "a mail scanner follows links"
assert Client().post(link).status_code == 200
assert Client().post("/no-mails/forged/").status_code == 404
remind(2)
mails = [[*message.to, message.extra_headers["List-Unsubscribe-Post"]] for message in mail.outbox]
print(json.dumps({"seller": seller.pk, "buyer": buyer.pk, "mails": mails}))
