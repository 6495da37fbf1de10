"""Payments, which notify the buyer and the seller."""

from vyzio_realtime_django import emit

from .models import Payment


class AlreadySold(Exception):
    """Someone has bought the listing."""


def pay(listing, buyer, amount):
    """Sells the listing. The notifications are committed together with the payment. Raises AlreadySold."""
    payment, is_new = Payment.objects.get_or_create(listing=listing, defaults={"buyer": buyer, "amount": amount})
    if not is_new:
        raise AlreadySold
    data = {"payment_id": payment.pk, "listing_id": listing.pk}
    emit("payment_completed", to=buyer, data=data, key=f"payment-{payment.pk}")
    emit(
        "listing_sold",
        to=listing.seller,
        data=data,
        key=f"payment-{payment.pk}",
        title="Annonce vendue",
        message=f"{buyer.get_username()} a acheté « {listing} »",
    )
