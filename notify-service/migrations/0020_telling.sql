-- Events for other backends that are perhaps not in the stream EVENTS_OUT yet, written in the transaction of what they
-- tell of or before it is acknowledged. A row goes once JetStream has its event.
create table telling (
    event_id text primary key, -- The same each time that the event is published.
    place bigint not null generated always as identity, -- The order of publication.
    user_id bigint, -- The user whom it concerns, if it is only one.
    subject text not null,
    body text not null, -- JSON; that of chat.sent is completed when it is published.
    created_at timestamptz not null default clock_timestamp()
);

-- Each subject is published by itself, so that one that is refused delays no other.
create index telling_subject on telling (subject, place);
create index telling_user on telling (user_id) where user_id is not null;
