-- no-transaction
-- Finds the users of whom backends were told that they are online. Empty unless TELL=presence.
create index concurrently if not exists inboxes_told_online on inboxes (user_id) where told_online
