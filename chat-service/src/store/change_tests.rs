//! Laws of changes, tested on a real Postgres.

use super::{
    tests::{Database, conversation, database, in_time, send, user},
    *,
};
use contract::{
    ConversationId,
    chat::{DeletedBy, Message, Send},
    log::Range,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service::postgres::Pool;
use std::time::Duration;

/// Longer than any test.
const SECONDS: u32 = 3_600;
const DAYS: u32 = 90;

#[derive(Debug, Clone)]
enum Step {
    /// A user sends a message.
    Send(i64),
    /// The user, or a backend, gives the nth message one of a few texts.
    Edit(Option<i64>, usize, u8),
    /// The user, or a backend, deletes the nth message.
    Delete(Option<i64>, usize),
    /// A user reads up to the nth message.
    Read(i64, usize),
    /// The user's messages are erased; each step looks at two.
    Erase(i64),
    /// Retention deletes everything up to the nth message, up to two at a time.
    Expire(usize),
}

fn steps() -> impl Strategy<Value = Vec<(Step, Step)>> {
    let who = || prop_oneof![2 => (1_i64..=3).prop_map(Some), 1 => Just(None)];
    let step = || {
        prop_oneof![
            4 => (1_i64..=3).prop_map(Step::Send),
            3 => (who(), 0_usize..10, 0_u8..3).prop_map(|(who, nth, text)| Step::Edit(who, nth, text)),
            3 => (who(), 0_usize..10).prop_map(|(who, nth)| Step::Delete(who, nth)),
            2 => (1_i64..=3, 0_usize..10).prop_map(|(reader, nth)| Step::Read(reader, nth)),
            1 => (1_i64..=3).prop_map(Step::Erase),
            1 => (0_usize..5).prop_map(Step::Expire),
        ]
    };
    proptest::collection::vec((step(), step()), 1..25)
}

async fn log(pool: &Pool, conversation: ConversationId) -> Vec<Message> {
    page(pool, conversation, Range::After(0), 1_000).await.unwrap()
}

async fn change(pool: &Pool, message: &Message, user_id: Option<i64>, kind: Kind<'_>) -> Changed {
    let user = user_id.map(|id| (user(id), SECONDS));
    let (conversation_id, message_id) = (message.conversation_id, message.message_id);
    change_message(pool, &Change { conversation_id, message_id, user, kind, if_change: None }, DAYS, &[])
        .await
        .unwrap()
}

async fn perform(pool: &Pool, conversation: ConversationId, step: &Step) {
    let nth = async |nth: usize| log(pool, conversation).await.get(nth).cloned();
    match *step {
        Step::Send(sender) => {
            let send = Send { ..send(conversation, sender, &fastrand::u64(..).to_string()) };
            store_messages(pool, &in_time(&[send]), true).await.unwrap();
        }
        Step::Edit(who, at, text) => {
            let Some(message) = nth(at).await else { return };
            let outcome = change(pool, &message, who, Kind::Edit(&format!("text {text}"))).await;
            if who.is_some_and(|who| who != message.sender_id.get()) {
                assert!(matches!(outcome, Changed::NotOwn | Changed::NotFound), "{outcome:?}");
            }
        }
        Step::Delete(who, at) => {
            let Some(message) = nth(at).await else { return };
            let by = if who.is_some() { DeletedBy::Sender } else { DeletedBy::Moderation };
            let outcome = change(pool, &message, who, Kind::Delete(by, None)).await;
            if who.is_some_and(|who| who != message.sender_id.get()) {
                assert!(matches!(outcome, Changed::NotOwn | Changed::NotFound), "{outcome:?}");
            } else {
                // C9: a second deletion makes no change.
                let again = change(pool, &message, who, Kind::Delete(by, None)).await;
                assert!(matches!(again, Changed::Unchanged | Changed::NotFound), "{again:?}");
            }
        }
        Step::Read(reader, at) => {
            let Some(message) = nth(at).await else { return };
            mark_read(pool, conversation, user(reader), message.message_id).await.unwrap();
        }
        Step::Erase(who) => {
            let mut connection = pool.acquire().await.unwrap();
            let mut after = 0;
            loop {
                let erased =
                    erasures::erase_messages(&mut connection, conversation, user(who), after, 2).await;
                let erased = erased.unwrap();
                assert!(erased.message_ids.len() <= 2);
                assert_eq!(erased.message_ids.len(), erased.outbox_ids.len());
                let Some(upto) = erased.upto else { break };
                after = upto;
            }
        }
        Step::Expire(at) => {
            let Some(message) = nth(at).await else { return };
            let before = OffsetDateTime::from(message.created_at) + Duration::from_micros(1);
            while expire_messages(pool, conversation, before, 2).await.unwrap().is_some() {}
        }
    }
}

async fn check(pool: &Pool, conversation: ConversationId, are_versions_kept: bool) {
    let log = log(pool, conversation).await;
    let members = members(pool, conversation, None).await.unwrap();
    // C1, G2: `seq` has no gap, and the formula of unread counts stays.
    let seqs: Vec<i64> = log.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (members.first_seq()..=members.head().seq).collect::<Vec<_>>());
    // Changes are numbered without a gap, and a message has the number of its last one.
    let ids: Vec<i64> = log.iter().map(|message| message.message_id.get()).collect();
    let versions = versions(pool, conversation, &ids, 0, usize::MAX).await.unwrap();
    if are_versions_kept {
        let mut numbers: Vec<i64> = versions.values().flatten().map(|version| version.change).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=members.changes()).collect::<Vec<_>>());
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from versions where conversation_id = $1")
        .bind(conversation.get())
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(usize::try_from(rows).unwrap(), versions.values().map(Vec::len).sum::<usize>());
    for message in &log {
        let last = versions.get(&message.message_id).and_then(|versions| versions.last());
        if are_versions_kept {
            assert_eq!(message.change, last.map(|version| version.change));
        }
        assert!(message.change.is_none_or(|change| change <= members.changes()));
        if message.deleted_by == Some(DeletedBy::Erasure) {
            assert_eq!(
                (last, message.sender_username.as_str()),
                (None, &*format!("user-{}", message.sender_id))
            );
        }
        // C7: a deleted text is on no page.
        assert_eq!(message.content.is_empty(), message.deleted_at.is_some());
        assert_eq!(message.deleted_by.is_some(), message.deleted_at.is_some());
    }
    // The page of changes has each changed message once, in the order of its last change.
    let mut expected: Vec<&Message> = log.iter().filter(|message| message.change.is_some()).collect();
    expected.sort_by_key(|message| message.change);
    assert_eq!(changes(pool, conversation, 0, 1_000).await.unwrap().iter().collect::<Vec<_>>(), expected);
    // C6: no marker is directly before a deleted message.
    let markers: Vec<i64> = postgres_markers(pool, conversation).await;
    for marker in markers {
        assert!(marker >= members.first_seq() - 1, "marker {marker}");
        let next = log.iter().find(|message| message.seq == marker + 1);
        assert!(next.is_none_or(|next| next.deleted_at.is_none()), "marker {marker} of {log:#?}");
    }
}

