"""Writes the files that deploy/postgres/import.sql reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import OuterRef, Subquery

from ...conf import settings

# Rows that are read at once.
CHUNK = 2000
FIELDS = {
    "listing_id": "listing_id",
    "title": "title",
    "conversation_created_at": "created_at",
    "participants": "participants",
    "conversation": "conversation",
    "sender": "sender",
    "content": "content",
    "is_read": "is_read",
    "message_created_at": "created_at",
}


class Command(BaseCommand):
    """Reads one state of the database: on Postgres and MySQL, messages that arrive meanwhile are not in the files."""

    help = "Writes conversations.csv, participants.csv and messages.csv, from the models that VYZIO['EXPORT'] names."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", nargs="?", default=".", help="where to write the files")
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS)

    def handle(self, *args: Any, **options: Any) -> None:
        folder = Path(options["folder"])
        if not folder.is_dir():
            raise CommandError(f"{folder} is no folder")
        try:
            export = settings().EXPORT
            conversation = apps.get_model(export["CONVERSATION"])
            message = apps.get_model(export["MESSAGE"])
            names = {**FIELDS, **export.get("FIELDS", {})}
            through = conversation._meta.get_field(names["participants"])
            of_conversation, of_user = through.m2m_field_name(), through.m2m_reverse_field_name()
        except KeyError as error:
            raise CommandError(f'VYZIO["EXPORT"] has no {error}') from error
        except (LookupError, ValueError, FieldDoesNotExist, AttributeError) as error:
            raise CommandError(f'VYZIO["EXPORT"]: {error}') from error

        database = options["database"]
        connection = connections[database]
        with transaction.atomic(using=database, durable=not connection.in_atomic_block):
            if connection.vendor == "postgresql" and len(connection.savepoint_ids) == 0:
                with connection.cursor() as cursor:
                    cursor.execute("set transaction isolation level repeatable read read only")
            participants = through.remote_field.through._base_manager.using(database)
            messages = message._base_manager.using(database)
            has_participants = participants.values(f"{of_conversation}_id")
            conversations = conversation._base_manager.using(database).filter(pk__in=has_participants).order_by("pk")
            self._write(
                folder / "conversations.csv",
                ["conversation_id", "listing_id", "title", "created_at"],
                conversations.values_list(
                    "pk", names["listing_id"], names["title"], names["conversation_created_at"]
                ).iterator(CHUNK),
            )
            of_others = messages.filter(
                **{names["conversation"]: OuterRef(of_conversation), names["is_read"]: True}
            ).exclude(**{names["sender"]: OuterRef(of_user)})
            username = f"{of_user}__{get_user_model().USERNAME_FIELD}"
            self._write(
                folder / "participants.csv",
                ["conversation_id", "user_id", "username", "read_message_id"],
                participants.annotate(read_message=Subquery(of_others.order_by("-pk").values("pk")[:1]))
                .order_by(f"{of_conversation}_id", f"{of_user}_id")
                .values_list(f"{of_conversation}_id", f"{of_user}_id", username, "read_message")
                .iterator(CHUNK),
            )
            self._write(
                folder / "messages.csv",
                ["message_id", "conversation_id", "sender_id", "content", "created_at"],
                messages.exclude(**{names["content"]: ""})
                .order_by("pk")
                .values_list(
                    "pk",
                    f"{names['conversation']}_id",
                    f"{names['sender']}_id",
                    names["content"],
                    names["message_created_at"],
                )
                .iterator(CHUNK),
            )

    def _write(self, path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        count = 0
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in rows:
                writer.writerow([value.isoformat() if hasattr(value, "isoformat") else value for value in row])
                count += 1
        self.stdout.write(f"{path}: {count}")
