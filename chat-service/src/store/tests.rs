//! Invariants of the log, tested on a real Postgres.

use super::*;
use contract::{
    ConversationId, Deadline, Timestamp, UserId,
    chat::{CreateConversation, JoinRequest, ListConversations, Send},
    log::Range,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service::postgres::Pool;
use sqlx::{ConnectOptions, PgExecutor, postgres::PgConnectOptions, postgres::PgPoolOptions};
use std::{str::FromStr, time::Duration};
use testkit::TestDatabase;

pub struct Database {
    pub pool: Pool,
    _database: TestDatabase,
}

pub async fn database() -> Database {
    let database = TestDatabase::create().await.unwrap();
    let options = PgConnectOptions::from_str(&database.url()).unwrap().options([("search_path", "chat")]);
    let mut connection = options.connect().await.unwrap();
    sqlx::query("create schema chat").execute(&mut connection).await.unwrap();
    crate::MIGRATIONS.run(&mut connection).await.unwrap();
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    Database { pool: pool.into(), _database: database }
}

pub async fn conversation(pool: &Pool, users: &[i64]) -> ConversationId {
    let listing_id = Some(fastrand::i64(1..));
    let request = CreateConversation { participants: Vec::new(), listing_id, title: None };
    open_conversation(pool, users, &vec![None; users.len()], &request, false).await.unwrap().conversation_id
}

pub fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

pub fn send(conversation_id: ConversationId, sender: i64, key: &str) -> Send {
    Send {
        conversation_id,
        sender_id: user(sender),
        sender_username: None,
        sender_named_at: None,
        message: format!("{key} of {sender}"),
        client_id: Some(key.to_owned()),
        kind: None,
        data: None,
        reply_to: None,
        system: false,
    }
}

/// The sends, each with a deadline that doesn't pass.
pub fn in_time(sends: &[Send]) -> Vec<(&Send, Deadline)> {
    sends.iter().map(|send| (send, Deadline::after(Duration::from_secs(3_600)))).collect()
}

/// One message of a batch: index of the conversation, sender (4 is not a participant), key.
type Line = (usize, i64, u8);

#[derive(Debug, Clone)]
enum Step {
    /// Two concurrent batches, over two connections.
    Store(Vec<Line>, Vec<Line>),
    /// A batch that is rolled back.
    RollBack(Vec<Line>),
    /// A user reads up to the nth message of a conversation, if it exists.
    Read(usize, i64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lines = || proptest::collection::vec((0_usize..3, 1_i64..=4, 0_u8..12), 0..8);
    let step = prop_oneof![
        4 => (lines(), lines()).prop_map(|(one, other)| Step::Store(one, other)),
        1 => lines().prop_map(Step::RollBack),
        2 => (0_usize..3, 1_i64..=3, 0_usize..20)
            .prop_map(|(conversation, user, nth)| Step::Read(conversation, user, nth)),
    ];
    proptest::collection::vec(step, 1..12)
}

async fn store(
    db: impl PgExecutor<'_>,
    conversation_ids: &[ConversationId; 3],
    lines: &[Line],
) -> Vec<(Line, Outcome)> {
    let sends: Vec<Send> = lines
        .iter()
        .map(|(conversation_id, sender, key)| {
            send(conversation_ids[*conversation_id], *sender, &key.to_string())
        })
        .collect();
    if sends.is_empty() {
        return Vec::new();
    }
    let batch = store_messages(db, &in_time(&sends), true).await.unwrap();
    assert_eq!(
        batch.outbox_id.is_some(),
        batch.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Stored(..)))
    );
    lines.iter().copied().zip(batch.outcomes).collect()
}

async fn check(pool: &Pool, conversation_id: ConversationId) {
    let log = page(pool, conversation_id, Range::After(0), 1_000).await.unwrap();
    let seqs: Vec<i64> = log.iter().map(|message| message.seq).collect();
    assert_eq!(
        seqs,
        (1..=i64::try_from(log.len()).unwrap()).collect::<Vec<_>>(),
        "seq has no gap and grows with message_id"
    );
    let mut keys: Vec<_> = log.iter().map(|message| (message.sender_id, message.client_id.clone())).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), log.len(), "each key is stored once");
    let head = members(pool, conversation_id, None).await.unwrap().head();
    assert_eq!(head.seq, seqs.last().copied().unwrap_or_default());
    for reader in 1..=3 {
        let seen = conversations(pool, &[conversation_id.get()], user(reader)).await.unwrap();
        let marker: i64 = sqlx::query_scalar(
            "select read_seq from participants where conversation_id = $1 and user_id = $2",
        )
        .bind(conversation_id.get())
        .bind(reader)
        .fetch_one(pool)
        .await
        .unwrap();
        assert_eq!(seen[0].unread_count, head.seq - marker, "messages after the marker are unread");
        let own = log.iter().rev().find(|message| message.sender_id == user(reader));
        assert!(marker >= own.map_or(0, |message| message.seq), "sending moves the sender's marker");
    }
}

