"""Webhooks: a reminder of what is unread becomes a mail or web pushes, and pushes go away once it is read.

The server decides when, and asks the user's preferences. What is done here is done once for each webhook, and again if it
raises an exception: if the mail server is away, the reminder comes again later.
"""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.mail import EmailMultiAlternatives
from django.dispatch import receiver
from django.template.loader import render_to_string
from django.urls import reverse
from vyzio_realtime_django.signals import reminder_due, settled

from . import push
from .preferences import unsubscribe_token

LONGEST_SUBJECT = 150
# A reminder may be sent again after it was settled. Several processes need a cache that they share.
SETTLED_SECONDS = 7 * 24 * 3600


@receiver(reminder_due)
def remind(data, **kwargs):
    user = get_user_model().objects.filter(pk=data["user_id"], is_active=True).first()
    if user is None:
        return
    items = [{**item, "link": link(item)} for item in data["items"]]
    if data["step"] == "mail" and user.email:
        send_mail(user, items, data.get("more", 0))
    elif data["step"] == "push" and not cache.get(f"settled:{data['event_id']}"):
        show = {
            "tag": data["event_id"],
            "title": items[0]["title"],
            "body": items[0]["message"],
            "link": items[0]["link"],
        }
        push.send(user, {"show": show})


@receiver(settled)
def remove_pushes(data, **kwargs):
    """Everything in these reminders has been read, here or on another device."""
    cache.set_many({f"settled:{event_id}": True for event_id in data["reminders"]}, SETTLED_SECONDS)
    user = get_user_model().objects.filter(pk=data["user_id"]).first()
    if user is not None:
        push.send(user, {"close": data["reminders"]})


def link(item):
    """Where an item leads."""
    data = item.get("data") or {}
    if "conversation_id" in data:
        return settings.SITE_URL + reverse("conversation", args=[data["conversation_id"]])
    return settings.SITE_URL + "/"


def send_mail(user, items, more):
    unsubscribe = settings.SITE_URL + reverse("unsubscribe", args=[unsubscribe_token(user)])
    preferences = settings.SITE_URL + reverse("preferences")
    context = {"user": user, "items": items, "more": more, "unsubscribe": unsubscribe, "preferences": preferences}
    subject = items[0]["message"] if len(items) == 1 else "Vous avez des messages non lus"
    mail = EmailMultiAlternatives(
        " ".join(subject.split())[:LONGEST_SUBJECT],  # A subject is one line.
        render_to_string("shop/reminder.txt", context),
        to=[user.email],
        # One click in the mail program ends the mails (RFC 8058).
        headers={"List-Unsubscribe": f"<{unsubscribe}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
    )
    mail.attach_alternative(render_to_string("shop/reminder.html", context), "text/html")
    mail.send()
