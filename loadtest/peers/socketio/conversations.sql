-- $1: ids of conversations, $2: ids of their participants, as pairs.
insert into participants (conversation_id, user_id) select c, u from unnest($1::bigint[], $2::bigint[]) p (c, u);