async fn run(pool: &Pool, steps: Vec<Step>) {
    let people = [1, 2, 3];
    let conversation_ids = [
        conversation(pool, &people).await,
        conversation(pool, &people).await,
        conversation(pool, &people).await,
    ];
    for step in steps {
        match step {
            Step::Store(one, other) => {
                let (one, other) = tokio::join!(
                    store(pool, &conversation_ids, &one),
                    store(pool, &conversation_ids, &other)
                );
                for ((_, sender, _), outcome) in one.iter().chain(&other) {
                    assert_eq!(
                        matches!(outcome, Outcome::Forbidden),
                        *sender == 4,
                        "only participants may send"
                    );
                }
            }
            Step::RollBack(lines) => {
                let mut transaction = pool.begin().await.unwrap();
                store(&mut *transaction, &conversation_ids, &lines).await;
                transaction.rollback().await.unwrap();
            }
            Step::Read(conversation_id, reader, nth) => {
                let log =
                    page(pool, conversation_ids[conversation_id], Range::After(0), 1_000).await.unwrap();
                let Some(message) = log.get(nth) else { continue };
                let before = sqlx::query_scalar::<_, i64>(
                    "select read_seq from participants where conversation_id = $1 and user_id = $2",
                );
                let before = before
                    .bind(conversation_ids[conversation_id].get())
                    .bind(reader)
                    .fetch_one(pool)
                    .await
                    .unwrap();
                let marked =
                    mark_read(pool, conversation_ids[conversation_id], user(reader), message.message_id)
                        .await
                        .unwrap();
                let MarkOutcome::At(marker, outbox_id) = marked else {
                    panic!("the reader is a participant and the message exists")
                };
                assert_eq!(marker.seq, before.max(message.seq), "a marker only moves forward");
                assert_eq!(outbox_id.is_some(), message.seq > before, "only a move is published");
            }
        }
    }
    for conversation_id in conversation_ids {
        check(pool, conversation_id).await;
    }
}

#[test]
fn concurrent_writes_leave_no_gaps_and_no_repeats() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(database());
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(run(&database.pool, steps));
            Ok(())
        })
        .unwrap();
    runtime.block_on(async move { drop(database) });
}

#[tokio::test]
async fn a_marker_that_is_published_late_counts_what_was_unread_when_it_moved() {
    let database = database().await;
    let (pool, id) = (&database.pool, conversation(&database.pool, &[1, 2]).await);
    let say = async |key: &str| {
        let batch = store_messages(pool, &in_time(&[send(id, 1, key)]), true).await.unwrap();
        let Outcome::Stored(message, _) = &batch.outcomes[0] else { panic!("the message is stored") };
        message.message_id
    };
    let late = async |of| {
        let marker = moved_marker(pool, id, user(of), None).await.unwrap();
        marker.map(|marker| (marker.message_id, marker.seq, marker.unread_count, marker.by_sending))
    };
    assert_eq!(late(2).await, None, "nothing is read");
    let (_, second, third) = (say("a").await, say("b").await, say("c").await);
    mark_read(pool, id, user(2), second).await.unwrap();
    let fourth = say("d").await;
    assert_eq!(late(2).await, Some((second, 2, Some(1), false)), "the fourth message came afterwards");
    assert_eq!(late(1).await, Some((fourth, 4, Some(0), true)));
    mark_read(pool, id, user(2), third).await.unwrap();
    assert_eq!(late(2).await, Some((third, 3, Some(1), false)));
    assert_eq!(late(3).await, None, "not a participant");
    // A deletion moved it.
    let deleted_at = Some(Timestamp::now());
    say("e").await;
    let marker = moved_marker(pool, id, user(2), deleted_at).await.unwrap();
    assert_eq!(marker.unwrap().unread_count, Some(1), "the fifth message came afterwards");
}

