"""Tokens for the gateway, signed by djangorestframework-simplejwt or by PyJWT."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

from .conf import settings
from .ids import user_id

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser


def token_for(user: AbstractBaseUser) -> str:
    """A short-lived token of this user, for the gateway.

    If `SIGNING_KEY` is set, PyJWT signs it; otherwise djangorestframework-simplejwt, with its own settings. Raises
    ValueError if the user has no id, and ImproperlyConfigured if neither is there.
    """
    user_id(user)
    if settings().SIGNING_KEY:
        return _pyjwt(user)
    try:
        from rest_framework_simplejwt.tokens import AccessToken
    except ImportError as error:
        raise ImproperlyConfigured('set VYZIO["SIGNING_KEY"], or install djangorestframework-simplejwt') from error
    token = AccessToken.for_user(user)
    token["username"] = user.get_username()
    return str(token)


def _pyjwt(user: AbstractBaseUser) -> str:
    try:
        import jwt
    except ImportError as error:
        raise ImproperlyConfigured('VYZIO["SIGNING_KEY"] needs PyJWT: install vyzio-realtime-django[jwt]') from error
    now = int(time.time())
    claims: dict[str, Any] = {
        "token_type": "access",
        "user_id": user_id(user),
        "username": user.get_username(),
        "iat": now,
        "exp": now + settings().TOKEN_SECONDS,
        "jti": uuid.uuid4().hex,
    }
    if settings().ISSUER:
        claims["iss"] = settings().ISSUER
    if settings().AUDIENCE:
        claims["aud"] = settings().AUDIENCE
    return jwt.encode(claims, settings().SIGNING_KEY, algorithm=settings().ALGORITHM)


def signing_key_id() -> str | None:
    """The id of the key that signs tokens, as `/backend/whoami` computes it for the gateway's. None if there is no key."""
    if settings().SIGNING_KEY:
        algorithm, secret, public = settings().ALGORITHM, settings().SIGNING_KEY, None
    else:
        try:
            from rest_framework_simplejwt.settings import api_settings
        except ImportError:
            return None
        algorithm, secret, public = api_settings.ALGORITHM, api_settings.SIGNING_KEY, api_settings.VERIFYING_KEY
    if algorithm.startswith("HS"):
        return hmac.new(secret.encode(), b"vyzio signing key", hashlib.sha256).hexdigest()[:16]
    return hashlib.sha256(_der(public) if public else _public_der(secret)).hexdigest()[:16]


def _der(pem: str) -> bytes:
    lines = [line.strip() for line in pem.strip().splitlines()]
    return base64.b64decode("".join(line for line in lines if not line.startswith("-----")))


def _public_der(private: str) -> bytes:
    """The public key of a private one. PyJWT needs `cryptography` for these algorithms anyway."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    key = load_pem_private_key(private.encode(), password=None)
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der
