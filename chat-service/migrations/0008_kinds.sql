-- A message may have a kind, with data that fit the schema of the kind, and may reply to a message of its conversation.
-- A system message is from the marketplace itself, whose user is no participant.
alter table messages
    add kind     text,
    add data     text,
    add reply_to bigint,
    add system   boolean;
-- The former data of a changed message.
alter table versions add data text;

-- Stores a batch as the function with eight arguments does, which the previous release calls, and in addition:
--   * A message has a kind, data and the message to which it replies, or null. A reply to a message that is not in the
--     conversation is not stored. The outcome is `no_original`.
--   * A system message moves no marker and is not stopped by a block. Its sender needs not participate.
create function store_messages(
    p_conversations bigint[], p_senders bigint[], p_usernames text[], p_named_at bigint[], p_contents text[],
    p_clients text[], p_deadlines timestamptz[], p_wait boolean,
    p_kinds text[], p_data text[], p_replies bigint[], p_systems boolean[]
) returns table (
    ord bigint, outcome text, message_id bigint, seq bigint, sender_username text, content text,
    created_at timestamptz, is_read boolean, recipients bigint[], outbox_id bigint
) language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_material = off
set enable_memoize = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    at timestamptz;
    locked bigint[];
begin
    if p_wait then
        locked := array(
            select c.conversation_id from conversations c where c.conversation_id = any (p_conversations)
            order by c.conversation_id for no key update
        );
    else
        locked := array(
            select c.conversation_id from conversations c where c.conversation_id = any (p_conversations)
            order by c.conversation_id for no key update skip locked
        );
    end if;
    at := clock_timestamp();

    return query
    with input as materialized (
        select i.ord, i.conversation_id, i.sender_id, i.content, i.client_id, i.username as claimed,
               coalesce(i.named_at, 0) as claimed_at, i.deadline, c.conversation_id = any (locked) as held, c.last_seq,
               i.kind, i.data, i.reply_to, coalesce(i.system, false) as system,
               coalesce(
                   case when i.system or coalesce(i.named_at, 0) >= coalesce(u.named_at, 0) then i.username end,
                   u.username, i.username, 'user-' || i.sender_id
               ) as username,
               u.username as known, coalesce(u.named_at, 0) as known_at, p.people,
               i.sender_id = any (p.people) or coalesce(i.system, false) and c.conversation_id is not null as member,
               m.message_id as old_id, m.seq as old_seq, m.sender_username as old_username,
               m.content as old_content, m.created_at as old_created_at
        -- In a batch of plain messages, the last four are empty: unnest fills them with null.
        from unnest(p_conversations, p_senders, p_usernames, p_named_at, p_contents, p_clients, p_deadlines, p_kinds,
                    p_data, p_replies, p_systems)
             with ordinality as i (conversation_id, sender_id, username, named_at, content, client_id, deadline, kind,
                                   data, reply_to, system, ord)
        cross join lateral (
            select array(
                select p.user_id from participants p where p.conversation_id = i.conversation_id order by p.user_id
            ) as people
            offset 0 -- Once, and not wherever it is used.
        ) p
        left join conversations c on c.conversation_id = i.conversation_id
        left join users u on u.user_id = i.sender_id
        left join messages m on m.conversation_id = i.conversation_id and m.sender_id = i.sender_id
                            and m.client_id = i.client_id
    ), judged as (
        select i.*,
               case when not i.member then 'forbidden'
                    when i.old_id is not null then 'repeated'
                    when not i.system and cardinality(i.people) = 2 and exists (
                        select from blocks b where b.user_id = any (i.people) and b.blocked_id = i.sender_id
                    ) then 'blocked'
                    -- Compared as rows, the keys fit one index alone: see "messages" in the service.
                    when i.reply_to is not null and not exists (
                        select from (
                            select m.conversation_id, m.message_id from messages m
                            where (m.conversation_id, m.message_id) >= (i.conversation_id, i.reply_to)
                            order by m.conversation_id, m.message_id limit 1
                        ) m where m.conversation_id = i.conversation_id and m.message_id = i.reply_to
                    ) then 'no_original'
                    when i.deadline <= at then 'late'
                    when i.held is not true then 'busy'
                    else 'stored' end as outcome
        from input i
    ), numbered as materialized (
        select j.*, case when j.fresh then nextval('message_ids') end as new_id,
               case when j.fresh then j.last_seq + j.n end as new_seq
        from (
            select j.*, j.outcome = 'stored' as fresh, row_number() over (
                partition by j.conversation_id, j.outcome = 'stored' order by j.ord rows unbounded preceding
            ) as n
            from judged j
        ) j
    ), inserted as (
        insert into messages (conversation_id, message_id, seq, sender_id, sender_username, content, client_id, created_at,
                              kind, data, reply_to, system)
        select n.conversation_id, n.new_id, n.new_seq, n.sender_id, n.username, n.content, n.client_id, at,
               n.kind, n.data, n.reply_to, nullif(n.system, false)
        from numbered n where n.fresh
    ), bumped as (
        update conversations c
        set last_seq = f.seq, last_message_id = f.message_id, activity = f.message_id
        from (
            select n.conversation_id, max(n.new_seq) as seq, max(n.new_id) as message_id
            from numbered n where n.fresh group by n.conversation_id
        ) f
        where c.conversation_id = f.conversation_id
    ), marked as (
        update participants p
        set read_seq = f.seq, read_message_id = f.message_id, read_at = at, read_by_sending = true
        from (
            select n.conversation_id, n.sender_id, max(n.new_seq) as seq, max(n.new_id) as message_id
            from numbered n where n.fresh and not n.system group by n.conversation_id, n.sender_id
        ) f
        where p.conversation_id = f.conversation_id and p.user_id = f.sender_id
    ), learned as (
        insert into users as u (user_id, username, named_at)
        select distinct on (i.sender_id) i.sender_id, i.claimed, i.claimed_at
        from input i
        where i.member and not i.system and i.claimed is not null
          and (i.claimed_at > i.known_at or i.claimed_at = i.known_at and i.claimed is distinct from i.known)
        order by i.sender_id, i.claimed_at desc, i.ord desc
        on conflict (user_id) do update set username = excluded.username, named_at = excluded.named_at
        where excluded.named_at >= u.named_at
    ), noted as (
        insert into outbox as o (conversation_ids, message_ids)
        select array_agg(n.conversation_id), array_agg(n.new_id)
        from numbered n where n.fresh having count(*) > 0
        returning o.id
    )
    select n.ord,
           n.outcome,
           coalesce(n.old_id, n.new_id),
           coalesce(n.old_seq, n.new_seq),
           coalesce(n.old_username, n.username),
           coalesce(n.old_content, n.content),
           coalesce(n.old_created_at, at),
           n.old_id is not null and not exists (
               select from participants p
               where p.conversation_id = n.conversation_id and p.user_id <> n.sender_id and p.read_seq < n.old_seq
           ),
           case when n.fresh and n.n = 1 then n.people end,
           (select o.id from noted o)
    from numbered n
    order by n.ord;
