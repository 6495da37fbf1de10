-- How old a display name is: the `iat` of the token that named it, in Unix seconds; 0 if that is unknown. The name in
-- the newest token wins.
alter table users add named_at bigint not null default 0;

-- Stores a batch as the function with five arguments does, which the previous release calls, and in addition:
--   * A send whose deadline (by the wall clock; null: none) has passed when its conversation is locked is not stored:
--     its sender was told so. The outcome is `late`.
--   * Without `p_wait`, a conversation that another transaction has locked is left out, so that it delays no other
--     conversation. The outcome is `busy`.
--   * An older name replaces no newer one.
-- No two messages of a batch may have the same conversation, sender and client_id, or it is refused.
create function store_messages(
    p_conversations bigint[], p_senders bigint[], p_usernames text[], p_named_at bigint[], p_contents text[],
    p_clients text[], p_deadlines timestamptz[], p_wait boolean
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
               coalesce(
                   case when coalesce(i.named_at, 0) >= coalesce(u.named_at, 0) then i.username end,
                   u.username, i.username, 'user-' || i.sender_id
               ) as username,
               u.username as known, coalesce(u.named_at, 0) as known_at, p.people,
               i.sender_id = any (p.people) as member,
               m.message_id as old_id, m.seq as old_seq, m.sender_username as old_username,
               m.content as old_content, m.created_at as old_created_at
        from unnest(p_conversations, p_senders, p_usernames, p_named_at, p_contents, p_clients, p_deadlines)
             with ordinality as i (conversation_id, sender_id, username, named_at, content, client_id, deadline, ord)
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
                    when cardinality(i.people) = 2 and exists (
                        select from blocks b where b.user_id = any (i.people) and b.blocked_id = i.sender_id
                    ) then 'blocked'
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
        insert into users as u (user_id, username, named_at)
        select distinct on (i.sender_id) i.sender_id, i.claimed, i.claimed_at
        from input i
        where i.member and i.claimed is not null
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
