"""Which reminders a user wants. The server keeps it; the browsers that show pushes are here."""

import json
from datetime import time

from django import forms
from django.conf import settings
from django.contrib import messages as flash
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from vyzio_realtime_django import RealtimeError, preferences

from . import push
from .models import PushSubscription

SALT = "unsubscribe"
# All types of notifications.
ALL = "*"
CHANNELS = ("mail", "push")
HOURS = forms.TimeInput({"type": "time"}, format="%H:%M")


class PreferencesForm(forms.Form):
    mail = forms.BooleanField(required=False, label="Par e-mail")
    push = forms.BooleanField(required=False, label="Par notification sur mes appareils")
    quiet_from = forms.TimeField(required=False, label="Ne pas me déranger de", widget=HOURS)
    quiet_to = forms.TimeField(required=False, label="à", widget=HOURS)

    def clean(self):
        cleaned = super().clean()
        if (cleaned.get("quiet_from") is None) != (cleaned.get("quiet_to") is None):
            raise ValidationError("Indiquez les deux heures, ou aucune.")
        return cleaned

    @staticmethod
    def values_of(found):
        """What applies: the user's settings, or the operator's defaults, or on."""
        own, defaults = (found[part].get(ALL, {}) for part in ("types", "defaults"))
        quiet = found["quiet"]
        return {
            **{channel: own.get(channel, defaults.get(channel, True)) for channel in CHANNELS},
            "quiet_from": quiet and time.fromisoformat(quiet["from"]),
            "quiet_to": quiet and time.fromisoformat(quiet["to"]),
        }

    def save(self, user):
        """Sends what was changed: the rest stays as it is, also where the defaults apply. Raises a RealtimeError."""
        wanted = self.cleaned_data
        changes = {}
        types = {channel: wanted[channel] for channel in CHANNELS if channel in self.changed_data}
        if types:
            changes["types"] = {ALL: types}
        if not {"quiet_from", "quiet_to"}.isdisjoint(self.changed_data):
            start, end = wanted["quiet_from"], wanted["quiet_to"]
            hours = {"from": f"{start:%H:%M}", "to": f"{end:%H:%M}", "tz": settings.TIME_ZONE} if start else None
            changes["quiet"] = hours
        if changes:
            preferences.set(user, **changes)


@login_required
def page(request):
    context = {"push_key": push.public_key(), "push_url": "/preferences/push/", "worker": "/sw.js"}
    try:
        initial = PreferencesForm.values_of(preferences.get(request.user))
        data = request.POST if request.method == "POST" else None
        form = PreferencesForm(data, initial=initial, label_suffix="")
        if form.is_valid():
            form.save(request.user)
            flash.success(request, "C’est noté.")
            return redirect("preferences")
    except RealtimeError:
        return render(request, "shop/preferences.html", {"is_away": True}, status=503)
    return render(request, "shop/preferences.html", {"form": form, "page": context})


@login_required
@require_POST
def subscribe(request):
    """Keeps the subscription of this browser, as `PushSubscription.toJSON` gives it."""
    try:
        given = json.loads(request.body)
        endpoint, keys = given["endpoint"], {name: given["keys"][name] for name in ("p256dh", "auth")}
        push.check(endpoint, **keys)
    except (KeyError, TypeError, ValueError):
        return JsonResponse({"detail": "Cet abonnement n’est pas valable."}, status=400)
    PushSubscription.objects.update_or_create(endpoint=endpoint, defaults={"user": request.user, **keys})
    request.session[push.ENDPOINT] = endpoint
    return HttpResponse(status=204)


def service_worker(request):
    """The script that shows pushes. Its path must be above the pages."""
    return render(request, "shop/sw.js", content_type="text/javascript")


def unsubscribe_token(user):
    """A token for links in mails, which work without signing in."""
    return signing.dumps(user.pk, salt=SALT)


@csrf_exempt
def unsubscribe(request, token):
    """Ends the mails. Mail programs POST here for one click (RFC 8058); a person, or a scanner of links, gets a button."""
    try:
        pk = signing.loads(token, salt=SALT)
    except signing.BadSignature as error:
        raise Http404 from error
    if request.method != "POST":
        return render(request, "shop/unsubscribe.html")
    # A user who was deleted gets no mails, and nothing must be stored about them.
    user = get_user_model().objects.filter(pk=pk).first()
    try:
        if user is not None:
            preferences.switch_off(user, "mail")
    except RealtimeError:
        return render(request, "shop/unsubscribe.html", {"is_away": True}, status=503)
    return render(request, "shop/unsubscribe.html", {"is_done": True})
