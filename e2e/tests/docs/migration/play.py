import json

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand
from django.db import transaction
from django.test import Client

from chat.models import Conversation, Message
from shop.models import Payment
from shop.payments import payment_completed


def send(conversation, sender, *texts, is_read=False):
    for text in texts:
        Message.objects.create(conversation=conversation, sender_id=sender, content=text, is_read=is_read)


def fill():
    for pk, name in [(456, "john_doe"), (457, "mary"), (458, "bob")]:
        User.objects.create_user(id=pk, username=name, password="secret")
    bike = Conversation.objects.create(id=123, listing_id=12, title="Vélo")
    bike.participants.set([456, 457])
    send(bike, 457, 'Bonjour, "le vélo" est là ?', "Deux\nlignes; et, une virgule 👋", is_read=True)
    send(bike, 456, "Oui")
    send(bike, 457, "Merci")
    again = Conversation.objects.create(id=124, listing_id=12)
    again.participants.set([456, 457])
    three = Conversation.objects.create(id=125)
    three.participants.set([456, 457, 458])
    send(three, 458, "À trois")
    Conversation.objects.create(id=126)  # All participants have deleted their accounts.


def more():
    send(Conversation.objects.get(id=123), 456, "Plus tard")
    late = Conversation.objects.create(id=127, title="Neuve")
    late.participants.set([457, 458])
    send(late, 457, "Première")


def too_late():
    send(Conversation.objects.get(id=123), 456, "Trop tard")


def on_its_own_again():
    send(Conversation.objects.get(id=123), 456, "De retour")


def take_back():
    Message.objects.get(content="Trop tard").delete()


def messages():
    rows = Message.objects.order_by("id").values_list("id", "conversation_id", "sender_id", "content")
    return [list(row) for row in rows]


def token():
    response = Client().post("/token/", {"username": "john_doe", "password": "secret"})
    return response.json()["access"]


def cookie():
    client = Client()
    client.force_login(User.objects.get(id=457))
    first = client.get("/page/").cookies["access_token"].value
    assert "access_token" not in client.get("/page/").cookies, "a valid token is not replaced"
    # Not the same user, because a logout revokes the user's tokens.
    other = Client()
    other.force_login(User.objects.get(id=458))
    token = other.get("/page/").cookies["access_token"].value
    other.logout()  # This deletes all cookies of the test client.
    other.cookies["access_token"] = token
    assert other.get("/page/").cookies["access_token"].value == "", "the cookie is not deleted with the session"
    return first


def pay():
    """Also checks that a page of the old guide is told."""
    layer = get_channel_layer()
    async_to_sync(layer.group_add)("notifications_456", "old-page")
    with transaction.atomic():
        payment = Payment.objects.create(user_id=456, amount=10)
        payment_completed(payment)
    told = async_to_sync(layer.receive)("old-page")
    assert (told["type"], told["event"], told["data"]) == ("notify", "payment_completed", {"payment_id": payment.pk}), told
    assert Client().get("/paiement/456/990/").status_code == 200
    return payment.pk


COMMANDS = {
    "fill": fill,
    "more": more,
    "more-after-the-switch": too_late,
    "take-that-back": take_back,
    "on-its-own-again": on_its_own_again,
    "messages": messages,
    "token": token,
    "cookie": cookie,
    "pay": pay,
}


class Command(BaseCommand):
    help = "Run an action of the marketplace."

    def add_arguments(self, parser):
        parser.add_argument("action")

    def handle(self, *args, action, **options):
        self.stdout.write(json.dumps(COMMANDS[action]()))
