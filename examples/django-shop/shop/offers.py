"""Offers: calls of the page of a conversation. Each answers 204, or an object with `detail`, which the page shows.

The state of an offer is here, and its message shows it: the change is sent after the commit, and repeated by the relay until
the gateway has it, or says that the message is deleted. So the message never shows a state that is not here.
"""

import uuid
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST
from vyzio_realtime_django import Refused, Unavailable, messages, outbox

from .models import Conversation, Offer
from .payments import AlreadySold, pay


class NotPossible(Exception):
    """What the user asks for is not possible. The text is for the user."""


def call(view):
    """Makes a view a call of the page."""

    @login_required
    @require_POST
    @wraps(view)
    def answer(request, **arguments):
        try:
            view(request, **arguments)
        except NotPossible as error:
            return JsonResponse({"detail": str(error)}, status=409)
        except AlreadySold:
            return JsonResponse({"detail": "Cet article est déjà vendu."}, status=409)
        except Refused as error:
            return JsonResponse({"detail": error.detail}, status=409)
        except Unavailable:
            return JsonResponse({"detail": "Cela n’a pas fonctionné. Réessayez dans un instant."}, status=503)
        return HttpResponse(status=204)

    return answer


@call
def make(request, pk):
    """Makes an offer, which is a message in the conversation."""
    conversation = get_object_or_404(Conversation, pk=pk, buyer=request.user)
    try:
        key = uuid.UUID(request.POST["key"])
        amount = round(float(request.POST["amount"].replace(",", ".")) * 100)
    except (ValueError, OverflowError) as error:
        raise NotPossible("Indiquez un montant.") from error
    if not 1 <= amount <= 100_000_00:
        raise NotPossible("Indiquez un montant entre 0,01 € et 100 000 €.")
    if hasattr(conversation.listing, "payment"):
        raise AlreadySold
    offer, _ = Offer.objects.get_or_create(key=key, defaults={"conversation": conversation, "amount": amount})
    if (offer.conversation, offer.amount) != (conversation, amount):
        raise NotPossible("Une autre offre existe déjà.")
    send(offer)


def send(offer):
    """Sends the message of an offer. If it was sent before, the gateway answers with the same message."""
    client_id = str(offer.key)
    conversation = offer.conversation
    sent = messages.send(conversation.pk, conversation.buyer, kind="offer", data=offer.data(), client_id=client_id)
    offer.message_id = sent["message_id"]
    offer.save(update_fields=["message_id"])


@call
@transaction.atomic
def decide(request, pk, state):
    """The seller accepts or declines an offer; the buyer withdraws it, or pays it once it is accepted."""
    offer = get_object_or_404(Offer.objects.select_for_update(), pk=pk)
    conversation = offer.conversation
    may = {
        conversation.listing.seller: {"accepted": "open", "declined": "open"},
        conversation.buyer: {"withdrawn": "open", "paid": "accepted"},
    }.get(request.user, {})
    if may.get(state) != offer.state:
        raise NotPossible("Ce n’est plus possible pour cette offre.")
    if state == "paid":
        pay(conversation.listing, conversation.buyer, offer.amount)
        return
    if hasattr(conversation.listing, "payment"):
        raise AlreadySold
    if offer.message_id is None:
        send(offer)  # The answer was lost.
    offer.state = state
    offer.save(update_fields=["state"])
    # Not `messages.update`: if its answer came late, the state would be rolled back here, and changed in the message.
    update = {"conversation_id": conversation.pk, "message_id": offer.message_id, "data": offer.data()}
    outbox.add("chat.messages.update", update, key=f"offer-{offer.pk}")
