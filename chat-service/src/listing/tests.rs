//! Paging of messages and former texts, on a real Postgres.

use super::*;
use crate::store::{
    Change, Changed, Kind,
    tests::{conversation, database, in_time, send, user},
};
use contract::{
    ConversationId, MessageId,
    chat::{Data, DeletedBy, Send, Version},
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use serde_json::value::RawValue;

/// A message to send, and what becomes of it.
#[derive(Debug, Clone)]
struct Sample {
    /// The text: a character, which may be longer in JSON, and how often.
    text: (char, usize),
    /// Length of a text in the data, if there are data.
    data: Option<usize>,
    edits: usize,
    is_deleted: bool,
}

/// A range between two messages, and a limit.
type Part = (Option<Index>, Option<Index>, u16);

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let length = prop_oneof![1_usize..50, 3_000_usize..=limits::MESSAGE_CHARS - 2];
    let text = (prop::sample::select(vec!['a', '"', 'é', '\u{1}', '😀']), length);
    let data = prop_oneof![3 => Just(None), 1 => (0..limits::DATA_BYTES - 10).prop_map(Some)];
    let edits = prop_oneof![8 => Just(0_usize), 4 => 1_usize..4, 1 => 10_usize..40];
    let sample = (text, data, edits, prop::bool::weighted(0.2));
    let sample = sample.prop_map(|(text, data, edits, is_deleted)| Sample { text, data, edits, is_deleted });
    prop::collection::vec(sample, 0..70)
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let limit = prop_oneof![Just(limits::LISTED_MESSAGES), 1..=limits::LISTED_MESSAGES];
    prop::collection::vec((any::<Option<Index>>(), any::<Option<Index>>(), limit), 3)
}

impl Sample {
    fn text(&self, number: usize) -> String {
        let (character, length) = self.text;
        format!("{number}{}", character.to_string().repeat(length))
    }

    fn data(&self, number: usize) -> Option<Data> {
        let json = |length| format!("{{\"{number}\":\"{}\"}}", "d".repeat(length));
        self.data.map(|length| Data::new(RawValue::from_string(json(length)).unwrap()))
    }
}

/// Sends the messages and changes them.
async fn fill(pool: &Pool, conversation: ConversationId, samples: &[Sample]) {
    let plain = |number: usize| send(conversation, 1, &number.to_string());
    let sends = samples.iter().zip(0_usize..).map(|(sample, number)| Send {
        message: sample.text(0),
        kind: sample.data.map(|_| "offer".to_owned()),
        data: sample.data(0),
        ..plain(number)
    });
    let sends: Vec<Send> = sends.collect();
    store::store_messages(pool, &in_time(&sends), true).await.unwrap();
    let sent = store::page(pool, conversation, Range::After(0), 1_000).await.unwrap();
    assert_eq!(sent.len(), samples.len());
    for (message, sample) in sent.iter().zip(samples) {
        let change = async |kind: Kind<'_>| {
            let (conversation_id, message_id) = (conversation, message.message_id);
            let change = Change { conversation_id, message_id, user: None, kind, if_change: None };
            let changed = store::change_message(pool, &change, 90, &[]).await.unwrap();
            assert!(matches!(changed, Changed::Made { .. }), "{changed:?}");
        };
        for edit in 1..=sample.edits {
            let text = sample.text(edit);
            match sample.data(edit) {
                Some(data) => change(Kind::Data(&data, Some(&text))).await,
                None => change(Kind::Edit(&text)).await,
            }
        }
        if sample.is_deleted {
            change(Kind::Delete(DeletedBy::Moderation, Some("rude"))).await;
        }
    }
}

/// Checks the size of an answer.
fn checked<T: Serialize>(answer: Result<T, Refusal>) -> T {
    let answer = answer.unwrap();
    let size = serde_json::to_vec(&answer).unwrap().len();
    assert!(size <= limits::LISTED_BYTES, "{size} bytes");
    answer
}

/// All pages of a request.
async fn all_messages(pool: &Pool, mut request: ListMessages) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let page = checked(messages(pool, &request).await);
        all.extend(page.items);
        match (page.next, request.after) {
            (None, _) => return all,
            (next, Some(_)) => request.after = next,
            (Some(next), None) => request.before = Some(MessageId::new(next).unwrap()),
        }
    }
}

