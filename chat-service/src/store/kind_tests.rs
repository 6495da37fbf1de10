//! Laws of kinds, replies and system messages, tested on a real Postgres.

use super::{
    tests::{Database, conversation, database, in_time, send, user},
    *,
};
use contract::{
    ConversationId, MessageId,
    chat::{Data, DeletedBy, Message, Send},
    log::Range,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::value::RawValue;
use service::postgres::Pool;

/// The sender of system messages.
const SYSTEM: i64 = 9;
const SECONDS: u32 = 3_600;

#[derive(Debug, Clone)]
enum Step {
    /// A user, or the marketplace, sends a message with this state, or a plain one, to one of two conversations. It
    /// replies to the nth message of one of them.
    Send(Option<i64>, usize, Option<u8>, Option<(usize, usize)>),
    /// A backend gives the nth message of a conversation another state, if the message never changed or always.
    Update(usize, usize, u8, bool),
    /// The sender edits, or deletes, the nth message.
    Change(usize, usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<(Step, Step)>> {
    let sender = || prop_oneof![3 => (1_i64..=2).prop_map(Some), 1 => Just(None)];
    let original = || proptest::option::of((0_usize..2, 0_usize..6));
    let step = || {
        prop_oneof![
            4 => (sender(), 0_usize..2, proptest::option::of(0_u8..3), original())
                .prop_map(|(sender, to, state, original)| Step::Send(sender, to, state, original)),
            3 => (0_usize..2, 0_usize..6, 0_u8..3, any::<bool>())
                .prop_map(|(to, nth, state, once)| Step::Update(to, nth, state, once)),
            2 => (0_usize..2, 0_usize..6, any::<bool>()).prop_map(|(to, nth, edits)| Step::Change(to, nth, edits)),
        ]
    };
    proptest::collection::vec((step(), step()), 1..25)
}

fn data(state: u8) -> Data {
    Data::new(RawValue::from_string(format!("{{\"state\":{state}}}")).unwrap())
}

fn text(state: u8) -> String {
    format!("state {state}")
}

async fn log(pool: &Pool, conversation: ConversationId) -> Vec<Message> {
    page(pool, conversation, Range::After(0), 1_000).await.unwrap()
}

async fn change(
    pool: &Pool,
    message: &Message,
    by_sender: bool,
    kind: Kind<'_>,
    if_change: Option<i64>,
) -> Changed {
    let (conversation_id, message_id) = (message.conversation_id, message.message_id);
    let user = by_sender.then_some((message.sender_id, SECONDS));
    let change = Change { conversation_id, message_id, user, kind, if_change };
    change_message(pool, &change, 90, &["order".to_owned()]).await.unwrap()
}

async fn perform(pool: &Pool, conversations: &[ConversationId; 2], step: &Step) {
    let nth = async |conversation: usize, nth: usize| {
        log(pool, conversations[conversation]).await.get(nth).cloned()
    };
    match *step {
        Step::Send(sender, to, state, original) => {
            let reply_to = match original {
                Some((conversation, at)) => nth(conversation, at).await.map(|message| message.message_id),
                None => None,
            };
            let plain = send(conversations[to], sender.unwrap_or(SYSTEM), &fastrand::u64(..).to_string());
            let kind = state.map(|_| if sender.is_some() { "offer" } else { "order" }.to_owned());
            let message = state.map_or_else(|| plain.message.clone(), text);
            let system = sender.is_none();
            let sends = [Send { kind, data: state.map(data), message, reply_to, system, ..plain }];
            let stored = store_messages(pool, &in_time(&sends), true).await.unwrap().outcomes.remove(0);
            let is_elsewhere =
                reply_to.is_some() && original.is_some_and(|(conversation, _)| conversation != to);
            match stored {
                Outcome::Stored(message, _) => {
                    assert!(!is_elsewhere, "S6: {message:?}");
                    assert_eq!(
                        log(pool, conversations[to])
                            .await
                            .iter()
                            .filter(|m| m.message_id == message.message_id)
                            .count(),
                        1
                    );
                }
                Outcome::NoOriginal => assert!(is_elsewhere),
                other => panic!("{other:?}"),
            }
        }
        Step::Update(to, at, state, once) => {
            let Some(message) = nth(to, at).await.filter(|message| message.kind.is_some()) else { return };
            let if_change = once.then_some(0);
            change(pool, &message, false, Kind::Data(&data(state), Some(&text(state))), if_change).await;
        }
        Step::Change(to, at, edits) => {
            let Some(message) = nth(to, at).await.filter(|message| !message.system) else { return };
            let kind = if edits { Kind::Edit("edited") } else { Kind::Delete(DeletedBy::Sender, None) };
            let outcome = change(pool, &message, true, kind, None).await;
            if edits && message.kind.is_some() {
                assert!(matches!(outcome, Changed::Reserved | Changed::NotFound), "S5: {outcome:?}");
            }
        }
    }
}

async fn check(pool: &Pool, conversation: ConversationId) {
    let log = log(pool, conversation).await;
    let ids: Vec<i64> = log.iter().map(|message| message.message_id.get()).collect();
    let versions = versions(pool, conversation, &ids, 0, usize::MAX).await.unwrap();
    for message in &log {
        // S6: a reply stays in its conversation.
        assert!(message.reply_to.is_none_or(|id| ids.contains(&id.get())), "{message:?}");
        assert_eq!(message.system, message.sender_id == user(SYSTEM));
        // S2: text and data belong together, now and before.
        let state =
            |data: &Data| data.get().trim_matches(|char: char| !char.is_ascii_digit()).parse().unwrap();
        match (&message.kind, &message.data) {
            (None, data) => assert_eq!(*data, None),
            (Some(_), None) => assert!(message.deleted_at.is_some() && message.content.is_empty()),
            (Some(_), Some(data)) => assert_eq!(message.content, text(state(data))),
        }
        for version in versions.get(&message.message_id).into_iter().flatten() {
            assert_eq!(version.data.is_some(), message.kind.is_some());
            assert!(version.data.as_ref().is_none_or(|data| version.content == text(state(data))));
        }
    }
    // S8: every message counts as unread, and only a user's own one moves a marker.
    let head = members(pool, conversation, None).await.unwrap().head().seq;
    for reader in 1..=2 {
        let listed = conversations(pool, &[conversation.get()], user(reader)).await.unwrap();
        let own = log.iter().rev().find(|message| message.sender_id == user(reader)).map_or(0, |own| own.seq);
        let deleted =
            log.iter().skip(usize::try_from(own).unwrap()).take_while(|next| next.deleted_at.is_some());
        let read = own + i64::try_from(deleted.count()).unwrap();
        assert_eq!(listed[0].unread_count, head - read, "{log:#?}");
    }
}

#[test]
fn text_and_data_agree_replies_stay_and_system_messages_move_no_marker() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(database());
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(async {
                let pool = &database.pool;
                let talks = [conversation(pool, &[1, 2]).await, conversation(pool, &[1, 2]).await];
                for (one, other) in &steps {
                    // Concurrently, over two connections.
                    tokio::join!(perform(pool, &talks, one), perform(pool, &talks, other));
                }
                for talk in talks {
                    check(pool, talk).await;
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async move { drop(database) });
}

async fn of_kind(kind: &str) -> (Database, Message) {
    let database = database().await;
    let conversation = conversation(&database.pool, &[1, 2]).await;
    let sends = [Send { kind: Some(kind.to_owned()), data: Some(data(0)), ..send(conversation, 1, "a") }];
    store_messages(&database.pool, &in_time(&sends), true).await.unwrap();
    let message = log(&database.pool, conversation).await.remove(0);
    (database, message)
}

#[tokio::test]
async fn users_delete_no_message_of_a_reserved_kind() {
    let delete = Kind::Delete(DeletedBy::Sender, None);
    let (database, order) = of_kind("order").await;
    assert_eq!(change(&database.pool, &order, true, delete, None).await, Changed::Reserved);
    let (database, offer) = of_kind("offer").await;
    assert!(matches!(change(&database.pool, &offer, true, delete, None).await, Changed::Made { .. }));
}

#[tokio::test]
async fn a_change_of_the_previous_release_also_removes_the_data() {
    let (database, offer) = of_kind("offer").await;
    let deleted: String = sqlx::query_scalar(
        "select outcome from change_message($1, $2, 1, null, 'sender', null, null, 60, 50, 90)",
    )
    .bind(offer.conversation_id.get())
    .bind(offer.message_id.get())
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(deleted, "changed");
    let message = log(&database.pool, offer.conversation_id).await.remove(0);
    assert_eq!((message.data, message.content.as_str()), (None, ""));
    let changed = Change {
        conversation_id: offer.conversation_id,
        message_id: MessageId::new(offer.message_id.get()).unwrap(),
        user: None,
        kind: Kind::Data(&data(1), None),
        if_change: None,
    };
    assert_eq!(change_message(&database.pool, &changed, 90, &[]).await.unwrap(), Changed::NotFound);
}
