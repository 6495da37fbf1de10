-- What was read last, as the inbox's sockets were told (with last_read_all: everything up to it). A gateway that was not
-- told finds out by it, as it does by last_seq of notifications.
alter table inboxes
    add column last_read_id bigint,
    add column last_read_at timestamptz,
    add column last_read_all boolean not null default false;
