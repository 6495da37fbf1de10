-- The newest message of the conversation that a notification of the user covered when it was read without the marker: a
-- message up to it that is delivered again notifies of nothing.
alter table markers add column notified bigint;
