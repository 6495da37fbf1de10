"""A configuration of gunicorn: the process that forks has used its connection to the gateway."""


def when_ready(server: object) -> None:
    from vyzio_realtime_django import notify_now

    notify_now("started", to=999)
