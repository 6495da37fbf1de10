-- Apart from the columns of notifications: one lock at a time. A check would scan the table while it is locked.
alter table inboxes
    -- The last notification that the user has seen in a list, read or unread; 0: the user's devices never said so.
    add column seen_id bigint not null default 0,
    -- Number of unread notifications after that one; 0 as long as there is none.
    add column unseen_count bigint not null default 0;