async fn postgres_markers(pool: &Pool, conversation: ConversationId) -> Vec<i64> {
    let markers = sqlx::query_scalar("select read_seq from participants where conversation_id = $1");
    markers.bind(conversation.get()).fetch_all(pool).await.unwrap()
}

#[test]
fn changes_are_numbered_and_deletions_count_as_read() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(database());
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(async {
                let pool = &database.pool;
                let conversation = conversation(pool, &[1, 2, 3]).await;
                for (one, other) in &steps {
                    // Concurrently, over two connections.
                    tokio::join!(perform(pool, conversation, one), perform(pool, conversation, other));
                }
                let deletes_versions = |step: &Step| matches!(step, Step::Erase(_) | Step::Expire(_));
                let kept = !steps.iter().any(|(one, other)| deletes_versions(one) || deletes_versions(other));
                check(pool, conversation, kept).await;

                // G1: nothing of an erased user is left.
                perform(pool, conversation, &Step::Erase(1)).await;
                check(pool, conversation, false).await;
                let erased = log(pool, conversation).await;
                let mut erased = erased.iter().filter(|message| message.sender_id == user(1));
                assert!(
                    erased.all(|message| message.content.is_empty() && message.sender_username == "user-1")
                );
                let everything = log(pool, conversation).await.len();
                if everything > 0 {
                    perform(pool, conversation, &Step::Expire(everything - 1)).await;
                    check(pool, conversation, false).await;
                    assert_eq!(log(pool, conversation).await, []);
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async move { drop(database) });
}

async fn one_message() -> (Database, Message) {
    let database = database().await;
    let conversation = conversation(&database.pool, &[1, 2]).await;
    store_messages(&database.pool, &in_time(&[send(conversation, 1, "a")]), true).await.unwrap();
    let message = log(&database.pool, conversation).await.remove(0);
    (database, message)
}

#[tokio::test]
async fn a_change_that_is_refused_changes_nothing() {
    let (database, message) = one_message().await;
    let pool = &database.pool;
    let make = async |user_id: Option<(i64, u32)>, kind, if_change| {
        let user = user_id.map(|(id, seconds)| (user(id), seconds));
        let (conversation_id, message_id) = (message.conversation_id, message.message_id);
        let change = Change { conversation_id, message_id, user, kind, if_change };
        change_message(pool, &change, DAYS, &[]).await.unwrap()
    };
    let (edit, delete) = (Kind::Edit("new"), Kind::Delete(DeletedBy::Sender, None));
    for kind in [edit, delete] {
        assert_eq!(make(Some((2, SECONDS)), kind, None).await, Changed::NotOwn);
        assert_eq!(make(Some((3, SECONDS)), kind, None).await, Changed::Forbidden);
        assert_eq!(make(Some((1, 0)), kind, None).await, Changed::TooLate);
        assert_eq!(make(None, kind, Some(7)).await, Changed::Conflict);
    }
    block(pool, user(2), user(1)).await.unwrap();
    assert_eq!(make(Some((1, SECONDS)), edit, None).await, Changed::Blocked);
    assert_eq!(log(pool, message.conversation_id).await, std::slice::from_ref(&message));
    assert_eq!(members(pool, message.conversation_id, None).await.unwrap().changes(), 0);

    // A blocked sender may delete. Then there is nothing to edit, and the repeat of a deletion is never too late.
    let Changed::Made { moved, .. } = make(Some((1, SECONDS)), delete, Some(0)).await else {
        panic!("deleted")
    };
    assert_eq!(moved, [user(2)], "user 1 had read it by sending it");
    assert_eq!(make(Some((1, 0)), delete, None).await, Changed::Unchanged);
    assert_eq!(make(None, edit, None).await, Changed::NotFound);
}

#[tokio::test]
async fn rows_behind_many_refused_changes_are_found_at_once() {
    let database = database().await;
    let query = "insert into outbox (conversation_ids, message_ids, change)
        select array[1], array[number], case when number < 10000 then number end
        from generate_series(1, 10001) as number";
    service::postgres::query(query).execute(&database.pool).await.unwrap();
    let mut connection = database.pool.acquire().await.unwrap();
    for (skips_changes, expected) in [(false, [1, 2]), (true, [10_000, 10_001])] {
        let rows = lock_stale(&mut connection, 0, -1.0, 2, skips_changes).await.unwrap();
        let messages: Vec<i64> = rows.into_iter().flat_map(|row| row.messages).collect();
        assert_eq!(messages, expected);
    }
}

#[tokio::test]
async fn a_message_is_edited_fifty_times_and_deleted() {
    let (database, message) = one_message().await;
    for number in 1..=50 {
        let text = format!("text {number}");
        let changed = change(&database.pool, &message, Some(1), Kind::Edit(&text)).await;
        assert!(matches!(changed, Changed::Made { .. }), "{number}: {changed:?}");
    }
    assert_eq!(change(&database.pool, &message, None, Kind::Edit("more")).await, Changed::TooMany);
    let deleted = change(&database.pool, &message, Some(1), Kind::Delete(DeletedBy::Sender, None)).await;
    assert!(matches!(deleted, Changed::Made { .. }), "{deleted:?}");
}
