-- $1: ids of conversations, $2: ids of their participants, as pairs.
insert into auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff, is_active, date_joined)
select u, '', false, 'user' || u, '', '', '', false, true, now() from unnest($1::bigint[], $2::bigint[]) p (c, u);

insert into chat_conversation (id, created_at) select distinct c, now() from unnest($1::bigint[], $2::bigint[]) p (c, u);

insert into chat_conversation_participants (conversation_id, user_id) select c, u from unnest($1::bigint[], $2::bigint[]) p (c, u);