end
$$;

-- Changes one message as before, and in addition:
--   * A deletion, which `p_deleted_by` marks, also removes the data. Another change replaces the text, the data or both:
--     what is null stays.
--   * A user edits no message of a kind, and deletes none of a kind in `p_reserved`. The outcome is `reserved`.
create function change_message(
    p_conversation bigint, p_message bigint, p_user bigint, p_content text, p_deleted_by text, p_reason text,
    p_if_change bigint, p_seconds bigint, p_changes_max bigint, p_version_days int, p_data text, p_reserved text[]
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
    is_deletion boolean := p_deleted_by is not null;
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
        when is_deletion and old.deleted_at is not null then 'unchanged'
        when old.deleted_at is not null then 'not_found'
        when p_if_change <> old.change then 'conflict'
        when p_user is not null and (old.kind = any (p_reserved) or old.kind is not null and not is_deletion)
            then 'reserved'
        when not is_deletion and coalesce(p_content, old.content) = old.content
            and coalesce(p_data, old.data) is not distinct from old.data then 'unchanged'
        when p_user is not null and at > old.created_at + make_interval(secs => p_seconds) then 'too_late'
        when not is_deletion and p_user is not null and exists (
            select from participants p join blocks b on b.user_id = p.user_id and b.blocked_id = p_user
            where p.conversation_id = p_conversation
        ) and 2 = (select count(*) from participants p where p.conversation_id = p_conversation) then 'blocked'
        when not is_deletion and p_changes_max <= (
            select count(*) from versions v where v.conversation_id = p_conversation and v.message_id = p_message
        ) then 'too_many'
    end;
    if outcome is not null then
        return query select outcome, null::bigint, null::bigint, null::bigint[];
        return;
    end if;

    next := head.last_change + 1;
    update conversations c set last_change = next where c.conversation_id = p_conversation;
    insert into versions (conversation_id, message_id, change, content, data, reason, until)
    values (p_conversation, p_message, next, old.content, old.data, p_reason, at + make_interval(days => p_version_days));
    update messages m
    set content = case when is_deletion then '' else coalesce(p_content, m.content) end, change = next,
        data = case when not is_deletion then coalesce(p_data, m.data) end,
        edited_at = case when is_deletion then m.edited_at else at end,
        deleted_at = case when is_deletion then at end,
        deleted_by = p_deleted_by
    where m.ctid = place; -- Nothing else moves it: every change holds the lock of the conversation.

    if is_deletion then
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

-- For the previous release.
create or replace function change_message(
    p_conversation bigint, p_message bigint, p_user bigint, p_content text, p_deleted_by text, p_reason text,
    p_if_change bigint, p_seconds bigint, p_changes_max bigint, p_version_days int
) returns table (outcome text, number bigint, outbox_id bigint, moved bigint[]) language sql as $$
    select * from change_message(p_conversation, p_message, p_user, p_content, p_deleted_by, p_reason, p_if_change,
                                 p_seconds, p_changes_max, p_version_days, null, null)
$$;
