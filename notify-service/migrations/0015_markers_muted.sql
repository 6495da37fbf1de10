alter table markers
    -- The user has muted the conversation until then; 'infinity': for good.
    add column muted_until timestamptz,
    -- Number of the last change of that; null if none was ever reported.
    add column mute_change bigint;
