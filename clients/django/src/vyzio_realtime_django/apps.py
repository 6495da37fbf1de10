"""The app."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_delete, post_save


class VyzioRealtimeConfig(AppConfig):
    """`INSTALLED_APPS += ["vyzio_realtime_django"]`"""

    name = "vyzio_realtime_django"
    label = "vyzio_realtime"
    verbose_name = "Vyzio Realtime"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the checks, and connects the hooks."""
        from django.contrib.auth.signals import user_logged_out

        from . import checks, hooks, moderation

        checks.register_all()
        moderation.connect()
        user_logged_out.connect(hooks.logged_out, dispatch_uid="vyzio_realtime")
        post_save.connect(hooks.user_saved, sender=settings.AUTH_USER_MODEL, dispatch_uid="vyzio_realtime")
        post_delete.connect(hooks.user_deleted, sender=settings.AUTH_USER_MODEL, dispatch_uid="vyzio_realtime")