#[tokio::test]
async fn concurrent_sends_with_the_same_key_store_one_message() {
    let database = database().await;
    let conversation_id = conversation(&database.pool, &[1, 2]).await;
    let tries = (0..16).map(|_| async {
        let same = [send(conversation_id, 1, "same"), send(conversation_id, 1, "same")];
        store_messages(&database.pool, &in_time(&same), true).await.unwrap()
    });
    let batches = futures_util::future::join_all(tries).await;
    let outcomes = batches.iter().flat_map(|batch| &batch.outcomes);
    assert_eq!(outcomes.filter(|outcome| matches!(outcome, Outcome::Stored(..))).count(), 1);
    assert_eq!(page(&database.pool, conversation_id, Range::Newest, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_first_message_of_a_conversation_in_a_batch_comes_with_its_participants() {
    let database = database().await;
    let conversation_id = conversation(&database.pool, &[1, 2, 3]).await;
    let sends = [send(conversation_id, 1, "a"), send(conversation_id, 2, "b")];
    let batch = store_messages(&database.pool, &in_time(&sends), false).await.unwrap();
    let participants = batch.outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Stored(_, participants) => participants,
        other => panic!("{other:?}"),
    });
    let participants = participants.collect::<Vec<_>>();
    let people = People { all: vec![user(1), user(2), user(3)], muted: Vec::new() };
    assert_eq!(participants, [Some(people), None]);
}

#[tokio::test]
async fn each_join_of_a_batch_gets_its_own_conversation() {
    let database = database().await;
    let (small, big) =
        (conversation(&database.pool, &[1, 2]).await, conversation(&database.pool, &[1, 2, 3]).await);
    let sends = [send(big, 2, "a"), send(big, 3, "b")];
    store_messages(&database.pool, &in_time(&sends), false).await.unwrap();
    block(&database.pool, user(2), user(1)).await.unwrap();
    let nowhere = ConversationId::new(1 << 40).unwrap();
    let mut entries = Vec::new();
    for conversation_id in [big, nowhere, small, big, small] {
        for id in 1..=4 {
            entries.push(JoinRequest {
                conversation_id,
                user_id: user(id),
                username: None,
                named_at: None,
                with_people: false,
            });
        }
    }
    let together = members_of_each(&database.pool, &entries.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(together.len(), entries.len());
    for (JoinRequest { conversation_id, user_id, .. }, together) in entries.iter().zip(together) {
        let alone = members(&database.pool, *conversation_id, Some(*user_id)).await.unwrap();
        let reply = |members: &Members| {
            let mut markers = members.markers(*conversation_id);
            markers.sort_by_key(|marker| marker.user_id);
            (members.head(), members.contains(*user_id), members.is_other_blocked(), markers)
        };
        assert_eq!(reply(&together), reply(&alone), "user {user_id} of conversation {conversation_id}");
        let is_in = user_id.get() < if *conversation_id == big { 4 } else { 3 };
        assert_eq!(together.contains(*user_id), is_in && *conversation_id != nowhere);
    }
}

#[tokio::test]
async fn the_newest_name_of_a_user_is_saved() {
    let database = database().await;
    let conversation_id = conversation(&database.pool, &[1, 2]).await;
    let names = async || {
        let members = members(&database.pool, conversation_id, None).await.unwrap();
        [1, 2].map(|id| members.newest_name(user(id), None, 0).map(str::to_owned))
    };
    let expected = |one: &str, two: &str| [Some(one.to_owned()), Some(two.to_owned())];
    let name = |id, username, named_at| DisplayName { user_id: user(id), username, named_at };
    // Of equally new names, the last is saved. Tokens without an issue time count as equally new.
    let equally_new = [name(2, "ben", 0), name(1, "ada", 0), name(2, "benno", 0)];
    save_usernames(&database.pool, &equally_new).await.unwrap();
    assert_eq!(names().await, expected("ada", "benno"));
    save_usernames(&database.pool, &[name(1, "Ann", 20), name(1, "Anna", 10)]).await.unwrap();
    assert_eq!(names().await, expected("Ann", "benno"));
    save_usernames(&database.pool, &[name(1, "Anna", 10)]).await.unwrap();
    assert_eq!(names().await, expected("Ann", "benno"));
    // The name in a send follows the same rule.
    for (key, name, named_at, shown) in [
        ("a", "Anne", 30, "Anne"),
        ("b", "Anna", 10, "Anne"),
        ("c", "Anne", 40, "Anne"),
        ("d", "Anna", 35, "Anne"),
    ] {
        let send = Send {
            sender_username: Some(name.to_owned()),
            sender_named_at: Some(named_at),
            ..send(conversation_id, 1, key)
        };
        let batch = store_messages(&database.pool, &in_time(&[send]), false).await.unwrap();
        let [Outcome::Stored(message, _)] = &batch.outcomes[..] else { panic!("{batch:?}") };
        assert_eq!(message.sender_username, shown, "{key}");
        assert_eq!(names().await, expected(shown, "benno"));
    }
}

#[tokio::test]
async fn a_locked_conversation_is_busy_and_others_are_stored() {
    let database = database().await;
    let (locked, free) =
        (conversation(&database.pool, &[1, 2]).await, conversation(&database.pool, &[1, 2]).await);
    let mut transaction = database.pool.begin().await.unwrap();
    sqlx::query("select from conversations where conversation_id = $1 for update")
        .bind(locked.get())
        .execute(&mut *transaction)
        .await
        .unwrap();
    let sends = [send(locked, 1, "a"), send(free, 1, "a"), send(locked, 3, "a")];
    let batch = store_messages(&database.pool, &in_time(&sends), false).await.unwrap();
    assert!(
        matches!(&batch.outcomes[..], [Outcome::Busy, Outcome::Stored(..), Outcome::Forbidden]),
        "{batch:?}"
    );
    transaction.rollback().await.unwrap();
    let batch = store_messages(&database.pool, &in_time(&sends), false).await.unwrap();
    assert!(
        matches!(&batch.outcomes[..], [Outcome::Stored(..), Outcome::Repeated(..), Outcome::Forbidden]),
        "{batch:?}"
    );
}

#[tokio::test]
async fn a_send_whose_deadline_has_passed_is_not_stored() {
    let database = database().await;
    let conversation_id = conversation(&database.pool, &[1, 2]).await;
    let (late, in_time) = (Deadline::after(Duration::ZERO), Deadline::after(Duration::from_secs(3_600)));
    let sends = [send(conversation_id, 1, "a"), send(conversation_id, 1, "b"), send(conversation_id, 2, "c")];
    let sends = [(&sends[0], late), (&sends[1], in_time), (&sends[2], late)];
    let batch = store_messages(&database.pool, &sends, false).await.unwrap();
    let [Outcome::Late, Outcome::Stored(stored, _), Outcome::Late] = &batch.outcomes[..] else {
        panic!("{batch:?}")
    };
    assert_eq!(stored.seq, 1);
    // A message that is already stored is returned as repeated, however late its send is.
    let batch = store_messages(&database.pool, &[(sends[1].0, late)], false).await.unwrap();
    assert!(matches!(&batch.outcomes[..], [Outcome::Repeated(_)]), "{batch:?}");
}

/// Reads a user's whole list in pages of two. After each page, one of the conversations moves.
async fn read_while_moving(pool: &Pool, reader: UserId, moves: &[ConversationId]) -> Vec<i64> {
    let (mut range, mut read) = (Range::Newest, Vec::new());
    for number in 0.. {
        let (archived, pinned) = (false, false);
        let request = ListConversations { user_id: reader, range, limit: 2, archived, pinned };
        let page = list(pool, &request, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        range = Range::Before(last.cursor());
        read.extend(page.iter().map(|listed| listed.id));
        if let Some(moved) = moves.get(number) {
            let sends = [send(*moved, reader.get(), &format!("{}-{number}", fastrand::u64(..)))];
            store_messages(pool, &in_time(&sends), true).await.unwrap();
        }
    }
    read
}

#[test]
fn pages_neither_repeat_nor_skip_conversations_that_did_not_move() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database());
    let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
    let moves = proptest::collection::vec(0_usize..9, 0..5);
    runner
        .run(&moves, |moves| {
            runtime.block_on(async {
                let reader = fastrand::i64(1_000..i64::MAX);
                let mut all = Vec::new();
                for _ in 0..9 {
                    all.push(conversation(&database.pool, &[1, reader]).await);
                }
                let moves: Vec<ConversationId> =
                    moves.iter().map(|conversation_id| all[*conversation_id]).collect();
                let read = read_while_moving(&database.pool, user(reader), &moves).await;
                let mut unmoved: Vec<i64> =
                    all.iter().filter(|id| !moves.contains(id)).map(|id| id.get()).collect();
                unmoved.reverse();
                let seen: Vec<i64> = read.iter().copied().filter(|id| unmoved.contains(id)).collect();
                prop_assert_eq!(seen, unmoved);
                let mut once = read.clone();
                once.sort_unstable();
                once.dedup();
                prop_assert_eq!(once.len(), read.len(), "{:?}", read);
                Ok(())
            })
        })
        .unwrap();
    runtime.block_on(async move { drop(database) });
}

#[tokio::test]
async fn an_idle_in_transaction_timeout_is_a_passing_error() {
    let database = database().await;
    let mut transaction = database.pool.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *transaction).await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = '10ms'")
        .execute(&mut *transaction)
        .await
        .unwrap();
    while sqlx::query_scalar("select exists (select from pg_stat_activity where pid = $1)")
        .bind(pid)
        .fetch_one(&database.pool)
        .await
        .unwrap()
    {}
    let error = sqlx::query("select 1").execute(&mut *transaction).await.unwrap_err();
    assert!(service::postgres::is_transient_error(&error), "{error:?}");
}
