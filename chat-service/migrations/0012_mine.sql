-- A participant's own settings, which nobody else sees.
alter table participants
    -- The conversation notifies silently until then; 'infinity': for good.
    add muted_until  timestamptz,
    -- `last_seq` of the conversation when the participant archived it. A later message ends that by itself, so storing
    -- a message writes nothing here.
    add archived_seq bigint,
    add pinned       boolean not null default false;

-- Whether a participant has archived a conversation, and no message has come since. Messages that came during a mute
-- don't count. A time of a mute that has passed stays, because it decides this.
create function is_archived(p participants, c conversations) returns boolean
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
    if p.archived_seq is null or p.archived_seq >= c.last_seq then
        return p.archived_seq is not null;
    elsif p.muted_until is null then
        return false;
    end if;
    return not exists (
        -- Compared as rows, the keys fit one index alone: see "messages" in the service.
        select from (
            select m.conversation_id, m.message_id, m.created_at from messages m
            where (m.conversation_id, m.message_id) >= (c.conversation_id, c.last_message_id)
            order by m.conversation_id, m.message_id limit 1
        ) m
        where m.conversation_id = c.conversation_id and m.message_id = c.last_message_id
          and m.created_at >= p.muted_until
    );
end
$$;

-- Changes a participant's own settings; null stays. Without `p_muted_until`, `p_mutes` ends a mute. No row: not a
-- participant. In the result, `archived_seq` is set only while the conversation is archived.
create function set_mine(
    p_conversation bigint, p_user bigint, p_mutes boolean, p_muted_until timestamptz, p_archived boolean, p_pinned boolean
) returns setof participants language plpgsql
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
    head conversations%rowtype;
begin
    -- No message comes meanwhile: it would count as one before the change or as one after it, depending on the column.
    select * into head from conversations c where c.conversation_id = p_conversation for no key update;
    return query
    update participants p
    set muted_until = case when p_mutes then case when p_muted_until > clock_timestamp() then p_muted_until end
                           else p.muted_until end,
        archived_seq = case when coalesce(p_archived, is_archived(p, head)) then head.last_seq end,
        pinned = coalesce(p_pinned, p.pinned)
    where p.conversation_id = p_conversation and p.user_id = p_user
    returning p.*;
end
$$;
