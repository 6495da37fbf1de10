"""The pages. offers.py has the calls of the page of a conversation."""

import hashlib

from django.conf import settings
from django.contrib import messages as flash
from django.contrib.auth import get_user_model, login, logout
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST
from vyzio_realtime_django import Refused, Unavailable, conversations, messages

from .models import Conversation, Listing
from .payments import AlreadySold, pay


def listings(request):
    found = Listing.objects.select_related("seller", "payment").order_by("pk")
    return render(request, "shop/listings.html", {"listings": found})


def listing(request, pk):
    found = get_object_or_404(Listing.objects.select_related("seller", "payment"), pk=pk)
    return render(request, "shop/listing.html", {"listing": found})


@login_required
@require_POST
def contact(request, pk):
    """Writes to the seller. A second click with the same text sends nothing."""
    listing = get_object_or_404(Listing.objects.exclude(seller=request.user), pk=pk)
    text = request.POST["text"]
    # The page's number and the text: an edited text is another message.
    client_id = hashlib.sha256(f"{request.POST['client_id']}:{text}".encode()).hexdigest()[:32]
    try:
        opened = conversations.between(request.user, listing.seller, listing=listing.pk, title=listing.title)
        messages.send(opened, request.user, text, client_id=client_id)
    except Refused as error:
        refusals = {"blocked": "Ce vendeur ne souhaite pas recevoir vos messages."}
        flash.error(request, refusals.get(error.code, error.detail))
        return redirect("listing", pk=pk)
    except Unavailable:
        flash.error(request, "Votre message n’a pas été envoyé. Réessayez dans un instant.")
        return redirect("listing", pk=pk)
    found, _ = Conversation.objects.get_or_create(
        id=opened["conversation_id"], defaults={"listing": listing, "buyer": request.user}
    )
    return redirect("conversation", pk=found.pk)


@login_required
@require_POST
def buy(request, pk):
    """Buys at the price of the listing."""
    listing = get_object_or_404(Listing.objects.exclude(seller=request.user), pk=pk)
    try:
        pay(listing, request.user, listing.price)
    except AlreadySold:
        flash.error(request, "Cet article est déjà vendu.")
    else:
        flash.success(request, "Merci pour votre achat !")
    return redirect("listing", pk=pk)


@login_required
def inbox(request):
    return render(request, "shop/inbox.html")


@login_required
def conversation(request, pk):
    """The page of a conversation. The client loads the messages from the gateway."""
    mine = Conversation.objects.filter(Q(buyer=request.user) | Q(listing__seller=request.user))
    found = get_object_or_404(mine.select_related("listing__seller", "listing__payment", "buyer"), pk=pk)
    is_buyer = found.buyer == request.user
    is_sold = hasattr(found.listing, "payment")
    page = {"conversation": found.pk, "isBuyer": is_buyer, "isSold": is_sold}
    other = found.listing.seller if is_buyer else found.buyer
    context = {"conversation": found, "other": other, "is_buyer": is_buyer, "is_sold": is_sold, "page": page}
    return render(request, "shop/conversation.html", context)


def sign_in(request):
    """Signs in as one of the sample users, without a password."""
    if not settings.DEBUG:
        raise Http404
    users = get_user_model().objects.filter(is_active=True).order_by("is_staff", "pk")
    if request.method == "POST":
        user = get_object_or_404(users, pk=request.POST["user"])
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return redirect("admin:index" if user.is_staff else "listings")
    return render(request, "shop/sign_in.html", {"users": users})


@require_POST
def sign_out(request):
    logout(request)
    return redirect("listings")
