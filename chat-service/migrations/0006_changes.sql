-- Changes of stored messages. A conversation numbers its changes from 1 without a gap, and a changed message has the
-- number of its last change; 0 if it never changed. A deleted message stays as a row without a text.
alter table conversations add last_change bigint not null default 0;
alter table messages
    add change     bigint not null default 0,
    add edited_at  timestamptz,
    add deleted_at timestamptz,
    add deleted_by text;

-- Former texts, for moderators, until their time has passed. Never shown to users.
create table versions (
    conversation_id bigint      not null,
    message_id      bigint      not null,
    -- The change that replaced the text.
    change          bigint      not null,
    content         text        not null,
    -- Why a backend deleted the message.
    reason          text,
    until           timestamptz not null,
    primary key (conversation_id, message_id, change)
);
create index versions_until on versions (until);

-- The number of the change to publish; null for stored messages and markers.
alter table outbox add change bigint;

-- Changes one message: replaces its text, or deletes it if `p_content` is null. With `p_user`, on behalf of its sender,
-- within so many seconds after it was sent; without, on behalf of a backend. The row lock is the one of
-- `store_messages`, taken in the same order, and it orders concurrent changes.
--
-- `outcome` is `changed`, `unchanged` (there was nothing to do), or the reason why nothing was done: `forbidden` (not a
-- participant, or no such conversation), `not_own`, `not_found`, `too_late`, `blocked`, `conflict`, `too_many`.
--
-- A deletion counts as read for users who have nothing else to read: markers directly before deleted messages move past
-- them. `moved` has the users of these markers, and `number` the number of the change.
create function change_message(
    p_conversation bigint, p_message bigint, p_user bigint, p_content text, p_deleted_by text, p_reason text,
    p_if_change bigint, p_seconds bigint, p_changes_max bigint, p_version_days int
) returns table (outcome text, number bigint, outbox_id bigint, moved bigint[]) language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    head  conversations%rowtype;
    old   messages%rowtype;
    place tid;
    at    timestamptz;
    next  bigint;
    after bigint := 0; -- The last message before the deleted ones around this one; 0 if there is none.
    past  bigint; -- The last deleted message around this one, and its id.
    past_id bigint;
    near  record;
    users bigint[];
    noted  bigint;
