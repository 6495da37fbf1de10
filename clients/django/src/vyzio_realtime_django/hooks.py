"""What happens to users in Django also happens in Vyzio Realtime, through the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import router, transaction

from . import outbox
from .conf import settings
from .ids import user_id
from .models import Outbox

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser


def logged_out(*, user: AbstractBaseUser | None, **kwargs: Any) -> None:
    """Ends the user's sockets. Devices that are still signed in get a new token."""
    if user is not None and settings().REVOKE_ON_LOGOUT:
        outbox.add("sessions.revoke", {"user_id": user_id(user)})


def user_saved(
    *, instance: AbstractBaseUser, created: bool, update_fields: frozenset[str] | None, using: str, **kwargs: Any
) -> None:
    """Ends the user's sockets after a new password."""
    # `set_password` keeps the new password here until the user is saved, and a rehash of the old one does not.
    is_new = getattr(instance, "_password", None) is not None
    if created or not is_new or (update_fields is not None and "password" not in update_fields):
        return
    if settings().REVOKE_ON_PASSWORD_CHANGE:
        _add("sessions.revoke", instance, using)


def user_deleted(*, instance: AbstractBaseUser, using: str, **kwargs: Any) -> None:
    """Erases the user, if the site wants it."""
    if settings().ERASE_ON_USER_DELETION:
        _add("users.erase", instance, using)


def _add(subject: str, user: AbstractBaseUser, using: str) -> None:
    """Adds a row to the outbox that the relay reads. The user's database need not have one."""
    body = {"user_id": user_id(user)}
    alias = router.db_for_write(Outbox)
    if alias == using:
        outbox.add(subject, body, using=alias)
        return

    # Not a partial: if a robust callback fails, Django logs its `__qualname__`.
    def add() -> None:
        outbox.add(subject, body, using=alias)

    # No transaction spans both databases. A row that is committed first would also erase a user whose deletion is
    # rolled back.
    transaction.on_commit(add, using=using, robust=True)
