-- no-transaction
-- Finds the notifications that name a user.
create index concurrently if not exists notifications_sender on notifications (sender_id) where sender_id is not null
