"""`{% load realtime %}{% realtime %}`: what a page needs to connect, as JSON."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.context import RequestContext
from django.urls import reverse
from django.utils.html import json_script
from django.utils.safestring import SafeString

from ..conf import settings

register = template.Library()


@register.simple_tag(takes_context=True)
def realtime(context: RequestContext | dict[str, Any], element_id: str = "vyzio-realtime") -> SafeString:
    """A script element of JSON: `{"url", "client", "token", "user"}`. `user` is null if nobody is signed in."""
    user = getattr(context.get("request"), "user", None)
    url = (settings().PUBLIC_URL or settings().URL).rstrip("/")
    known = {"id": user.pk, "username": user.get_username()} if user and user.is_authenticated else None
    values = {
        "url": url,
        "client": f"{url}/client/realtime.js",
        "token": reverse("vyzio_realtime:token"),
        "user": known,
    }
    return json_script(values, element_id)
