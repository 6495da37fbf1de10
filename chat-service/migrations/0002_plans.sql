-- The two functions that write, planned once for a connection instead of anew for every call: that cost several times
-- what they do. The plan must then be right for any table, whether it is empty or has a billion rows: every access is
-- by index, row by row (no hash or merge join reads a table from its start), and what belongs together within a batch
-- is found by windows over it instead of joins.

create or replace function store_messages(
    p_conversations bigint[], p_senders bigint[], p_usernames text[], p_contents text[], p_clients text[]
) returns table (
    ord bigint, outcome text, message_id bigint, seq bigint, sender_username text, content text,
    created_at timestamptz, is_read boolean, recipients bigint[], outbox_id bigint
) language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_material = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
    at timestamptz;
begin
    perform from conversations c where c.conversation_id = any (p_conversations)
    order by c.conversation_id for no key update;
    at := clock_timestamp();

    return query
    with input as materialized (
        select i.ord, i.conversation_id, i.sender_id, i.content, i.client_id, i.username as claimed, c.last_seq,
               coalesce(i.username, u.username, 'user-' || i.sender_id) as username,
               u.username as known, p.user_id is not null as member,
               2 = (
                   select count(*) from participants o where o.conversation_id = i.conversation_id
               ) and exists (
                   select from participants o
                   join blocks b on b.user_id = o.user_id and b.blocked_id = i.sender_id
                   where o.conversation_id = i.conversation_id
               ) as blocked,
               first_value(i.ord) over (partition by i.conversation_id, i.sender_id, i.client_id order by i.ord) as first,
               m.message_id as old_id, m.seq as old_seq, m.sender_username as old_username,
               m.content as old_content, m.created_at as old_created_at
        from unnest(p_conversations, p_senders, p_usernames, p_contents, p_clients)
             with ordinality as i (conversation_id, sender_id, username, content, client_id, ord)
        left join conversations c on c.conversation_id = i.conversation_id
        left join participants p on p.conversation_id = i.conversation_id and p.user_id = i.sender_id
        left join users u on u.user_id = i.sender_id
        left join messages m on m.conversation_id = i.conversation_id and m.sender_id = i.sender_id
                            and m.client_id = i.client_id
    ), judged as (
        select i.*, i.member and not i.blocked and i.old_id is null and i.first = i.ord as fresh from input i
    ), numbered as materialized (
        select j.*, case when j.fresh then nextval('message_ids') end as new_id,
               case when j.fresh then j.last_seq + j.n end as new_seq
        from (
            select j.*, row_number() over (partition by j.conversation_id, j.fresh order by j.ord) as n
            from judged j order by j.ord
        ) j
    ), inserted as (
        insert into messages (conversation_id, message_id, seq, sender_id, sender_username, content, client_id, created_at)
        select n.conversation_id, n.new_id, n.new_seq, n.sender_id, n.username, n.content, n.client_id, at
        from numbered n where n.fresh order by n.ord
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
            from numbered n where n.fresh group by n.conversation_id, n.sender_id
        ) f
        where p.conversation_id = f.conversation_id and p.user_id = f.sender_id
    ), learned as (
        insert into users as u (user_id, username)
        select distinct on (i.sender_id) i.sender_id, i.claimed
        from input i where i.member and i.claimed is distinct from i.known and i.claimed is not null
        order by i.sender_id, i.ord desc
        on conflict (user_id) do update set username = excluded.username
    ), noted as (
        insert into outbox as o (conversation_ids, message_ids)
        select array_agg(n.conversation_id order by n.ord), array_agg(n.new_id order by n.ord)
        from numbered n where n.fresh having count(*) > 0
        returning o.id
    )
    select t.ord,
           case when not t.member then 'forbidden'
                when t.fresh then 'stored'
                when t.old_id is not null or t.first_id is not null then 'repeated'
                else 'blocked' end,
           coalesce(t.old_id, t.first_id),
           coalesce(t.old_seq, t.first_seq),
           coalesce(t.old_username, t.first_username),
           coalesce(t.old_content, t.first_content),
           coalesce(t.old_created_at, at),
           t.old_id is not null and not exists (
               select from participants p
               where p.conversation_id = t.conversation_id and p.user_id <> t.sender_id and p.read_seq < t.old_seq
           ),
           case when t.fresh and t.n = 1 then array(
               select p.user_id from participants p where p.conversation_id = t.conversation_id order by p.user_id
           ) end,
           (select o.id from noted o)
    from (
        select n.*, first_value(n.new_id) over same as first_id, first_value(n.new_seq) over same as first_seq,
               first_value(n.username) over same as first_username, first_value(n.content) over same as first_content
        from numbered n
        window same as (partition by n.conversation_id, n.sender_id, n.client_id order by n.ord)
    ) t
    order by t.ord;
end
$$;

-- As before, but for how it is planned.
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
    return query
    with moved as (
        update participants p
        set read_seq = target, read_message_id = p_message, read_at = clock_timestamp(), read_by_sending = false
        where p.conversation_id = p_conversation and p.user_id = p_user and p.read_seq < target
        returning p.read_seq, p.read_message_id, p.read_at
    ), noted as (
        insert into outbox as o (conversation_ids, message_ids, reader)
        select array[p_conversation], array[p_message], p_user from moved
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

-- Of pages that it has no summary of, this index knows nothing: they would all be read, until the next vacuum.
alter index messages_by_id set (autosummarize = on);
