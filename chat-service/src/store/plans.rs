//! The cost of queries doesn't grow with the stored data: no query scans a big table.

use super::*;
use contract::{
    ConversationId, Deadline, MessageId, UserId,
    chat::{
        CreateConversation, Data, DeletedBy, JoinRequest, ListConversations, MineChanges, MutedUntil, Send,
    },
    log::Range,
};
use serde_json::value::RawValue;
use service::postgres;
use sqlx::PgPool;
use std::{cell::Cell, time::Duration};
use testkit::{Reads, reads_at_most};

/// Enough rows for the planner to prefer an index if one helps.
const SEED: &[&str] = &[
    "insert into users select u, 'name-' || u from generate_series(1, 30000) u",
    // User 1 is in twenty conversations, the others are in a few.
    "insert into conversations (people) select int8send(c) from generate_series(1, 50000) c",
    "insert into participants (conversation_id, user_id)
     select c, case when c <= 20 then 1 else c % 15000 + 2 end from generate_series(1, 40000) c
     union all select c, c % 13000 + 16000 from generate_series(1, 40000) c",
    // A shop in many conversations.
    "insert into participants (conversation_id, user_id)
     select 40000 + c, user_id from generate_series(1, 10000) c cross join lateral (values (29999), (1000 + c)) p (user_id)",
    // One long conversation, and many short ones.
    "insert into messages select c, nextval('message_ids'), n, 1, 'name-1', 'hello', 'key-' || n, now()
     from (select 1 as c, generate_series(1, 5000) as n union all select generate_series(2, 15001), 1) m",
    "update conversations c set last_seq = m.seq, last_message_id = m.id, activity = m.id
     from (select conversation_id, max(seq) as seq, max(message_id) as id from messages group by 1) m
     where m.conversation_id = c.conversation_id",
    "update participants set muted_until = 'infinity', archived_seq = 0 where conversation_id % 10 = 3",
    // Many changed messages elsewhere.
    "update messages set change = seq where conversation_id > 10",
    "insert into versions select conversation_id, message_id, change, 'old', null, now() from messages where change > 0",
    "insert into blocks select u, u + b from generate_series(1, 2000) u, generate_series(1, 10) b",
    "vacuum analyze users",
    "vacuum analyze conversations",
    "vacuum analyze participants",
    "vacuum analyze blocks",
    "vacuum analyze messages",
    "vacuum analyze versions",
];

/// Arguments of the queries.
struct Sample {
    /// The longest conversation.
    longest: ConversationId,
    /// Two of its participants.
    one: UserId,
    other: UserId,
    /// Messages from the middle of the longest conversation.
    some: Vec<i64>,
    /// Several conversations.
    ids: Vec<i64>,
    /// Conversations, each with a participant.
    senders: Vec<(i64, i64)>,
}

async fn sample(pool: &PgPool) -> sqlx::Result<Sample> {
    let longest: i64 = sqlx::query_scalar(
        "select conversation_id from conversations order by last_seq desc, conversation_id limit 1",
    )
    .fetch_one(pool)
    .await?;
    let list = async |query: &'static str| -> sqlx::Result<Vec<i64>> {
        sqlx::query_scalar(query).bind(longest).fetch_all(pool).await
    };
    let people =
        list("select user_id from participants where conversation_id = $1 order by user_id limit 2").await?;
    let all = list("select message_id from messages where conversation_id = $1 order by message_id").await?;
    let ids =
        list("select conversation_id from conversations where conversation_id >= $1 order by 1 limit 50")
            .await?;
    let senders = sqlx::query_as(
        "select conversation_id, min(user_id) from participants where conversation_id >= $1 group by 1 order by 1 limit 100",
    );
    Ok(Sample {
        longest: id(longest)?,
        one: id(people[0])?,
        other: id(people[1])?,
        some: all[all.len() / 2..].iter().take(50).copied().collect(),
        ids,
        senders: senders.bind(longest).fetch_all(pool).await?,
    })
}

fn with_deadline(sends: &[Send], deadline: Deadline) -> Vec<(&Send, Deadline)> {
    sends.iter().map(|send| (send, deadline)).collect()
}

