-- The sender of the newest message that a notification covers. Null in notifications of earlier releases, and once the
-- sender is erased.
alter table notifications add column sender_id bigint;
