-- As before, for less: who is in a conversation is read once for a message, and repeats within a batch are left to the
-- service. No two messages of a batch may have the same conversation, sender and client_id, or it is refused.
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
set enable_memoize = off
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
               u.username as known, p.people, i.sender_id = any (p.people) as member,
               m.message_id as old_id, m.seq as old_seq, m.sender_username as old_username,
               m.content as old_content, m.created_at as old_created_at
        from unnest(p_conversations, p_senders, p_usernames, p_contents, p_clients)
             with ordinality as i (conversation_id, sender_id, username, content, client_id, ord)
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
        select i.*, i.member and i.old_id is null and not (
            cardinality(i.people) = 2 and exists (
                select from blocks b where b.user_id = any (i.people) and b.blocked_id = i.sender_id
            )
        ) as fresh
        from input i
    ), numbered as materialized (
        select j.*, case when j.fresh then nextval('message_ids') end as new_id,
               case when j.fresh then j.last_seq + j.n end as new_seq
        from (
            select j.*, row_number() over (
                partition by j.conversation_id, j.fresh order by j.ord rows unbounded preceding
            ) as n
            from judged j
        ) j
    ), inserted as (
        insert into messages (conversation_id, message_id, seq, sender_id, sender_username, content, client_id, created_at)
        select n.conversation_id, n.new_id, n.new_seq, n.sender_id, n.username, n.content, n.client_id, at
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
        select array_agg(n.conversation_id), array_agg(n.new_id)
        from numbered n where n.fresh having count(*) > 0
        returning o.id
    )
    select n.ord,
           case when not n.member then 'forbidden'
                when n.fresh then 'stored'
                when n.old_id is not null then 'repeated'
                else 'blocked' end,
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
