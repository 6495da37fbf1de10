-- The sender of the newest message that a notification covers: a marker that comes late corrects the notification's count.
alter table notifications add column sender_username text;
