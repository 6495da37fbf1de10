"""A small marketplace that uses vyzio-realtime-django."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "not for production")
DEBUG = True
ALLOWED_HOSTS = ["*"]
# Its own address, for links in mails.
SITE_URL = os.environ.get("SITE_URL", "http://127.0.0.1:8080")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "vyzio_realtime_django",
    "shop.apps.ShopConfig",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        # An event is committed together with the change that it reports.
        "ATOMIC_REQUESTS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
EMAIL_BACKEND = os.environ.get("EMAIL_BACKEND", "django.core.mail.backends.console.EmailBackend")
# Signs web pushes. The file is created if it is missing.
VAPID_KEY_FILE = os.environ.get("VAPID_KEY_FILE", BASE_DIR / "vapid.pem")
VAPID_CONTACT = "mailto:webmaster@shop.example"
LANGUAGE_CODE = "fr"
TIME_ZONE = "Europe/Paris"
USE_TZ = True
LOGIN_URL = "sign-in"
ROOT_URLCONF = "shop.urls"
STATIC_URL = "static/"


def local_jwt_secret():
    """The key with which `cargo xtask up` in this checkout verifies tokens, once it has run."""
    file = BASE_DIR.parent.parent / ".local" / "jwt-secret"
    return file.read_text().strip() if file.exists() else ""


# The defaults are those of `cargo xtask up`.
VYZIO = {
    "URL": os.environ.get("REALTIME_URL", "http://127.0.0.1:8000"),
    "API_KEY": os.environ.get("REALTIME_KEY", "the-key-of-backends-on-a-local-stack"),
    "SIGNING_KEY": os.environ.get("JWT_SECRET") or local_jwt_secret(),
    "WEBHOOK_SECRET": os.environ.get("WEBHOOK_SECRET", "whsec_c2VjcmV0IG9mIHdlYmhvb2tzIG9uIGEgbGFwdG9w"),
}
