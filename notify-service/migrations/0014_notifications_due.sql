-- no-transaction
-- Finds the unread notifications that are due for a reminder. Empty while reminders are off.
create index concurrently if not exists notifications_due on notifications (since)
where read_at is null and since is not null
