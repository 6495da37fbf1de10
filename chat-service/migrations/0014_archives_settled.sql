-- A conversation whose last message is deleted stays archived, or not, as it was.
-- Deletes up to `p_limit` messages of a conversation that were sent before a time, oldest first, with their former texts.
-- Markers before the first message that stays move directly before it, or past it while it is a deleted one; `moved` has
-- their users, and `outbox_ids` the rows that publish them. No row: there was nothing to do.
create or replace function expire_messages(p_conversation bigint, p_before timestamptz, p_limit int)
returns table (expired bigint, moved bigint[], outbox_ids bigint[]) language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    at      timestamptz;
    head    conversations%rowtype;
    old     record;
    past    record;
    last_id bigint;
    last    bigint;
    noted   bigint;
    places  tid[];
begin
    select * into head from conversations c where c.conversation_id = p_conversation for no key update;
    at := clock_timestamp();
    expired := 0;
    moved := '{}';
    outbox_ids := '{}';
    for old in
        select m.ctid, m.conversation_id, m.message_id, m.seq, m.created_at from messages m
        where (m.conversation_id, m.message_id) >= (p_conversation, 0)
        order by m.conversation_id, m.message_id limit p_limit
    loop
        exit when old.conversation_id <> p_conversation or old.created_at >= p_before;
        expired := expired + 1;
        places := places || old.ctid;
        last_id := old.message_id;
        last := old.seq;
    end loop;
    if expired = 0 then
        return;
    end if;
    if last >= head.last_seq then
        -- Nothing will say when the last message came, which decides this: see `is_archived`.
        update participants p set archived_seq = case when is_archived(p, head) then head.last_seq end
        where p.conversation_id = p_conversation and p.archived_seq < head.last_seq;
    end if;
    delete from messages m where m.ctid = any (places); -- Nothing else moves them, as in `erase_messages`.
    delete from versions v where v.conversation_id = p_conversation and v.message_id <= last_id;
    update conversations c set first_seq = last + 1 where c.conversation_id = p_conversation;
    for past in
        select p.user_id, coalesce(d.seq, last) as seq, coalesce(d.message_id, last_id) as message_id
        from participants p left join lateral last_deleted_after(p_conversation, last_id) d on true
        where p.conversation_id = p_conversation and p.read_seq < last
    loop
        update participants p
        set read_seq = past.seq, read_message_id = past.message_id, read_by_sending = false,
            read_at = coalesce(p.read_at, at)
        where p.conversation_id = p_conversation and p.user_id = past.user_id;
        insert into outbox (conversation_ids, message_ids, reader)
        values (array[p_conversation], array[past.message_id], past.user_id) returning id into noted;
        moved := moved || past.user_id;
        outbox_ids := outbox_ids || noted;
    end loop;
    return next;
end
$$;
