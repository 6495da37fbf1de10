"""The outbox: rows that are committed with a change, and published after the commit.

The process that adds a row publishes it on commit, within `TIMEOUT`. If that fails, or the process dies, the relay
(`manage.py realtime_relay`) takes the row `RELAY_AFTER` seconds after it was added. Rows that are published twice do no
harm, because an event has an `event_id`.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.signals import request_finished, request_started
from django.db import connections, router, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.dispatch import receiver
from django.utils import timezone

from . import channels
from .backends import backend
from .conf import settings
from .errors import RealtimeError, Refused, Unavailable
from .models import Outbox

log = logging.getLogger("vyzio_realtime")

EVENTS = "events."
# Events and bytes of one request to the gateway.
BATCH = 100
BATCH_BYTES = 768 * 1024
# Seconds for which the relay takes rows. Another relay takes them afterwards.
CLAIM_SECONDS = 60.0
# Longest pause of a row, and of a process that can't reach the gateway, in seconds.
MAX_PAUSE = 60.0
# Statuses of a refusal for good. Others can be corrected: the API key, its scopes, the address.
INVALID = frozenset({400, 413, 422})
# Codes with which services refuse a request for good, such as the change of a message that is deleted.
HOPELESS = frozenset({"blocked", "conflict", "forbidden", "not_found", "too_late"})
# The gateway's own refusals have the codes of services, and no field but the detail differs. They can be corrected.
OF_GATEWAY = frozenset({"the key lacks the scope for this call", "no such path"})
# The status of the answer to a key that the gateway does not know.
UNKNOWN_KEY = 401


def pause_after(attempts: int) -> float:
    """Seconds until the next attempt: 1, 2, 4 … 60, with jitter."""
    return random.uniform(0.5, 1.0) * min(MAX_PAUSE, 2.0 ** min(attempts, 10))


class _Budget(threading.local):
    """The time that publishing may still take in this thread's HTTP request, or None outside of one."""

    seconds: float | None = None


