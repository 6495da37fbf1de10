use super::*;
use crate::chaos::{
    ledger::{Promise, Published},
    stored::{Counts, InboxRow, NoticeRow},
};
use contract::{chat::DeletedBy, log::Head};
use serde_json::json;

/// A run without faults: two users, one conversation of three messages, one event, one dead letter.
fn clean() -> (Ledger, Deliveries, FinalState) {
    let (mut ledger, mut deliveries, mut state) =
        (Ledger::default(), Deliveries::default(), FinalState::default());
    for seq in 1..=3 {
        let (content, client_id) = (format!("m{seq}"), format!("c{seq}"));
        ledger.sends(&content, 5, 1, Some(&client_id));
        ledger.acked(&content, "an echo", Some(100 + seq)).unwrap();
        let message: Message = serde_json::from_value(json!({
            "conversation_id": 5, "message_id": 100 + seq, "seq": seq, "sender_id": 1, "sender_username": "x",
            "content": content, "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false,
        }))
        .unwrap();
        deliveries.message(&message).unwrap();
        state.histories.entry(5).or_default().push(message);
        state.messages.push(Row {
            conversation: 5,
            seq,
            message_id: 100 + seq,
            sender: 1,
            content,
            client_id,
            change: 0,
            deleted_by: None,
            former: Vec::new(),
        });
    }
    ledger.read(5, 2, 101);
    state.heads.insert(5, Head { seq: 3, id: 103 });
    state.markers.extend([((5, 1), (3, 103)), ((5, 2), (1, 101))]);
    let promised = |promise| Published { users: vec![2], promise, acked: true };
    ledger.events.insert("e1".into(), promised(Promise::Once));
    ledger.events.insert("e2".into(), promised(Promise::DeadLetter));
    state.deadletters.push(r#"{"event":"e2"}"#.into());
    let row = |seq, event: Option<&str>, stands_for, is_read| NoticeRow {
        user: 2,
        seq,
        id: 10 + seq,
        event: event.map(str::to_owned),
        stands_for,
        is_read,
    };
    state.notifications = vec![
        row(1, None, Some((5, 102, 1)), true),
        row(2, Some("e1"), None, false),
        row(3, None, Some((5, 103, 2)), false),
    ];
    ledger.seen(2, 12);
    state.inboxes.insert(2, InboxRow { last_seq: 3, unread_count: 2, seen_id: 12, unseen_count: 1 });
    let listed = [(5, 2)].into();
    state.counts.insert(2, Counts { conversations: 1, messages: 2, notifications: 2, listed });
    (ledger, deliveries, state)
}

/// The rules found violated after a change of the clean run.
fn found(change: impl FnOnce(&mut Ledger, &mut Deliveries, &mut FinalState)) -> Vec<Rule> {
    let (mut ledger, mut deliveries, mut state) = clean();
    change(&mut ledger, &mut deliveries, &mut state);
    let mut rules: Vec<Rule> =
        judge(&ledger, &deliveries, &BTreeMap::new(), &state).into_iter().map(|fault| fault.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

fn finds(rule: Rule, change: impl FnOnce(&mut Ledger, &mut Deliveries, &mut FinalState)) {
    let found = found(change);
    assert!(found.contains(&rule), "{rule} is not among {found:?}");
}

#[test]
fn a_clean_run_has_no_faults() {
    assert_eq!(found(|_, _, _| {}), []);
}

#[test]
fn a_lost_message_is_detected() {
    finds(Rule::Lost, |ledger, _, _| {
        ledger.sends("m4", 5, 1, Some("c4"));
        ledger.acked("m4", "201", Some(104)).unwrap();
    });
    // An unacknowledged message may be lost.
    assert_eq!(found(|ledger, _, _| ledger.sends("m4", 5, 1, None)), []);
}

#[test]
fn a_message_stored_twice_is_detected() {
    finds(Rule::Twice, |_, _, state| {
        let again = Row { seq: 4, message_id: 104, client_id: "other".into(), ..state.messages[2].clone() };
        state.messages.push(again);
    });
    finds(Rule::Twice, |ledger, _, state| {
        ledger.sends("m4", 5, 1, None);
        state.messages.push(Row {
            seq: 4,
            message_id: 104,
            content: "m4".into(),
            ..state.messages[2].clone()
        });
    });
}

#[test]
fn gaps_and_wrong_order_are_detected() {
    finds(Rule::Gap, |_, _, state| {
        state.messages.remove(1);
    });
    finds(Rule::Gap, |_, _, state| {
        state.heads.insert(5, Head { seq: 4, id: 104 });
    });
    finds(Rule::Order, |_, _, state| state.messages[1].message_id = 7);
}

#[test]
fn differences_from_delivered_messages_are_detected() {
    finds(Rule::Same, |_, _, state| state.messages[1].content = "edited".into());
    finds(Rule::Same, |_, _, state| {
        state.messages.pop();
    });
    finds(Rule::Same, |_, _, state| {
        state.histories.get_mut(&5).unwrap().swap(0, 1);
    });
    finds(Rule::Same, |ledger, _, _| {
        ledger.sends.remove("m2");
    });
}

#[test]
fn markers_that_moved_back_and_wrong_counts_are_detected() {
    finds(Rule::Marker, |ledger, _, _| ledger.read(5, 2, 102));
    finds(Rule::Marker, |_, deliveries, _| {
        deliveries.markers.insert((5, 2), 2);
    });
    finds(Rule::Marker, |_, _, state| {
        state.markers.insert((5, 1), (2, 102));
    });
    finds(Rule::Marker, |ledger, _, _| {
        ledger.inbox_reads.insert(2, vec![13]);
    });
    finds(Rule::Unread, |_, _, state| state.counts.get_mut(&2).unwrap().messages = 3);
    finds(Rule::Unread, |_, _, state| state.counts.get_mut(&2).unwrap().notifications = 1);
    finds(Rule::Unread, |_, _, state| state.inboxes.get_mut(&2).unwrap().unread_count = 1);
    finds(Rule::Unread, |_, _, state| state.inboxes.get_mut(&2).unwrap().unseen_count = 2);
    finds(Rule::Unread, |ledger, _, _| ledger.seen(2, 13));
}

#[test]
fn a_marker_directly_before_a_deleted_message_is_detected() {
    // The marker of user 2 is at seq 1.
    finds(Rule::Marker, |_, _, state| state.messages[1].deleted_by = Some(DeletedBy::Sender));
    // Behind an unread message, a deleted one is unread, too.
    let rules = found(|_, _, state| state.messages[2].deleted_by = Some(DeletedBy::Sender));
    assert!(!rules.contains(&Rule::Marker), "{rules:?}");
}

#[test]
fn lost_and_duplicated_events_are_detected() {
    finds(Rule::Lost, |_, _, state| state.notifications[1].event = None);
    finds(Rule::Twice, |_, _, state| state.notifications[0].event = Some("e1".into()));
    finds(Rule::Event, |_, _, state| state.notifications[0].event = Some("e9".into()));
    finds(Rule::Event, |_, _, state| state.deadletters.clear());
    finds(Rule::Event, |_, _, state| state.deadletters.push(r#"{"event":"e1"}"#.into()));
    finds(Rule::Gap, |_, _, state| state.notifications[1].seq = 3);
    // An unacknowledged event has no promise.
    assert_eq!(
        found(|ledger, _, _| {
            let users = vec![2];
            ledger.events.insert("e3".into(), Published { users, promise: Promise::Once, acked: false });
        }),
        []
    );
}

#[test]
fn notifications_that_do_not_match_the_unread_messages_are_detected() {
    // Two unread notifications at once; one for a conversation without unread messages; none for one with unread
    // messages; one for a message that is read.
    finds(Rule::Event, |_, _, state| state.notifications[0].is_read = false);
    finds(Rule::Event, |_, _, state| {
        state.markers.insert((5, 2), (3, 103));
    });
    finds(Rule::Event, |_, _, state| state.notifications[2].stands_for = None);
    finds(Rule::Event, |_, _, state| {
        state.notifications[0].stands_for = Some((5, 103, 1));
        state.notifications[2].stands_for = Some((5, 101, 1));
    });
}

#[test]
fn remaining_outbox_entries_are_detected() {
    finds(Rule::Outbox, |_, _, state| state.outbox.push("entry 1".into()));
}
