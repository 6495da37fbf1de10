alter table notifications
    -- Since when a notification, or the first message that it and those that it supersedes stand for, is unread. Null: it
    -- never causes a reminder.
    add column since timestamptz,
    -- When the user put it away.
    add column archived_at timestamptz;
