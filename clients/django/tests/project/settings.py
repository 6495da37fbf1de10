"""A site for the tests. `DATABASE_URL` names its database: Postgres, MySQL (or MariaDB), or a file of SQLite."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECRET_KEY = "not for production, and at least 32 characters"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "vyzio_realtime_django",
    "shop",
]
STATIC_URL = "static/"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
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
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        # A file also for the tests, because the servers that they start have to see it.
        file = parts.path or str(Path(tempfile.mkdtemp(prefix="vyzio-django-")) / "db.sqlite3")
        options: dict[str, Any] = {"timeout": 30}
        test = {"NAME": f"{file}-test"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": file, "OPTIONS": options, "TEST": test}
    return {
        "ENGINE": f"django.db.backends.{'mysql' if parts.scheme == 'mysql' else 'postgresql'}",
        "NAME": parts.path[1:],
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "PASSWORD": parts.password or "",
    }


DATABASES = {
    "default": database(os.environ.get("DATABASE_URL", "sqlite:")),
    # For tests of sites with several databases.
    "users": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
VYZIO = {
    "URL": "http://127.0.0.1:9",
    "API_KEY": "a key of the tests, of 32 characters or more",
    "SIGNING_KEY": "the key that signs tokens, at least 32 characters",
    "PUBLIC_URL": "https://rt.shop.example",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    # A test may run on a busy machine. Tests of time-outs set their own.
    "TIMEOUT": 30,
    "RELAY_TIMEOUT": 30,
    # The tests change some.
    **json.loads(os.environ.get("VYZIO", "{}")),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"none": {"class": "logging.NullHandler"}},
    "loggers": {"vyzio_realtime": {"handlers": ["none"], "propagate": False}},
}
