-- Seq of the first message that is still stored: one more than the last that retention deleted.
alter table conversations add first_seq bigint not null default 1;

-- Users whose data is erased, or was. Kept for good: after a restore, they are erased again.
create table erasures (
    user_id      bigint      primary key check (user_id > 0),
    erasure_id   bigint      not null unique generated always as identity,
    reason       text,
    requested_at timestamptz not null default clock_timestamp(),
    -- Stage in progress, the last conversation that it has finished, and the last message of the next one.
    stage        text        not null default 'sessions',
    place        bigint      not null default 0,
    message      bigint      not null default 0,
    -- What was committed and published before the last messages were erased: the last row of the outbox, and the last
    -- messages of the streams CHAT and EVENTS.
    outbox_id    bigint,
    chat_seq     bigint,
    events_seq   bigint,
    -- Time of the next step.
    next_at      timestamptz not null default clock_timestamp(),
    done_at      timestamptz
);
create index erasures_due on erasures (next_at) where done_at is null;

-- The last of the deleted messages that directly follow a message. No row: a live one follows, or none.
create function last_deleted_after(p_conversation bigint, p_message bigint) returns table (seq bigint, message_id bigint)
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    following record;
begin
    seq := null;
    for following in
        -- Compared as rows, the keys fit one index alone: see "messages" in the service.
        select m.conversation_id, m.seq, m.message_id, m.deleted_at from messages m
        where (m.conversation_id, m.message_id) > (p_conversation, p_message)
        order by m.conversation_id, m.message_id
    loop
        exit when following.conversation_id <> p_conversation or following.deleted_at is null;
        seq := following.seq;
        message_id := following.message_id;
    end loop;
    if seq is not null then
        return next;
    end if;
end
$$;

-- Looks at up to `p_limit` messages of a conversation after one, and erases those of a user: each becomes a deleted message
-- without its sender's name and the sender's own id, by one change. Their former texts are deleted. As in `change_message`, markers directly
-- before deleted messages move past them; `moved` has their users. The changes are numbered from `first_change`, in the
-- order of the messages. `upto` is the last message looked at; null at the end of the conversation.
create function erase_messages(p_conversation bigint, p_user bigint, p_after bigint, p_limit int)
returns table (upto bigint, first_change bigint, message_ids bigint[], outbox_ids bigint[], moved bigint[])
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    pseudonym text := 'user-' || p_user;
    erased    text := E'\x01erased-'; -- No client sees such an id: see "Send::own_key".
    head      conversations%rowtype;
    at        timestamptz;
    old       record;
    past      record;
    reader    record;
    noted     bigint;
    seen      int := 0;
begin
    select * into head from conversations c where c.conversation_id = p_conversation for no key update;
    at := clock_timestamp();
    first_change := head.last_change + 1;
    message_ids := '{}';
    outbox_ids := '{}';
    moved := '{}';
    for old in
        select m.ctid, m.conversation_id, m.message_id, m.sender_id, m.sender_username, m.client_id, m.deleted_at
        from messages m where (m.conversation_id, m.message_id) > (p_conversation, p_after)
        order by m.conversation_id, m.message_id limit p_limit
    loop
        exit when old.conversation_id <> p_conversation;
        seen := seen + 1;
        upto := old.message_id;
        continue when old.sender_id <> p_user;
        delete from versions v where v.conversation_id = p_conversation and v.message_id = old.message_id;
        continue when old.deleted_at is not null and old.sender_username = pseudonym
            and old.client_id = erased || old.message_id;
        update messages m
        set content = '', data = null, sender_username = pseudonym, client_id = erased || old.message_id, change = first_change + cardinality(message_ids),
            deleted_at = coalesce(m.deleted_at, at), deleted_by = coalesce(m.deleted_by, 'erasure')
        where m.ctid = old.ctid; -- Nothing else moves it: every change holds the lock of the conversation.
        insert into outbox (conversation_ids, message_ids, change)
        values (array[p_conversation], array[old.message_id], first_change + cardinality(message_ids))
        returning id into noted;
        message_ids := message_ids || old.message_id;
        outbox_ids := outbox_ids || noted;
    end loop;
    if seen < p_limit then
        upto := null;
    end if;
    if cardinality(message_ids) > 0 then
        update conversations c set last_change = head.last_change + cardinality(message_ids)
        where c.conversation_id = p_conversation;
        for reader in
            select p.user_id, p.read_message_id from participants p
            where p.conversation_id = p_conversation and p.read_seq < head.last_seq
        loop
            for past in select * from last_deleted_after(p_conversation, reader.read_message_id) loop
                update participants p
                set read_seq = past.seq, read_message_id = past.message_id, read_by_sending = false,
                    read_at = coalesce(p.read_at, at)
                where p.conversation_id = p_conversation and p.user_id = reader.user_id;
                moved := moved || reader.user_id;
            end loop;
        end loop;
    end if;
    return next;
end
$$;

-- Deletes up to `p_limit` messages of a conversation that were sent before a time, oldest first, with their former texts.
-- Markers before the first message that stays move directly before it, or past it while it is a deleted one; `moved` has
-- their users, and `outbox_ids` the rows that publish them. No row: there was nothing to do.
create function expire_messages(p_conversation bigint, p_before timestamptz, p_limit int)
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
    old     record;
    past    record;
    last_id bigint;
    last    bigint;
    noted   bigint;
    places  tid[];
begin
    perform from conversations c where c.conversation_id = p_conversation for no key update;
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
