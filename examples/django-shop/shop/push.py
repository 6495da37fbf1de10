"""Web pushes, to the browsers that a user has subscribed.

Browsers want each push to show something. One that only removes notifications, after `settled`, is silent: Chrome permits
few of those to a site that is hardly visited, and then shows a text of its own; Safari may end the subscription. A shop for
which that matters leaves out `remove_pushes` of reminders.py.
"""

import base64
import json
import logging
import re
from functools import lru_cache
from pathlib import Path

import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.contrib.auth.signals import user_logged_out
from django.dispatch import receiver
from py_vapid import Vapid02
from pywebpush import WebPushException, webpush

from .models import PushSubscription

log = logging.getLogger(__name__)

# Browsers of one user, and seconds that a push service may take: the sender of webhooks waits 10 s for all of them.
SUBSCRIPTIONS = 4
TIMEOUT = 2
# Seconds for which a push service keeps a push for a browser that is away.
KEPT = 24 * 60 * 60
# Answers about a subscription that has ended.
ENDED = (404, 410)
# The push services of browsers. To other addresses, this server must not be made to send anything. There is no user, no port
# and no backslash, because parsers of addresses disagree about those.
PUSH_SERVICE = re.compile(
    r"https://(?:[a-z0-9-]+\.)*"
    r"(?:fcm\.googleapis\.com|push\.services\.mozilla\.com|push\.apple\.com|notify\.windows\.com)"
    r"/[!-\[\]-~]+"
)
LONGEST_ENDPOINT = 512
# A point that is not compressed, and the secret of a browser.
POINT_BYTES, AUTH_BYTES = 65, 16
# In the session, the address of the browser's subscription.
ENDPOINT = "push_endpoint"


@lru_cache(maxsize=1)
def key():
    """The key that signs pushes. It is created if it is missing: a browser's subscription is for one key."""
    file = Path(settings.VAPID_KEY_FILE)
    if not file.exists():
        made = Vapid02()
        made.generate_keys()
        made.save_key(str(file))
    return Vapid02.from_file(str(file))


def public_key():
    """The public key, as browsers take it."""
    point = key().public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.urlsafe_b64encode(point).rstrip(b"=").decode()


def check(endpoint, p256dh, auth):
    """Raises TypeError or ValueError, unless this is what a browser gives."""
    if len(endpoint) > LONGEST_ENDPOINT or not PUSH_SERVICE.fullmatch(endpoint):
        raise ValueError("no push service")
    check_keys(p256dh, auth)


def check_keys(p256dh, auth):
    """Raises TypeError or ValueError, unless a browser can have made these. The library has other errors for some."""
    point = decoded(p256dh)
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    if (len(point), len(decoded(auth))) != (POINT_BYTES, AUTH_BYTES):
        raise ValueError("no keys")


def decoded(text):
    """Base64 for addresses, without padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)


@receiver(user_logged_out)
def forget(request, user, **kwargs):
    """The browser of a user who signs out gets no more pushes."""
    PushSubscription.objects.filter(user=user, endpoint=request.session.get(ENDPOINT)).delete()


def send(user, content):
    """Sends this to the user's browsers. A push service that fails is logged: the mail is the next step."""
    text, signing_key = json.dumps(content), key()
    for subscription in PushSubscription.objects.filter(user=user).order_by("-pk")[:SUBSCRIPTIONS]:
        keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
        try:
            check_keys(**keys)
            webpush(
                {"endpoint": subscription.endpoint, "keys": keys},
                text,
                vapid_private_key=signing_key,
                vapid_claims={"sub": settings.VAPID_CONTACT},
                timeout=TIMEOUT,
                ttl=KEPT,
            )
        except WebPushException as error:
            if error.response is not None and error.response.status_code in ENDED:
                subscription.delete()
            else:
                log.warning("a push was not sent: %s", error)
        except requests.RequestException as error:
            log.warning("a push was not sent: %s", error)
        except ValueError as error:
            # Its keys are damaged, and no repeat helps.
            log.warning("a subscription is not valid: %s", error)
            subscription.delete()
