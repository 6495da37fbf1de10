//! What a page or a socket causes costs the same however much is stored: no query reads a big table from its start.

use super::*;
use sqlx::{ConnectOptions, postgres::PgConnectOptions, postgres::PgPoolOptions};
use std::str::FromStr;
use testkit::TestDatabase;

/// As many conversations as it takes for the planner to prefer an index where one helps.
const SEED: &[&str] = &[
    "insert into users select u, 'name-' || u from generate_series(1, 30000) u",
    // User 1 is in twenty, everyone else in a few.
    "insert into conversations (people) select int8send(c) from generate_series(1, 40000) c",
    "insert into participants (conversation_id, user_id)
     select c, case when c <= 20 then 1 else c % 15000 + 2 end from generate_series(1, 40000) c
     union all select c, c % 13000 + 16000 from generate_series(1, 40000) c",
    // A long one, and many short ones.
    "insert into messages select c, nextval('message_ids'), n, 1, 'name-1', 'hello', 'key-' || n, now()
     from (select 1 as c, generate_series(1, 5000) as n union all select generate_series(2, 15001), 1) m",
    "update conversations c set last_seq = m.seq, last_message_id = m.id, activity = m.id
     from (select conversation_id, max(seq) as seq, max(message_id) as id from messages group by 1) m
     where m.conversation_id = c.conversation_id",
    "insert into blocks select u, u + b from generate_series(1, 2000) u, generate_series(1, 10) b",
    "vacuum analyze users",
    "vacuum analyze conversations",
    "vacuum analyze participants",
    "vacuum analyze blocks",
    "vacuum analyze messages",
];

/// Rows that this connection has read of the tables that grow: from their start, and through indexes.
async fn rows_read(pool: &PgPool) -> (i64, i64) {
    sqlx::query("select pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let row = sqlx::query(
        "select sum(seq_tup_read)::bigint as seq, sum(idx_tup_fetch)::bigint as idx from pg_stat_user_tables
         where schemaname = 'chat' and relname in ('users', 'conversations', 'participants', 'messages', 'blocks')",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    (row.get("seq"), row.get("idx"))
}

/// Runs a query as often as it takes for Postgres to settle on a plan, and checks each time what it read.
macro_rules! reads_at_most {
    ($most:expr, $pool:expr, $query:expr) => {
        for _ in 0..7 {
            let before = rows_read($pool).await;
            $query.await.unwrap();
            let after = rows_read($pool).await;
            assert_eq!(after.0 - before.0, 0, "{} reads a table from its start", stringify!($query));
            let read = after.1 - before.1;
            assert!(read <= $most, "{} reads {read} rows", stringify!($query));
        }
    };
}

#[tokio::test]
async fn no_query_reads_more_where_more_is_stored() {
    let database = TestDatabase::create().await.unwrap();
    let options = PgConnectOptions::from_str(&database.url()).unwrap().options([("search_path", "chat")]);
    let mut connection = options.connect().await.unwrap();
    sqlx::query("create schema chat").execute(&mut connection).await.unwrap();
    crate::MIGRATIONS.run(&mut connection).await.unwrap();
    for statement in SEED {
        sqlx::query(*statement).execute(&mut connection).await.unwrap();
    }
    // One connection: its statistics are those of the queries.
    let pool = &PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let (place, one) = (ConversationId::new(1).unwrap(), UserId::new(1).unwrap());
    let (other, ids) = (UserId::new(16_001).unwrap(), (1..=50).collect::<Vec<i64>>());
    let first: i64 = sqlx::query_scalar("select min(message_id) from messages where conversation_id = 1")
        .fetch_one(pool)
        .await
        .unwrap();
    let middle = first + 2_500;
    let some = (middle..middle + 50).collect::<Vec<i64>>();

    reads_at_most!(20, pool, members(pool, place, Some(one)));
    for range in [Range::Newest, Range::Before(middle), Range::After(middle)] {
        reads_at_most!(60, pool, page(pool, place, range, 51));
    }
    for range in [Range::Newest, Range::Before(10), Range::After(10)] {
        reads_at_most!(60, pool, list(pool, one, range, 50));
        reads_at_most!(60, pool, blocks(pool, one, range, 50));
    }
    reads_at_most!(110, pool, messages(pool, &[1; 50], &some));
    reads_at_most!(200, pool, everyone(pool, &ids));
    reads_at_most!(200, pool, heads(pool, &ids));
    reads_at_most!(400, pool, conversations(pool, &ids, one));
    reads_at_most!(60, pool, unread(pool, one));
    reads_at_most!(200, pool, conversations_of_two(pool, one, other));
    reads_at_most!(20, pool, block(pool, one, other));
    reads_at_most!(20, pool, unblock(pool, one, other));
    reads_at_most!(20, pool, learn_username(pool, one, &fastrand::u64(..).to_string()));
    reads_at_most!(20, pool, reports::report(pool, one, other, None, "spam"));
    // A range of the table's pages, whatever its size.
    reads_at_most!(20_000, pool, reports::message_seen_by(pool, MessageId::new(middle).unwrap(), one));
    let seq = std::cell::Cell::new(middle);
    let next = || MessageId::new(seq.replace(seq.get() + 1)).unwrap();
    reads_at_most!(20, pool, mark_read(pool, place, one, next()));
    let wanted = CreateConversation { participants: Vec::new(), listing_id: Some(7), title: None };
    reads_at_most!(20, pool, open_conversation(pool, &[1, 2], &[None, None], &wanted));
    let batch = |key: u64| -> Vec<Send> {
        let send = |conversation: i64| Send {
            conversation_id: ConversationId::new(conversation).unwrap(),
            sender_id: one,
            sender_username: None,
            message: "hello".to_owned(),
            client_id: Some(format!("{key}-{conversation}")),
        };
        (1..=100).map(send).collect()
    };
    for size in [1, 100] {
        // Six rows or so for a message that is new, some more for one that is a repeat.
        let rows = 30 * i64::try_from(size).unwrap();
        let new = || batch(fastrand::u64(1..));
        reads_at_most!(rows, pool, async {
            store_messages(pool, &new()[..size].iter().collect::<Vec<_>>()).await
        });
        let again = batch(0);
        reads_at_most!(rows, pool, store_messages(pool, &again[..size].iter().collect::<Vec<_>>()));
    }
}
