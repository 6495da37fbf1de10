"""Webhooks: reports of users. reminders.py has the reminders."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.mail import send_mail
from django.dispatch import receiver
from django.urls import reverse
from vyzio_realtime_django.signals import message_reported


@receiver(message_reported)
def tell_moderators(data, **kwargs):
    """The admin has the report; this tells the staff to look."""
    staff = get_user_model().objects.filter(is_staff=True, is_active=True).exclude(email="")
    page = settings.SITE_URL + reverse("admin:vyzio_realtime_report_change", args=[data["report_id"]])
    send_mail("Un signalement", page, None, [user.email for user in staff])
