-- no-transaction
-- Reads the changes of a conversation in their order. Messages that never changed have no entry.
create index concurrently if not exists messages_changed on messages (conversation_id, change) where change > 0
