-- When the user was last present, rounded down to 5 minutes, and whether the user hides it: null if the user has chosen
-- nothing, so that the operator's default applies.
alter table inboxes add column seen_at timestamptz, add column presence_hidden boolean;
