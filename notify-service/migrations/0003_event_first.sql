-- Keys first: this index is for finding an event's notification, and Postgres must not take it for a user's notifications.
create unique index notifications_event_key on notifications (event_key, user_id);
drop index notifications_event;
