"""The token endpoint and the webhook endpoint."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from . import webhooks
from .conf import settings
from .errors import InvalidWebhook
from .tokens import token_for

# Longest webhook.
WEBHOOK_BYTES = 1024 * 1024


@require_safe
@cache_control(no_store=True, private=True)
def token(request: HttpRequest) -> HttpResponse:
    """`{"token": "…"}` for the user of the session, 401 if nobody is signed in."""
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "nobody is signed in"}, status=401)
    return JsonResponse({"token": token_for(request.user)})


@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """Handles a webhook once. Answers 204 after the receivers' transaction is committed, also for a repeat."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > WEBHOOK_BYTES:
        return JsonResponse({"detail": "the webhook is too long"}, status=413)
    if not settings().webhook_secrets:
        return JsonResponse({"detail": 'VYZIO["WEBHOOK_SECRET"] is not set'}, status=503)
    try:
        webhook_id = webhooks.verify(request.body, request.headers, settings().webhook_secrets)
        webhooks.handle(webhook_id, request.body)
    except InvalidWebhook as error:
        return JsonResponse({"detail": str(error)}, status=400)
    return HttpResponse(status=204)
