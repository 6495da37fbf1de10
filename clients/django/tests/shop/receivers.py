from typing import Any

from django.dispatch import receiver

from shop.models import Report
from vyzio_realtime_django.signals import message_reported


@receiver(message_reported)
def remember(data: dict[str, Any], **kwargs: Any) -> None:
    Report.objects.create(reporter_id=data["reporter_id"])
