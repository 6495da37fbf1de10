"""Signals of webhooks.

A receiver gets `data` (the event, as in docs/publishing.md), `event_id` and `timestamp`. It runs in a transaction of the
database of `Received`, and an exception rolls that back: the webhook comes again later.
"""

from django.dispatch import Signal

reminder_due = Signal()
settled = Signal()
message_reported = Signal()
message_held = Signal()
message_flagged = Signal()
conversation_opened = Signal()
message_sent = Signal()
message_changed = Signal()
message_read = Signal()
file_uploaded = Signal()
presence_changed = Signal()
user_erased = Signal()

# The signal of each type of webhook.
SIGNALS = {
    "notify.reminder": reminder_due,
    "notify.settled": settled,
    "chat.reported": message_reported,
    "chat.held": message_held,
    "chat.flagged": message_flagged,
    "chat.opened": conversation_opened,
    "chat.sent": message_sent,
    "chat.changed": message_changed,
    "chat.read": message_read,
    "chat.file": file_uploaded,
    "presence.changed": presence_changed,
    "users.erased": user_erased,
}
