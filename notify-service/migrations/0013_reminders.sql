-- How far each step of the reminders has looked at unread notifications, by `since`. Committed with what it found.
create table sweeps (
    step text primary key,
    upto timestamptz not null,
    began timestamptz not null default now() -- The step does not remind of what was unread before.
);

-- What a step has decided about an unread conversation (subject c123) or notification (n31) of a user: to remind of it, not to
-- remind of it (event_id is null), or to look again (told_at is null). A row with another `since` than the notification is of
-- an earlier episode. Deleted once the subject is read.
create table reminded (
    user_id bigint not null,
    step text not null,
    subject text not null,
    upto bigint not null, -- The newest notification of the subject at the time.
    since timestamptz not null,
    told_at timestamptz,
    event_id text,
    due_at timestamptz, -- When to look again,
    while_present boolean not null default false, -- or as soon as the user is no longer present.
    check ((told_at is null) = (due_at is not null)),
    primary key (user_id, subject, step)
) with (fillfactor = 80);
create index reminded_due on reminded (step, due_at) where told_at is null;
create index reminded_present on reminded (step, user_id) where told_at is null and while_present;
-- What a reminder is about: it is settled once all of that is read.
create index reminded_event on reminded (user_id, event_id) where event_id is not null;

-- The last reminder of a step with a minimum time between two.
create table reminder_times (
    user_id bigint not null,
    step text not null,
    told_at timestamptz not null,
    primary key (user_id, step)
) with (fillfactor = 80);
create index reminder_times_age on reminder_times (told_at);

-- What users set: whether they want reminders of a type (or of all: *) by a channel, which is a step of the reminders.
-- Types and channels that do not exist (any longer) stay.
create table preferences (
    user_id bigint not null,
    type text not null,
    channel text not null,
    enabled boolean not null,
    primary key (user_id, type, channel)
);

-- Users' quiet hours: minutes of the day in their time zone.
create table quiet (
    user_id bigint primary key,
    from_minute smallint not null check (from_minute between 0 and 1439),
    to_minute smallint not null check (to_minute between 0 and 1439 and to_minute <> from_minute),
    tz text not null
);
