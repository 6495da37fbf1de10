use super::*;
use crate::chaos::ledger::{Promise, Published};
use serde_json::json;

/// A run in which all went well: two users, one conversation of three messages, one event, one dead letter.
fn clean() -> (Ledger, Board, Truth) {
    let (mut ledger, mut board, mut truth) = (Ledger::default(), Board::default(), Truth::default());
    for seq in 1..=3 {
        let (content, client_id) = (format!("m{seq}"), format!("c{seq}"));
        ledger.sends(&content, 5, 1, Some(&client_id));
        ledger.acked(&content, "an echo", Some(100 + seq)).unwrap();
        let message: Message = serde_json::from_value(json!({
            "conversation_id": 5, "message_id": 100 + seq, "seq": seq, "sender_id": 1, "sender_username": "x",
            "content": content, "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false,
        }))
        .unwrap();
        board.message(&message).unwrap();
        truth.histories.entry(5).or_default().push(message);
        truth.messages.push(Row {
            conversation: 5,
            seq,
            message_id: 100 + seq,
            sender: 1,
            content,
            client_id,
        });
    }
    ledger.read(5, 2, 101);
    truth.heads.insert(5, Head { seq: 3, id: 103 });
    truth.markers.extend([((5, 1), (3, 103)), ((5, 2), (1, 101))]);
    let promised = |promise| Published { users: vec![2], promise, acked: true };
    ledger.events.insert("e1".into(), promised(Promise::Once));
    ledger.events.insert("e2".into(), promised(Promise::DeadLetter));
    truth.deadletters.push(r#"{"event":"e2"}"#.into());
    let row = |seq, event: Option<&str>, stands_for, is_read| NoticeRow {
        user: 2,
        seq,
        id: 10 + seq,
        event: event.map(str::to_owned),
        stands_for,
        is_read,
    };
    truth.notifications = vec![
        row(1, None, Some((5, 102, 1)), true),
        row(2, Some("e1"), None, false),
        row(3, None, Some((5, 103, 2)), false),
    ];
    truth.inboxes.insert(2, (3, 2));
    let listed = [(5, 2)].into();
    truth.counts.insert(2, Counts { conversations: 1, messages: 2, notifications: 2, listed });
    (ledger, board, truth)
}

/// What is found once something was spoilt.
fn found(spoil: impl FnOnce(&mut Ledger, &mut Board, &mut Truth)) -> Vec<Rule> {
    let (mut ledger, mut board, mut truth) = clean();
    spoil(&mut ledger, &mut board, &mut truth);
    let mut rules: Vec<Rule> = judge(&ledger, &board, &truth).into_iter().map(|fault| fault.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

fn finds(rule: Rule, spoil: impl FnOnce(&mut Ledger, &mut Board, &mut Truth)) {
    let found = found(spoil);
    assert!(found.contains(&rule), "{rule} is not among {found:?}");
}

#[test]
fn where_all_went_well_nothing_is_found() {
    assert_eq!(found(|_, _, _| {}), []);
}

#[test]
fn a_lost_message_is_found() {
    finds(Rule::Lost, |ledger, _, _| {
        ledger.sends("m4", 5, 1, Some("c4"));
        ledger.acked("m4", "201", Some(104)).unwrap();
    });
    // One that nobody acknowledged may be lost.
    assert_eq!(found(|ledger, _, _| ledger.sends("m4", 5, 1, None)), []);
}

#[test]
fn a_message_stored_twice_is_found() {
    finds(Rule::Twice, |_, _, truth| {
        let again = Row { seq: 4, message_id: 104, client_id: "other".into(), ..truth.messages[2].clone() };
        truth.messages.push(again);
    });
    finds(Rule::Twice, |ledger, _, truth| {
        ledger.sends("m4", 5, 1, None);
        truth.messages.push(Row {
            seq: 4,
            message_id: 104,
            content: "m4".into(),
            ..truth.messages[2].clone()
        });
    });
}

#[test]
fn a_hole_and_wrong_order_are_found() {
    finds(Rule::Hole, |_, _, truth| {
        truth.messages.remove(1);
    });
    finds(Rule::Hole, |_, _, truth| {
        truth.heads.insert(5, Head { seq: 4, id: 104 });
    });
    finds(Rule::Order, |_, _, truth| truth.messages[1].message_id = 7);
}

#[test]
fn what_was_told_and_is_not_so_is_found() {
    finds(Rule::Same, |_, _, truth| truth.messages[1].content = "edited".into());
    finds(Rule::Same, |_, _, truth| {
        truth.messages.pop();
    });
    finds(Rule::Same, |_, _, truth| {
        truth.histories.get_mut(&5).unwrap().swap(0, 1);
    });
    finds(Rule::Same, |ledger, _, _| {
        ledger.sends.remove("m2");
    });
}

#[test]
fn markers_that_went_back_and_wrong_counts_are_found() {
    finds(Rule::Marker, |ledger, _, _| ledger.read(5, 2, 102));
    finds(Rule::Marker, |_, board, _| {
        board.markers.insert((5, 2), 2);
    });
    finds(Rule::Marker, |_, _, truth| {
        truth.markers.insert((5, 1), (2, 102));
    });
    finds(Rule::Marker, |ledger, _, _| {
        ledger.inbox_reads.insert(2, vec![13]);
    });
    finds(Rule::Unread, |_, _, truth| truth.counts.get_mut(&2).unwrap().messages = 3);
    finds(Rule::Unread, |_, _, truth| truth.counts.get_mut(&2).unwrap().notifications = 1);
    finds(Rule::Unread, |_, _, truth| {
        truth.inboxes.insert(2, (3, 1));
    });
}

#[test]
fn lost_and_doubled_events_are_found() {
    finds(Rule::Lost, |_, _, truth| truth.notifications[1].event = None);
    finds(Rule::Twice, |_, _, truth| truth.notifications[0].event = Some("e1".into()));
    finds(Rule::Event, |_, _, truth| truth.notifications[0].event = Some("e9".into()));
    finds(Rule::Event, |_, _, truth| truth.deadletters.clear());
    finds(Rule::Event, |_, _, truth| truth.deadletters.push(r#"{"event":"e1"}"#.into()));
    finds(Rule::Hole, |_, _, truth| truth.notifications[1].seq = 3);
    // Without an acknowledgement nothing is promised.
    assert_eq!(
        found(|ledger, _, _| {
            let users = vec![2];
            ledger.events.insert("e3".into(), Published { users, promise: Promise::Once, acked: false });
        }),
        []
    );
}

#[test]
fn notifications_that_do_not_stand_for_what_is_unread_are_found() {
    // Two at once; one for a conversation that is read; none for one that is not; one for what is read.
    finds(Rule::Event, |_, _, truth| truth.notifications[0].is_read = false);
    finds(Rule::Event, |_, _, truth| {
        truth.markers.insert((5, 2), (3, 103));
    });
    finds(Rule::Event, |_, _, truth| truth.notifications[2].stands_for = None);
    finds(Rule::Event, |_, _, truth| {
        truth.notifications[0].stands_for = Some((5, 103, 1));
        truth.notifications[2].stands_for = Some((5, 101, 1));
    });
}

#[test]
fn what_is_left_in_the_outbox_is_found() {
    finds(Rule::Outbox, |_, _, truth| truth.outbox.push("entry 1".into()));
}
