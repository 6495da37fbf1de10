-- no-transaction
-- Lists a user's notifications without the archived ones, however many those are.
create index concurrently if not exists notifications_kept on notifications (user_id, notification_id)
where archived_at is null