#[tokio::test]
async fn no_query_reads_more_rows_if_more_is_stored() {
    let reads = Reads::of("chat", &crate::MIGRATIONS, &[], SEED).await.unwrap();
    let pool = reads.pool();
    let Sample { longest, one, other, some, ids, senders } = sample(pool).await.unwrap();
    let middle = some[0];

    reads_at_most!(reads, 20, members(pool, longest, Some(one)));
    let entry = |id: &i64| JoinRequest {
        conversation_id: ConversationId::new(*id).unwrap(),
        user_id: one,
        username: None,
        named_at: None,
        with_people: false,
    };
    let entries: Vec<JoinRequest> = ids.iter().map(entry).collect();
    for (name, value) in postgres::PLANS {
        sqlx::query("select set_config($1, $2, false)").bind(name).bind(value).execute(pool).await.unwrap();
    }
    reads_at_most!(reads, 400, members_of_each(pool, &entries.iter().collect::<Vec<_>>()));
    sqlx::query("reset all").execute(pool).await.unwrap();
    for range in [Range::Newest, Range::Before(middle), Range::After(middle)] {
        reads_at_most!(reads, 60, page(pool, longest, range, 51));
    }
    reads_at_most!(reads, 60, between(pool, longest, middle, MessageId::new(i64::MAX).unwrap(), 51));
    reads_at_most!(reads, 60, between(pool, longest, 0, MessageId::new(middle).unwrap(), 51));
    for range in [Range::Newest, Range::Before(longest.get()), Range::After(longest.get())] {
        for (archived, pinned) in [(false, false), (true, false), (false, true)] {
            let request = ListConversations { user_id: one, range, limit: 50, archived, pinned };
            reads_at_most!(reads, 60, list(pool, &request, 50));
        }
        reads_at_most!(reads, 60, blocks(pool, one, range, 50));
    }
    reads_at_most!(reads, 110, messages(pool, &vec![longest.get(); some.len()], &some));
    let keys: Vec<SentKey> = (1..=50).map(|n| (longest.get(), 1, format!("key-{n}"))).collect();
    reads_at_most!(reads, 50 * 3, sent(pool, &keys.iter().collect::<Vec<_>>()));
    reads_at_most!(reads, 200, participants(pool, &ids));
    reads_at_most!(reads, 200, heads(pool, &ids));
    reads_at_most!(reads, 400, conversations(&pool.clone().into(), &ids, one));
    reads_at_most!(reads, 60, unread(pool, one));
    reads_at_most!(reads, 200, conversations_of_two(pool, one, other));
    for pinned in [true, false] {
        let changes = MineChanges {
            muted_until: Some(pinned.then_some(MutedUntil::Forever)),
            archived: Some(pinned),
            pinned: Some(pinned),
        };
        reads_at_most!(reads, 20, set_mine(pool, longest, one, changes));
        reads_at_most!(reads, 20, mine_of(pool, longest, one));
    }
    reads_at_most!(reads, 4, mute(pool, longest, one));
    reads_at_most!(reads, 20, clear_mine(pool, longest, one));
    reads_at_most!(reads, 20, people(pool, one, &[other.get()]));
    reads_at_most!(reads, 40, blocked_pairs(pool, &[(one, other), (other, one)]));
    reads_at_most!(reads, 60, sharing(pool, one, &[other.get(), 29_999]));
    let (shop, buyers): (_, Vec<i64>) = (UserId::new(29_999).unwrap(), (5_000..5_100).collect());
    reads_at_most!(reads, 1_001 + 10 * 100, sharing(pool, shop, &buyers));
    reads_at_most!(reads, 20, block(pool, one, other));
    reads_at_most!(reads, 20, unblock(pool, one, other));
    reads_at_most!(
        reads,
        20,
        save_usernames(
            pool,
            &[DisplayName { user_id: one, username: &fastrand::u64(..).to_string(), named_at: 0 }]
        )
    );
    reads_at_most!(reads, 20, reports::report(pool, one, other, None, "spam"));
    // One range of the table's pages, regardless of the table's size.
    reads_at_most!(reads, 20_000, reports::message_seen_by(pool, MessageId::new(middle).unwrap(), one));
    let read = Cell::new(0);
    let next = || MessageId::new(some[read.replace(read.get() + 1)]).unwrap();
    reads_at_most!(reads, 20, mark_read(pool, longest, one, next()));
    reads_at_most!(reads, 4, moved_marker(pool, longest, one, None));
    reads_at_most!(reads, 60, changes(pool, longest, 0, 51));
    reads_at_most!(reads, 60, versions(pool, longest, &some, 0, 1 << 18));
    reads_at_most!(reads, 60, delete_old_versions(pool, 50));
    let kind = Cell::new(Kind::Edit("new"));
    let change = || Change {
        conversation_id: longest,
        message_id: next(),
        user: Some((one, 3_600)),
        kind: kind.get(),
        if_change: None,
    };
    reads_at_most!(reads, 20, async { change_message(pool, &change(), 90, &[]).await });
    kind.set(Kind::Delete(DeletedBy::Sender, None));
    reads_at_most!(reads, 40, async { change_message(pool, &change(), 90, &[]).await });
    reads_at_most!(reads, 20 * 10, async {
        erasures::erase_messages(&mut *pool.acquire().await?, longest, one, middle, 10).await
    });
    reads_at_most!(reads, 20, erasures::messages_of(pool, longest, one, middle, 10));
    reads_at_most!(reads, 20, export::conversation_after(pool, one, longest.get()));
    reads_at_most!(reads, 60, export::messages(pool, longest, one, middle, 50));
    reads_at_most!(reads, 60, export::blocks(pool, one, 0, 50));
    reads_at_most!(reads, 60, export::reports(pool, one, 0, 50));
    let before = OffsetDateTime::now_utc();
    reads_at_most!(reads, 4 * 50 + 20, conversations_with_old_messages(pool, 0, before, 50));
    reads_at_most!(reads, 6 * 20, expire_messages(pool, longest, before, 20));
    reads_at_most!(reads, 60, delete_old_reports(pool, 365, 50));
    let request = CreateConversation { participants: Vec::new(), listing_id: Some(7), title: None };
    let people = [one.get(), other.get()];
    reads_at_most!(
        reads,
        20,
        open_conversation(&pool.clone().into(), &people, &[None, None], &request, true)
    );
    reads_at_most!(reads, 10, opened(&pool.clone().into(), longest));
    let reply_to = Cell::new(None);
    let batch = |key: u64| -> Vec<Send> {
        let send = |(conversation, sender): &(i64, i64)| Send {
            conversation_id: ConversationId::new(*conversation).unwrap(),
            sender_id: UserId::new(*sender).unwrap(),
            sender_username: None,
            sender_named_at: None,
            message: "hello".to_owned(),
            client_id: Some(format!("{key}-{conversation}")),
            kind: Some("offer".to_owned()),
            data: Data::new(RawValue::from_string("{}".to_owned()).unwrap()).into(),
            reply_to: reply_to.get(),
            system: false,
        };
        senders.iter().map(send).collect()
    };
    // Replies to a message of the longest conversation, which is in few of these conversations.
    for (size, original) in [(1, None), (100, None), (1, Some(middle)), (100, Some(middle))] {
        reply_to.set(original.map(|id| MessageId::new(id).unwrap()));
        // Covers new messages and repeated ones, which read a few rows more.
        let rows = 30 * i64::try_from(size).unwrap();
        let new = || batch(fastrand::u64(1..));
        let deadline = Deadline::after(Duration::from_secs(3_600));
        for wait in [false, true] {
            reads_at_most!(reads, rows, async {
                store_messages(pool, &with_deadline(&new()[..size], deadline), wait).await
            });
            let again = batch(0);
            let again = with_deadline(&again[..size], deadline);
            reads_at_most!(reads, rows, store_messages(pool, &again, wait));
        }
    }
}

#[tokio::test]
async fn jit_compilation_is_off() {
    let database = testkit::TestDatabase::create().await.unwrap();
    let config = service::config::Database {
        database_url: database.url(),
        database_direct_url: None,
        database_connections: 2,
    };
    let opened = postgres::open("chat", &crate::MIGRATIONS, &[], &config, &Default::default()).await;
    let jit: String = sqlx::query_scalar("show jit").fetch_one(&opened.unwrap().unwrap()).await.unwrap();
    assert_eq!(jit, "off");
}