/// All pages of a request with former texts, each continued until its former texts are complete.
async fn all_versions(pool: &Pool, mut list: ListMessages) -> Vec<(Message, Vec<Version>)> {
    let mut all = Vec::new();
    loop {
        let page = checked(versions(pool, &ListVersions { list: list.clone(), versions_after: None }).await);
        for ListedMessage { message, versions: mut former, mut more_versions } in page.items {
            while more_versions {
                let (next, last) = (message.message_id.get() + 1, former.last().unwrap().change);
                let list =
                    ListMessages { after: None, before: MessageId::new(next).ok(), limit: Some(1), ..list };
                let request = ListVersions { list, versions_after: Some(last) };
                let mut one = checked(versions(pool, &request).await).items;
                assert_eq!(one[0].message, message);
                more_versions = one[0].more_versions;
                former.append(&mut one[0].versions);
            }
            all.push((message, former));
        }
        match (page.next, list.after) {
            (None, _) => return all,
            (next, Some(_)) => list.after = next,
            (Some(next), None) => list.before = Some(MessageId::new(next).unwrap()),
        }
    }
}

async fn check(pool: &Pool, conversation: ConversationId, log: &[Message], part: &Part) {
    let (after, before, limit) = part;
    let nth = |index: &Index| index.get(log).message_id;
    let after = after.as_ref().filter(|_| !log.is_empty()).map(|index| nth(index).get());
    let before = before.as_ref().filter(|_| !log.is_empty()).map(nth);
    let request =
        ListMessages { conversation_id: conversation, after, before, limit: Some(*limit), versions: None };
    let is_in = |message: &&Message| {
        after.is_none_or(|after| message.message_id.get() > after)
            && before.is_none_or(|before| message.message_id < before)
    };
    let mut expected: Vec<&Message> = log.iter().filter(is_in).collect();
    if after.is_none() {
        expected.reverse();
    }
    let listed = all_messages(pool, request.clone()).await;
    assert!(listed.iter().eq(expected.iter().copied()), "{request:?}");

    let ids: Vec<i64> = expected.iter().map(|message| message.message_id.get()).collect();
    let mut former = store::versions(pool, conversation, &ids, 0, usize::MAX).await.unwrap();
    let expected = expected
        .iter()
        .map(|&message| (message.clone(), former.remove(&message.message_id).unwrap_or_default()));
    assert!(all_versions(pool, request.clone()).await.into_iter().eq(expected), "{request:?}");
}

#[test]
fn pages_of_limited_size_have_every_message_and_former_text_once_and_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = runtime.block_on(database());
    let config = Config { cases: 16, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(samples(), parts()), |(samples, parts)| {
            runtime.block_on(async {
                let pool = &database.pool;
                let conversation = conversation(pool, &[1, 2]).await;
                fill(pool, conversation, &samples).await;
                let mut log = store::page(pool, conversation, Range::After(0), 1_000).await.unwrap();
                store::members(pool, conversation, None).await.unwrap().show_to(None, &mut log);
                log.iter_mut().for_each(|message| message.client_id = None);
                for part in &parts {
                    check(pool, conversation, &log, part).await;
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async move { drop(database) });
}

#[tokio::test]
async fn the_former_texts_of_one_message_are_continued() {
    let database = database().await;
    let pool = &database.pool;
    let conversation_id = conversation(pool, &[1, 2]).await;
    let long = Sample { text: ('\u{1}', 3_990), data: None, edits: 30, is_deleted: true };
    fill(pool, conversation_id, &[long]).await;
    let list = ListMessages { conversation_id, after: None, before: None, limit: None, versions: None };
    let request = |limit, after| {
        let list = ListMessages { limit, ..list.clone() };
        ListVersions { list, versions_after: after }
    };
    let first = checked(versions(pool, &request(None, None)).await);
    assert!(first.items[0].more_versions && first.next.is_none(), "the only message is not complete");
    let refused = versions(pool, &request(None, Some(3))).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidRequest, "other messages would lose former texts");
    let all = all_versions(pool, list).await;
    let [(message, former)] = &all[..] else { panic!("{} messages", all.len()) };
    assert!(message.deleted_at.is_some() && message.sender_id == user(1));
    let changes: Vec<i64> = former.iter().map(|version| version.change).collect();
    assert_eq!(changes, (1..=31).collect::<Vec<i64>>());
}
