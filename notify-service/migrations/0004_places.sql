-- The place in its conversation of a marker's message, and of a notification's newest message: by them the unread messages
-- are counted. Null where it was not known. A release that knows nothing of it moves markers, too, while both run: seq
-- counts only where it is of this message.
alter table markers add column seq bigint, add column seq_of bigint;
alter table notifications add column message_seq bigint;
-- How often something in the inbox was read: with last_seq, the number of the inbox's changes, by which gateways put what
-- they hear in its order, and see what they have not heard.
alter table inboxes
    add column reads bigint not null default 0,
    -- How often a marker of the user moved, as the user's sockets were told, and the last one, as JSON: by them gateways see
    -- that they have not heard of one.
    add column moves bigint not null default 0,
    add column last_moved text;
