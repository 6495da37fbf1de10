"""A buyer visits the shop of examples/django-shop. Prints what has happened as JSON."""

import json
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
import django
from django.conf import settings

# By default, the package gives up after a second, which a busy machine may need.
settings.VYZIO["TIMEOUT"] = 30
django.setup()

from django.contrib.auth.models import User
from django.test import Client
from shop.models import Listing

seller, buyer = (User.objects.create_user(name, f"{name}@shop.example") for name in ("seller", "buyer"))
listing = Listing.objects.create(seller=seller, title="Vélo", price=12000)
client = Client()
client.force_login(buyer)
assert "vyzio-realtime" in client.get(f"/listings/{listing.pk}/").content.decode()
assert client.get("/realtime/token/").status_code == 200
for _ in range(2):
    response = client.post(f"/listings/{listing.pk}/contact/", {"text": "Bonjour", "client_id": "1"}, follow=True)
    assert response.request["PATH_INFO"].startswith("/messages/"), response.content
assert client.post(f"/listings/{listing.pk}/buy/").status_code == 302
assert "déjà vendu" in client.post(f"/listings/{listing.pk}/buy/", follow=True).content.decode()
print(json.dumps({"seller": seller.pk, "buyer": buyer.pk}))
