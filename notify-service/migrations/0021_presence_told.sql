-- What backends were last told about the user's presence: at first, that the user is offline.
alter table inboxes add column told_online boolean not null default false;
-- Part of the ids of these events.
create sequence presence_tellings;
