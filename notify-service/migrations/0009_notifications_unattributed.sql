-- no-transaction
-- Finds the notifications of messages whose sender is not known: those of earlier releases, until they are too old.
create index concurrently if not exists notifications_unattributed on notifications (conversation_id, message_id)
where sender_id is null and conversation_id is not null
