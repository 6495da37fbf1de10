"""Sample users and listings: those of the conversations that `cargo xtask up` creates."""

from django.contrib.auth import get_user_model
from django.utils.text import slugify
from vyzio_realtime_django import conversations

from .models import Conversation, Listing

PEOPLE = {1: "alice", 2: "bruno", 3: "chloé", 4: "david", 5: "emma"}
STAFF = (100, "moderation")
# Id, picture, title, price in euros, seller, buyer of the sample conversation, description.
LISTINGS = [
    (1, "🚲", "Vélo de ville", 120, 2, 1, "Cadre de 52, pneus et freins neufs. Parfait entre 1,62 m et 1,75 m."),
    (2, "🛋️", "Canapé trois places", 250, 1, 3, "Tissu gris, très bon état. Les pieds se dévissent."),
    (3, "💡", "Lampe de bureau vintage", 35, 5, 1, "Années 70, avec une ampoule LED presque neuve."),
    (4, "📷", "Appareil photo argentique", 90, 4, 2, "La cellule fonctionne, testée avec une pellicule neuve."),
    (5, "🪑", "Table de ferme", 180, 1, 4, "Deux mètres dix, en chêne. Elle se démonte."),
    (6, "🎸", "Cours de guitare", 25, 5, 2, "Une heure, chez moi ou chez vous. Débutants bienvenus."),
]


def load():
    """Creates what is missing here. Existing rows stay as they are."""
    users = get_user_model().objects
    for pk, name in PEOPLE.items():
        if not users.filter(pk=pk).exists():
            users.create_user(name, f"{slugify(name)}@shop.example", pk=pk)
    if not users.filter(pk=STAFF[0]).exists():
        users.create_superuser(STAFF[1], f"{STAFF[1]}@shop.example", pk=STAFF[0])
    for pk, picture, title, price, seller, _, description in LISTINGS:
        values = {"picture": picture, "title": title, "price": price * 100, "description": description}
        Listing.objects.get_or_create(pk=pk, defaults={"seller_id": seller, **values})


def open_conversations():
    """Opens the sample conversations, or finds them. Raises Refused or Unavailable."""
    users = {user.pk: user for user in get_user_model().objects.filter(pk__in=PEOPLE)}
    for pk, _, title, price, seller, buyer, _ in LISTINGS:
        opened = conversations.between(users[buyer], users[seller], listing=pk, title=f"{title}, {price} €")
        Conversation.objects.get_or_create(id=opened["conversation_id"], defaults={"listing_id": pk, "buyer_id": buyer})
