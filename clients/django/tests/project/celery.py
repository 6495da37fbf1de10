"""A worker of Celery for the tests. Its broker is a folder."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init


def celery(folder: str) -> Any:
    """The application, with its queue in this folder."""
    made = Celery("project", broker="filesystem://")
    made.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder}
    made.conf.broker_connection_retry_on_startup = True
    return made


app = celery(os.environ["CELERY_FOLDER"])


@worker_init.connect  # type: ignore[untyped-decorator]
def use_a_connection(**kwargs: Any) -> None:
    """The process that forks has used its connection to the gateway."""
    import django

    django.setup()
    from vyzio_realtime_django import notify_now

    notify_now("started", to=999)


@app.task(name="pay")  # type: ignore[untyped-decorator]
def pay(user_id: int) -> None:
    from django.db import transaction

    from shop.views import _paid

    with transaction.atomic():
        _paid(user_id)
