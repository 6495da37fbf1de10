-- Hands out notification ids. Taken only while the inbox's row is locked, so that ids grow with seq within an inbox.
create sequence notification_ids as bigint;

-- One row for each user that was ever notified or looked. Whoever changes anything of a user's locks this row first:
-- that makes seq free of holes and unread_count exact, whichever replica writes, without counting.
create table inboxes (
    user_id bigint primary key check (user_id > 0),
    last_seq bigint not null default 0 check (last_seq >= 0),
    last_id bigint not null default 0 check (last_id >= 0),
    unread_count bigint not null default 0 check (unread_count >= 0),
    lang text
) with (fillfactor = 60); -- Updated with every notification: room for that in the same page.

-- The notifications. Their text is fixed when they are made; only read_at ever changes.
create table notifications (
    user_id bigint not null,
    notification_id bigint not null,
    seq bigint not null check (seq > 0),
    type text not null,
    title text not null,
    message text not null,
    data text not null, -- JSON as it was published, which json and jsonb would check again or rewrite.
    event_key text not null, -- What the event is known by when it comes again.
    replaces bigint,
    conversation_id bigint, -- With a message_received: its conversation, newest message, and how many it stands for.
    message_id bigint,
    message_count bigint,
    created_at timestamptz not null,
    read_at timestamptz,
    primary key (user_id, notification_id)
);

-- An event notifies a user once, for as long as the notification is kept.
create unique index notifications_event on notifications (user_id, event_key);
-- What is unread, to list it and to read it all.
create index notifications_unread on notifications (user_id, notification_id) where read_at is null;
-- At most one unread message_received stands for a conversation.
create unique index notifications_conversation on notifications (user_id, conversation_id)
    where read_at is null and conversation_id is not null;
-- What is too old.
create index notifications_age on notifications (created_at);

-- How far a user has read a conversation, as far as is known here: a message that comes late notifies of nothing old.
create table markers (
    user_id bigint not null,
    conversation_id bigint not null,
    message_id bigint not null,
    primary key (user_id, conversation_id)
) with (fillfactor = 80);
