-- Imports conversations and messages of another system, with their ids; docs/from-django-channels.md explains its use.
--
-- Run it in the folder of conversations.csv, participants.csv and messages.csv (each with a header line), as the owner
-- of the schema chat, after chat-service has run once:
--     psql --file=import.sql "$CHAT_DATABASE_URL"
--
-- You can repeat it to import new rows: existing rows stay unchanged, and new ones are appended. It commits every few
-- hundred conversations, so an interrupted import continues when you start it again. At the end it compares the files
-- with the tables, and fails if something is missing.

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
-- Number of ids left free above the largest imported one, for new rows of the other system.
\if :{?headroom}
\else
    \set headroom 1000000
\endif

set search_path = chat;
set client_min_messages = warning;
select pg_try_advisory_lock(hashtext('vyzio import')) as alone \gset
\if :alone
\else
    do $$ begin raise exception 'another import is running'; end $$;
\endif

drop table if exists import_conversations, import_participants, import_messages;
create unlogged table import_conversations (
    conversation_id bigint      primary key check (conversation_id > 0),
    listing_id      bigint,
    title           text,
    created_at      timestamptz not null
);
create unlogged table import_participants (
    conversation_id bigint not null,
    user_id         bigint not null check (user_id > 0),
    username        text,
    read_message_id bigint, -- The last message that this user has read.
    primary key (conversation_id, user_id)
);
create unlogged table import_messages (
    message_id      bigint      primary key check (message_id > 0),
    conversation_id bigint      not null,
    sender_id       bigint      not null check (sender_id > 0),
    content         text        not null check (btrim(content, E' \t\r\n') <> ''),
    created_at      timestamptz not null
);
\copy import_conversations from 'conversations.csv' with (format csv, header)
\copy import_participants from 'participants.csv' with (format csv, header)
\copy import_messages from 'messages.csv' with (format csv, header)
create index on import_messages (conversation_id, message_id);

-- The same participants and listing have one conversation here: the newest. The others get a different key.
alter table import_conversations add people bytea;
update import_conversations i
set people = case when k.newest then k.key else sha256(convert_to('import|' || i.conversation_id, 'UTF8')) end
from (
    select conversation_id, key, row_number() over (partition by key order by conversation_id desc) = 1 as newest
    from (
        select c.conversation_id, sha256(convert_to(format('%s|%s', c.listing_id, array(
            select p.user_id from import_participants p where p.conversation_id = c.conversation_id order by p.user_id
        )), 'UTF8')) as key
        from import_conversations c
    ) keys
) k
where k.conversation_id = i.conversation_id;
analyze import_conversations, import_participants, import_messages;

-- Checks all rows before anything is imported.
do $$
declare
    wrong bigint;
begin
    select m.message_id into wrong from import_messages m
    where not exists (select from import_conversations c where c.conversation_id = m.conversation_id) limit 1;
    if found then raise exception 'messages.csv: the conversation of message % is not in conversations.csv', wrong; end if;

    select p.conversation_id into wrong from import_participants p
    where not exists (select from import_conversations c where c.conversation_id = p.conversation_id) limit 1;
    if found then raise exception 'participants.csv: conversation % is not in conversations.csv', wrong; end if;

    select c.conversation_id into wrong from import_conversations c
    where not exists (select from import_participants p where p.conversation_id = c.conversation_id) limit 1;
    if found then raise exception 'conversations.csv: conversation % has no participants; leave it out', wrong; end if;

    select i.conversation_id into wrong from import_conversations i
    join conversations c on c.conversation_id = i.conversation_id
    where c.created_at <> i.created_at or c.listing_id is distinct from i.listing_id limit 1;
    if found then raise exception 'conversation % already exists, and is a different one', wrong; end if;

    select i.message_id into wrong from import_messages i join messages m on m.message_id = i.message_id
    where (m.conversation_id, m.sender_id) <> (i.conversation_id, i.sender_id) limit 1;
    if found then raise exception 'message % already exists, and is a different one', wrong; end if;
end
$$;

-- New rows here get larger ids than the rows of this import and of the next ones.
select setval('message_ids', m.largest + :headroom) from (select max(message_id) as largest from import_messages) m
where m.largest >= (select last_value from message_ids) \g /dev/null
select setval(pg_get_serial_sequence('conversations', 'conversation_id'), c.largest + :headroom)
from (select max(conversation_id) as largest from import_conversations) c
where c.largest >= (select last_value from conversations_conversation_id_seq) \g /dev/null

do $$
declare
    batch bigint[];
    late  bigint;
