-- no-transaction
-- Finds those who have muted a conversation, for each message: few or none.
create index concurrently if not exists participants_muted on participants (conversation_id) where muted_until is not null
