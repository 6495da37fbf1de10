import hashlib

from django.contrib import messages as flash
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from vyzio_realtime_django import Refused, Unavailable, conversations, emit, messages

from .models import Listing, NoMails, Payment


def listings(request):
    return render(request, "shop/listings.html", {"listings": Listing.objects.order_by("-pk")})


def listing(request, pk):
    return render(request, "shop/listing.html", {"listing": get_object_or_404(Listing, pk=pk)})


@login_required
@require_POST
def contact(request, pk):
    """Writes to the seller. A second click with the same text sends nothing."""
    listing = get_object_or_404(Listing, pk=pk)
    text = request.POST["text"]
    # The page's number and the text: an edited text is another message.
    client_id = hashlib.sha256(f"{request.POST['client_id']}:{text}".encode()).hexdigest()[:32]
    try:
        conversation = conversations.between(request.user, listing.seller, listing=listing.pk)
        messages.send(conversation, request.user, text, client_id=client_id)
    except Refused as error:
        flash.error(request, {"blocked": "This seller does not want your messages."}.get(error.code, error.detail))
    except Unavailable:
        flash.error(request, "The message was not sent. Please try again.")
    else:
        flash.success(request, "Your message was sent.")
    return redirect("listing", pk=pk)


@login_required
@require_POST
def pay(request, pk):
    listing = get_object_or_404(Listing, pk=pk)
    payment = Payment.objects.create(listing=listing, buyer=request.user)
    data = {"payment_id": payment.pk, "listing_id": listing.pk}
    emit("payment_completed", to=request.user, data=data, key=f"payment-{payment.pk}")
    emit(
        "listing_sold",
        to=listing.seller,
        data=data,
        key=f"payment-{payment.pk}",
        title="Annonce vendue",
        message=f"{request.user.get_username()} a acheté « {listing} »",
    )
    flash.success(request, "Thank you!")
    return redirect("listing", pk=pk)


@csrf_exempt
def no_mails(request, token):
    """Ends the reminders by mail. Mail programs POST here for one click (RFC 8058); a person sees a button."""
    try:
        user = signing.loads(token, salt="no-mails")
    except signing.BadSignature as error:
        raise Http404 from error
    if request.method != "POST":
        return render(request, "shop/no_mails.html")
    NoMails.objects.get_or_create(user_id=user)
    return HttpResponse("You will get no more reminders by mail.")
