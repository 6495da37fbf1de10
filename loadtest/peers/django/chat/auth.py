from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken


@database_sync_to_async
def user_of(token):
    try:
        return get_user_model().objects.get(id=AccessToken(token)["user_id"])
    except (TokenError, KeyError, get_user_model().DoesNotExist):
        return AnonymousUser()


class JWTAuthMiddleware:
    """Sets the scope's user from the token in the query."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        tokens = parse_qs(scope["query_string"].decode()).get("token", [""])
        return await self.app({**scope, "user": await user_of(tokens[0])}, receive, send)
