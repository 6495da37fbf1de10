"""What several tests need."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F
from django.test import SimpleTestCase, override_settings
from gateway import Gateway

from vyzio_realtime_django import outbox
from vyzio_realtime_django.models import Outbox


def vyzio(**changes: Any) -> Any:
    """`override_settings` with some entries of `VYZIO`."""
    return override_settings(VYZIO={**settings.VYZIO, **changes})


def later(**delta: float) -> None:
    """Moves all rows of the outbox into the past, as if time had passed."""
    passed = timedelta(**delta)
    Outbox.objects.update(created_at=F("created_at") - passed, due_at=F("due_at") - passed)


class GatewayMixin(SimpleTestCase):
    """A gateway of the test's own, and no pause because of the test before."""

    entries: Mapping[str, Any] = {}

    def setUp(self) -> None:
        super().setUp()
        self.gateway = Gateway()
        self.addCleanup(self.gateway.stop)
        changed = vyzio(URL=self.gateway.url, **self.entries)
        changed.enable()
        self.addCleanup(changed.disable)
        outbox._pause.succeeded()
        self.addCleanup(outbox._pause.succeeded)
