"""Views that emit an event with the id of their process, so that tests see which process used which connection."""

import os
import signal

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from shop.models import Payment
from vyzio_realtime_django import aemit, emit


def _paid(user_id: int) -> int:
    payment = Payment.objects.create(user_id=user_id)
    data = {"payment_id": payment.pk, "process": os.getpid()}
    emit("payment_completed", to=user_id, data=data, key=f"payment-{payment.pk}")
    return int(payment.pk)


@transaction.atomic
def pay(request: HttpRequest, user_id: int) -> HttpResponse:
    return JsonResponse({"payment_id": _paid(user_id)})


@transaction.atomic
def broken(request: HttpRequest, user_id: int) -> HttpResponse:
    _paid(user_id)
    raise RuntimeError("after the event")


async def pay_async(request: HttpRequest, user_id: int) -> HttpResponse:
    payment = await Payment.objects.acreate(user_id=user_id)
    data = {"payment_id": payment.pk, "process": os.getpid()}
    await aemit("payment_completed", to=user_id, data=data, key=f"payment-{payment.pk}")
    return JsonResponse({"payment_id": payment.pk})


def killed(request: HttpRequest, user_id: int) -> HttpResponse:
    with transaction.atomic():
        # Runs after the commit, before the event is published.
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        _paid(user_id)
    return HttpResponse()


def several(request: HttpRequest, user_id: int) -> HttpResponse:
    for _ in range(5):
        with transaction.atomic():
            _paid(user_id)
    return HttpResponse()


def page(request: HttpRequest) -> HttpResponse:
    return render(request, "page.html")
