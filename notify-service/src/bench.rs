//! The functions on the path of every message to inboxes, for `benches/hot.rs`. Built with the feature `bench` and for
//! tests.

use crate::{
    catalogue::Catalogue,
    inboxes::chat_ops,
    ops::{Op, collapse},
    plan::{Inbox, Known, Plan, Reached},
};
use contract::{ConversationId, NotificationId, Timestamp, UserId, chat::LogEntry};
use std::hint::black_box;

/// Number of messages of a log entry.
const MESSAGES: i64 = 64;
/// Number of users who receive them.
const RECIPIENTS: i64 = 100;

/// The names of all measured operations.
pub const NAMES: [&str; 2] = ["read_log_64", "plan_burst_64"];

/// Prepares the operation of this name.
///
/// # Panics
/// If there is no such operation.
pub fn operation(name: &str) -> Box<dyn FnMut()> {
    match name {
        "read_log_64" => read_log(),
        "plan_burst_64" => plan_burst(),
        _ => panic!("unknown operation {name}"),
    }
}

/// The entry of a burst of messages to a group.
fn entry() -> Vec<u8> {
    let recipients: Vec<i64> = (1..=RECIPIENTS).collect();
    let messages: Vec<_> = (1..=MESSAGES)
        .map(|seq| {
            serde_json::json!({
                "conversation_id": 123, "message_id": 7 * seq, "seq": seq, "sender_id": 1, "sender_username": "ada",
                "recipients": recipients,
            })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({"type": "stored", "messages": messages})).expect("an entry")
}

fn ops(entry: &[u8]) -> Vec<Op> {
    chat_ops(serde_json::from_slice::<LogEntry>(entry).expect("an entry")).0
}

/// From the bytes of an entry to its operations.
fn read_log() -> Box<dyn FnMut()> {
    let entry = entry();
    Box::new(move || drop(black_box(ops(black_box(&entry)))))
}

/// From the operations to the changes of all inboxes.
fn plan_burst() -> Box<dyn FnMut()> {
    let (ops, catalogue) = (ops(&entry()), Catalogue::load(None).expect("the built-in texts"));
    let users = || (1..=RECIPIENTS).map(|user| UserId::new(user).expect("a positive number"));
    let conversation = ConversationId::new(123).expect("a positive number");
    let mut batch = 0;
    Box::new(move || {
        batch += 1;
        let first = batch * (RECIPIENTS + 1);
        let ids = (first..=first + RECIPIENTS).map(|id| NotificationId::new(id).expect("a positive number"));
        let known = Known {
            inboxes: users().map(|user| (user, Inbox::default())).collect(),
            markers: users()
                .map(|user| ((user, conversation), Reached { message: 0, seq: Some(0) }))
                .collect(),
            ..Known::default()
        };
        let steps = collapse(black_box(&ops));
        let changes = Plan::new(&catalogue, Timestamp::now(), ids.collect(), known).run(&steps);
        assert_eq!(black_box(changes).added.len() as i64, RECIPIENTS - 1);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_can_be_repeated() {
        for name in NAMES {
            let mut operation = operation(name);
            (0..3).for_each(|_| operation());
        }
    }
}
