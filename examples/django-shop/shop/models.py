from django.conf import settings
from django.db import models


class Listing(models.Model):
    seller = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    # In cents.
    price = models.PositiveIntegerField()
    # An emoji, in the place of a photo.
    picture = models.CharField(max_length=8, blank=True)

    def __str__(self):
        return self.title


class Conversation(models.Model):
    """A buyer and the seller of a listing, in the conversation with this id."""

    id = models.BigIntegerField(primary_key=True)
    listing = models.ForeignKey(Listing, on_delete=models.CASCADE)
    buyer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)

    def __str__(self):
        return f"{self.buyer}, {self.listing}"


class Offer(models.Model):
    """An offer of the buyer. The message in the conversation shows the state that is here."""

    State = models.TextChoices("State", ["open", "accepted", "declined", "withdrawn"])

    # Chosen by the page: a form that is sent twice is one offer, and one message.
    key = models.UUIDField(unique=True)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE)
    # In cents.
    amount = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State.choices, default=State.open)
    # Null until the message is known to be stored.
    message_id = models.BigIntegerField(null=True)

    def __str__(self):
        return f"{self.amount / 100:.2f} €, {self.conversation}"

    def data(self):
        """The data of the message, of the kind `offer`."""
        return {"offer_id": self.pk, "amount": self.amount, "currency": "EUR", "state": self.state}


class Payment(models.Model):
    """A listing is sold once."""

    listing = models.OneToOneField(Listing, on_delete=models.CASCADE)
    buyer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    # In cents.
    amount = models.PositiveIntegerField()


class PushSubscription(models.Model):
    """A browser of a user that shows reminders."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    endpoint = models.CharField(max_length=512, unique=True)
    # Keys of the browser, as it gave them: base64.
    p256dh = models.CharField(max_length=128)
    auth = models.CharField(max_length=64)
