"""Reminders of unread messages become mails."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import signing
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.dispatch import receiver
from django.template.loader import render_to_string
from django.urls import reverse
from vyzio_realtime_django.signals import reminder_due

from .models import NoMails

SITE = getattr(settings, "SITE_URL", "http://127.0.0.1:8080")


@receiver(reminder_due)
def send_mail(data, **kwargs):
    user = get_user_model().objects.filter(pk=data["user_id"], is_active=True).first()
    if user is None or not user.email or NoMails.objects.filter(user=user).exists():
        return
    unsubscribe = SITE + reverse("no-mails", args=[signing.dumps(user.pk, salt="no-mails")])
    context = {"user": user, "items": data["items"], "site": SITE, "unsubscribe": unsubscribe}
    mail = EmailMultiAlternatives(
        "Vous avez des messages non lus",
        render_to_string("shop/reminder.txt", context),
        to=[user.email],
        headers={"List-Unsubscribe": f"<{unsubscribe}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    )
    mail.attach_alternative(render_to_string("shop/reminder.html", context), "text/html")
    # After the commit: a webhook that comes again because of a rollback must not send a second mail.
    transaction.on_commit(mail.send)