begin
    for batch in
        select array_agg(c.conversation_id order by c.conversation_id)
        from (
            select conversation_id, (row_number() over (order by conversation_id) - 1) / 500 as number
            from import_conversations
        ) c
        group by c.number order by c.number
    loop
        -- Locks them in the same order as chat-service.
        perform from conversations c where c.conversation_id = any (batch) order by c.conversation_id for no key update;

        insert into users (user_id, username)
        select distinct on (p.user_id) p.user_id, p.username from import_participants p
        where p.conversation_id = any (batch) and p.username <> '' order by p.user_id
        on conflict do nothing;

        insert into conversations (conversation_id, listing_id, title, created_at, people)
        select i.conversation_id, i.listing_id, nullif(i.title, ''), i.created_at,
               case when exists (select from conversations c where c.people = i.people)
                    then sha256(convert_to('import|' || i.conversation_id, 'UTF8')) else i.people end
        from import_conversations i
        where i.conversation_id = any (batch)
          and not exists (select from conversations c where c.conversation_id = i.conversation_id)
        order by i.created_at;

        select m.message_id into late
        from import_messages m join conversations c on c.conversation_id = m.conversation_id
        where m.conversation_id = any (batch) and m.message_id < c.last_message_id and not exists (
            select from messages o where o.conversation_id = m.conversation_id and o.message_id = m.message_id
        ) limit 1;
        if found then
            raise exception 'message % is new, but its conversation has gone on here since', late;
        end if;

        with fresh as (
            select m.*, row_number() over (partition by m.conversation_id order by m.message_id) as place
            from import_messages m
            where m.conversation_id = any (batch) and not exists (
                select from messages o where o.conversation_id = m.conversation_id and o.message_id = m.message_id
            )
        ), stored as (
            insert into messages as s (conversation_id, message_id, seq, sender_id, sender_username, content, client_id, created_at)
            select f.conversation_id, f.message_id, c.last_seq + f.place, f.sender_id,
                   coalesce(u.username, 'user-' || f.sender_id), f.content,
                   -- A key that no client can use, and that is never shown.
                   chr(1) || 'import-' || f.message_id, f.created_at
            from fresh f
            join conversations c on c.conversation_id = f.conversation_id
            left join users u on u.user_id = f.sender_id
            returning s.conversation_id, s.message_id, s.seq
        )
        update conversations c
        set last_seq = s.seq, last_message_id = s.message_id, activity = s.message_id
        from (select conversation_id, max(seq) as seq, max(message_id) as message_id from stored group by 1) s
        where c.conversation_id = s.conversation_id;

        insert into participants (conversation_id, user_id)
        select p.conversation_id, p.user_id from import_participants p where p.conversation_id = any (batch)
        on conflict do nothing;

        -- The sender of a message has read up to it. The time of reading is unknown: the time of sending is used instead.
        update participants p
        set read_seq = m.seq, read_message_id = m.message_id, read_at = m.created_at,
            read_by_sending = m.sender_id = p.user_id
        from import_participants i cross join lateral (
            select m.* from messages m
            where m.conversation_id = i.conversation_id and (m.message_id <= i.read_message_id or m.sender_id = i.user_id)
            order by m.message_id desc limit 1
        ) m
        where i.conversation_id = any (batch) and p.conversation_id = i.conversation_id and p.user_id = i.user_id
          and m.seq > p.read_seq;
        commit;
    end loop;
end
$$;

-- Compares the files with the tables.
select * from (
    select 'conversations' as what, count(*) as in_files, count(c.conversation_id) as here
    from import_conversations i left join conversations c
      on c.conversation_id = i.conversation_id and c.created_at = i.created_at
     and c.last_seq = (select count(*) from messages m where m.conversation_id = c.conversation_id)
    union all
    select 'participants', count(*), count(p.user_id)
    from import_participants i left join participants p
      on p.conversation_id = i.conversation_id and p.user_id = i.user_id and p.read_message_id >= coalesce(
         (select max(m.message_id) from messages m
          where m.conversation_id = i.conversation_id and m.message_id <= i.read_message_id), 0)
    union all
    select 'messages', count(*), count(m.message_id)
    from import_messages i left join messages m
      on m.conversation_id = i.conversation_id and m.message_id = i.message_id
     and (m.sender_id, m.created_at) = (i.sender_id, i.created_at)
    union all
    -- Fewer if a text was changed in the other system after it was imported.
    select 'their texts', count(*), count(m.message_id)
    from import_messages i left join messages m
      on m.conversation_id = i.conversation_id and m.message_id = i.message_id and m.content = i.content
) counts;
select coalesce(bool_and(found), true) as complete from (
    select exists (
        select from messages m where m.conversation_id = i.conversation_id and m.message_id = i.message_id
         and (m.sender_id, m.created_at) = (i.sender_id, i.created_at)
    ) as found from import_messages i
    union all
    select exists (select from conversations c where c.conversation_id = i.conversation_id
         and c.last_seq = (select count(*) from messages m where m.conversation_id = c.conversation_id))
    from import_conversations i
) everything \gset
drop table import_conversations, import_participants, import_messages;
\if :complete
\else
    do $$ begin raise exception 'some rows of the files are missing here, or differ'; end $$;
\endif