class _Pause:
    """A process that can't reach the gateway leaves its rows to the relay for some time."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0

    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def failed(self) -> None:
        self.failures += 1
        self.until = time.monotonic() + pause_after(self.failures + 2)

    def succeeded(self) -> None:
        self.failures = 0
        self.until = 0.0


_budget = _Budget()
_pause = _Pause()
_warned = False


def add(subject: str, body: Mapping[str, Any], *, key: str = "", using: str | None = None) -> None:
    """Adds a row in the current transaction, and publishes it after the commit."""
    alias = using or router.db_for_write(Outbox)
    if subject.startswith(EVENTS) and not connections[alias].in_atomic_block:
        _warn_once()
    now = timezone.now()
    due_at = now + timedelta(seconds=settings().RELAY_AFTER)
    row = Outbox.objects.using(alias).create(subject=subject, key=key, body=body, created_at=now, due_at=due_at)
    transaction.on_commit(partial(_publish_soon, row, alias), using=alias)


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning(
            "(vyzio.W001) an event was emitted outside a transaction: it is committed even if the change that it "
            "reports fails. Use transaction.atomic or ATOMIC_REQUESTS."
        )


@receiver(request_started)
def _start_budget(**kwargs: object) -> None:
    _budget.seconds = settings().TIMEOUT


@receiver(request_finished)
def _end_budget(**kwargs: object) -> None:
    _budget.seconds = None


def _publish_soon(row: Outbox, alias: str) -> None:
    """Publishes a row right after its commit. Never raises, and leaves the row to the relay if there is no time."""
    start = time.monotonic()
    end = start + (settings().TIMEOUT if _budget.seconds is None else max(0.0, _budget.seconds))
    try:
        if row.subject.startswith(EVENTS):
            # Half of the time, so that a layer that hangs does not take the gateway's.
            channels.send(row.subject.removeprefix(EVENTS), row.body, (end - start) / 2)
        if time.monotonic() < end and _pause.is_over() and not _waits_for_another(row, alias):
            _try_now(row, end - time.monotonic(), alias)
    except Exception:
        # The caller's change is committed. A failed notification must not look like a failed change.
        log.exception("outbox row %s is left to realtime_relay", row.pk)
    finally:
        if _budget.seconds is not None:
            _budget.seconds -= time.monotonic() - start


def _waits_for_another(row: Outbox, alias: str) -> bool:
    older = Outbox.objects.using(alias).filter(key=row.key, pk__lt=row.pk, failed_at=None)
    return bool(row.key) and older.exists()


def _try_now(row: Outbox, timeout: float, alias: str) -> None:
    try:
        [error] = _send([row], timeout)
    except RealtimeError as failure:
        # Without its traceback, which would keep the frames of this call.
        error = failure.with_traceback(None)
    if isinstance(error, Unavailable):
        _pause.failed()
    else:
        _pause.succeeded()
    _settle(row, error, alias)
    if error is not None:
        log.warning("outbox row %s was not published: %s", row.pk, error)


def _send(rows: Sequence[Outbox], timeout: float) -> list[RealtimeError | None]:
    """Sends events together, or one request. Raises a RealtimeError if all have failed for the same reason."""
    if rows[0].subject.startswith(EVENTS):
        events = [(row.subject.removeprefix(EVENTS), row.body) for row in rows]
        return backend().publish(events, timeout)
    backend().call(rows[0].subject, rows[0].body, timeout)
    return [None]


def _settle(row: Outbox, error: RealtimeError | None, alias: str) -> None:
    """Deletes a row that was sent. Otherwise keeps the error, and the time of the next attempt."""
    rows = Outbox.objects.using(alias).filter(pk=row.pk)
    if error is None:
        rows.delete()
        return
    now = timezone.now()
    is_too_old = now - row.created_at > timedelta(days=settings().RETRY_DAYS)
    is_hopeless = isinstance(error, Refused) and _is_hopeless(row, error)
    rows.update(
        attempts=F("attempts") + 1,
        last_error=str(error)[:1000],
        due_at=now + timedelta(seconds=pause_after(row.attempts)),
        claim=None,
        failed_at=now if is_hopeless or is_too_old else None,
    )


def _is_hopeless(row: Outbox, error: Refused) -> bool:
    """Whether no repeat can succeed. Events go to no service that could refuse them."""
    is_by_service = error.code in HOPELESS and error.detail not in OF_GATEWAY and not row.subject.startswith(EVENTS)
    return is_by_service or error.status in INVALID


@dataclass
class Relayed:
    """What a relay has done: rows that were sent, and rows with an error. `error` has ended it early."""

    sent: int = 0
    errors: int = 0
    error: RealtimeError | None = None


def relay(using: str | None = None, only: Iterable[int] | None = None) -> Relayed:
    """Publishes all rows that are due, oldest first, and stops if the gateway can't be reached.

    Any number of relays may run. `only` names rows, which are tried even if they are not due or were given up.
    """
    alias = using or router.db_for_write(Outbox)
    if only is not None:
        only = list(only)
        Outbox.objects.using(alias).filter(pk__in=only).update(due_at=timezone.now(), failed_at=None, claim=None)
    done = Relayed()
    while rows := _claim(alias, only):
        for batch in _batches(rows):
            _relay_batch(batch, alias, done)
            if done.error is not None:
                unsent = [row.pk for row in rows]
                due_at = timezone.now() + timedelta(seconds=pause_after(1))
                Outbox.objects.using(alias).filter(pk__in=unsent, claim=rows[0].claim).update(due_at=due_at, claim=None)
                return done
    return done


def _claim(alias: str, only: list[int] | None) -> list[Outbox]:
    """Takes rows that are due, at most `BATCH`, and only the oldest of each key."""
    rows = Outbox.objects.using(alias)
    now = timezone.now()
    older = Outbox.objects.using(alias).filter(key=OuterRef("key"), pk__lt=OuterRef("pk"), failed_at=None)
    due = rows.filter(Q(key="") | ~Exists(older), due_at__lte=now, failed_at=None)
    if only is not None:
        due = due.filter(pk__in=only)
    found = list(due.order_by("pk").values_list("pk", flat=True)[:BATCH])
    if not found:
        return []
    # Of two relays, the second one waits for the first one here, and then finds that the rows are not due.
    claim = uuid.uuid4()
    end = now + timedelta(seconds=CLAIM_SECONDS)
    rows.filter(pk__in=found, due_at__lte=now, failed_at=None).update(claim=claim, due_at=end)
    return list(rows.filter(claim=claim).order_by("pk"))


def _batches(rows: Sequence[Outbox]) -> Iterable[list[Outbox]]:
    """Rows that are sent together: events up to a number of bytes, or one request."""
    batch: list[Outbox] = []
    size = 0
    for row in rows:
        bytes_of_row = len(json.dumps(row.body)) + len(row.subject)
        is_event = row.subject.startswith(EVENTS)
        if batch and (not is_event or size + bytes_of_row > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if is_event:
            batch.append(row)
            size += bytes_of_row
        else:
            yield [row]
    if batch:
        yield batch


def _relay_batch(batch: Sequence[Outbox], alias: str, done: Relayed) -> None:
    try:
        outcomes = _send(batch, settings().RELAY_TIMEOUT)
    except Refused as error:
        if error.status in INVALID and len(batch) > 1:
            # One of the events spoils the others.
            for row in batch:
                if done.error is None:
                    _relay_batch([row], alias, done)
            return
        outcomes = [error.with_traceback(None)] * len(batch)
        # A key that lacks the scope of a request may still publish events. What refuses events refuses all of them.
        is_of_request = not batch[0].subject.startswith(EVENTS) and error.status != UNKNOWN_KEY
        if error.status not in INVALID and not is_of_request:
            done.error = error
    except Unavailable as error:
        outcomes = [error.with_traceback(None)] * len(batch)
    if all(isinstance(outcome, Unavailable) for outcome in outcomes):
        done.error = outcomes[0]
    for row, outcome in zip(batch, outcomes):
        _settle(row, outcome, alias)
        if outcome is None:
            done.sent += 1
        else:
            done.errors += 1
            log.warning("outbox row %s was not published: %s", row.pk, outcome)