begin
    select * into head from conversations c where c.conversation_id = p_conversation for no key update;
    at := clock_timestamp();
    if not found or p_user is not null and not exists (
        select from participants p where p.conversation_id = p_conversation and p.user_id = p_user
    ) then
        return query select 'forbidden', null::bigint, null::bigint, null::bigint[];
        return;
    end if;
    -- Compared as rows, the keys fit one index alone: see "messages" in the service.
    select m.ctid into place from (
        select m.ctid, m.* from messages m where (m.conversation_id, m.message_id) >= (p_conversation, p_message)
        order by m.conversation_id, m.message_id limit 1
    ) m where m.conversation_id = p_conversation and m.message_id = p_message;
    select m.* into old from messages m where m.ctid = place;
    outcome := case
        when old.message_id is null then 'not_found'
        when p_user <> old.sender_id then 'not_own'
        when p_content is null and old.deleted_at is not null then 'unchanged'
        when old.deleted_at is not null then 'not_found'
        when p_if_change <> old.change then 'conflict'
        when p_content = old.content then 'unchanged'
        when p_user is not null and at > old.created_at + make_interval(secs => p_seconds) then 'too_late'
        when p_content is not null and p_user is not null and exists (
            select from participants p join blocks b on b.user_id = p.user_id and b.blocked_id = p_user
            where p.conversation_id = p_conversation
        ) and 2 = (select count(*) from participants p where p.conversation_id = p_conversation) then 'blocked'
        when p_content is not null and p_changes_max <= (
            select count(*) from versions v where v.conversation_id = p_conversation and v.message_id = p_message
        ) then 'too_many'
    end;
    if outcome is not null then
        return query select outcome, null::bigint, null::bigint, null::bigint[];
        return;
    end if;

    next := head.last_change + 1;
    update conversations c set last_change = next where c.conversation_id = p_conversation;
    insert into versions (conversation_id, message_id, change, content, reason, until)
    values (p_conversation, p_message, next, old.content, p_reason, at + make_interval(days => p_version_days));
    update messages m
    set content = coalesce(p_content, ''), change = next,
        edited_at = case when p_content is null then m.edited_at else at end,
        deleted_at = case when p_content is null then at end,
        deleted_by = case when p_content is null then p_deleted_by end
    where m.ctid = place; -- Nothing else moves it: every change holds the lock of the conversation.

    if p_content is null then
        for near in
            select m.conversation_id, m.seq, m.deleted_at from messages m
            where (m.conversation_id, m.message_id) < (p_conversation, p_message)
            order by m.conversation_id desc, m.message_id desc
        loop
            exit when near.conversation_id <> p_conversation;
            after := near.seq;
            exit when near.deleted_at is null;
            after := 0;
        end loop;
        past := old.seq;
        past_id := p_message;
        for near in
            select m.conversation_id, m.seq, m.message_id, m.deleted_at from messages m
            where (m.conversation_id, m.message_id) > (p_conversation, p_message)
            order by m.conversation_id, m.message_id
        loop
            exit when near.conversation_id <> p_conversation or near.deleted_at is null;
            past := near.seq;
            past_id := near.message_id;
        end loop;
        with forward as (
            update participants p
            set read_seq = past, read_message_id = past_id, read_by_sending = false,
                -- The time of the last read stays: the move says nothing of the reader.
                read_at = coalesce(p.read_at, at)
            where p.conversation_id = p_conversation and p.read_seq >= after and p.read_seq < past
            returning p.user_id
        )
        select array_agg(m.user_id) into users from forward m;
    end if;

    insert into outbox (conversation_ids, message_ids, change) values (array[p_conversation], array[p_message], next)
    returning id into noted;
    return query select 'changed', next, noted, users;
end
$$;

-- As before, and a marker that stops directly before deleted messages moves past them: the user has nothing else to
-- read there.
create or replace function mark_read(p_conversation bigint, p_user bigint, p_message bigint) returns table (
    seq bigint, message_id bigint, read_at timestamptz, outbox_id bigint
) language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    target bigint;
    target_id bigint := p_message;
    following record;
begin
    if not exists (select from participants p where p.conversation_id = p_conversation and p.user_id = p_user) then
        return;
    end if;
    -- Compared as rows, the keys fit one index alone: see "messages" in the service.
    select m.seq into target from (
        select * from messages m where (m.conversation_id, m.message_id) >= (p_conversation, p_message)
        order by m.conversation_id, m.message_id limit 1
    ) m where m.conversation_id = p_conversation and m.message_id = p_message;
    if target is null then
        return query select null::bigint, null::bigint, null::timestamptz, null::bigint;
        return;
    end if;
    for following in
        select m.conversation_id, m.seq, m.message_id, m.deleted_at from messages m
        where (m.conversation_id, m.message_id) > (p_conversation, p_message)
        order by m.conversation_id, m.message_id
    loop
        exit when following.conversation_id <> p_conversation or following.deleted_at is null;
        target := following.seq;
        target_id := following.message_id;
    end loop;
    return query
    with moved as (
        update participants p
        set read_seq = target, read_message_id = target_id, read_at = clock_timestamp(), read_by_sending = false
        where p.conversation_id = p_conversation and p.user_id = p_user and p.read_seq < target
        returning p.read_seq, p.read_message_id, p.read_at
    ), noted as (
        insert into outbox as o (conversation_ids, message_ids, reader)
        select array[p_conversation], array[target_id], p_user from moved
        returning o.id
    )
    select m.read_seq, m.read_message_id, m.read_at, n.id from moved m cross join noted n;
    if not found then
        return query
        select p.read_seq, p.read_message_id, p.read_at, null::bigint
        from participants p where p.conversation_id = p_conversation and p.user_id = p_user;
    end if;
end
$$;
