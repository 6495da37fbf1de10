use super::*;
use contract::chat::{DeletedBy, Message};
use serde_json::json;

type Run = (Ledger, Deliveries, BTreeMap<(usize, i64), Views>, FinalState);

/// A message of conversation 5, as a frame or a page shows it.
fn message(row: &Row) -> Message {
    let mut message = json!({
        "conversation_id": 5, "message_id": row.message_id, "seq": row.seq, "sender_id": 1, "sender_username": "x",
        "content": row.content, "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false,
    });
    if row.change > 0 {
        message["change"] = row.change.into();
    }
    if row.deleted_by.is_some() {
        message["deleted_at"] = message["created_at"].clone();
        message["deleted_by"] = "sender".into();
    }
    serde_json::from_value(message).unwrap()
}

/// A run without faults: message 1 never changed, message 2 was edited twice, message 3 was edited and deleted.
fn clean() -> Run {
    let row = |seq: i64, former: &[(i64, &str)], content: &str| Row {
        conversation: 5,
        seq,
        message_id: 100 + seq,
        sender: 1,
        content: content.to_owned(),
        client_id: format!("m{seq}"),
        change: former.last().map_or(0, |(change, _)| *change),
        deleted_by: Some(DeletedBy::Sender).filter(|_| content.is_empty()),
        former: former.iter().map(|(change, content)| (*change, (*content).to_owned())).collect(),
    };
    let (mut ledger, mut deliveries, mut state) =
        (Ledger::default(), Deliveries::default(), FinalState::default());
    state.messages = vec![
        row(1, &[], "m1 a."),
        row(2, &[(1, "m2 a."), (4, "m2 b.")], "m2 c."),
        row(3, &[(2, "m3 a."), (3, "m3 b.")], ""),
    ];
    for row in &state.messages {
        let original = Row { content: row.original().to_owned(), change: 0, deleted_by: None, ..row.clone() };
        for shown in [&original, row] {
            deliveries.message(&message(shown)).unwrap();
        }
    }
    for (id, text) in [(102, "m2 b."), (102, "m2 c."), (103, "m3 b.")] {
        ledger.edits(5, id, text, None);
        ledger.changed(id, Some(text), "an ok");
    }
    ledger.deletes(5, 103);
    ledger.changed(103, None, "204");
    state.changes.insert(5, 4);
    state.changed.insert(5, vec![message(&state.messages[2]), message(&state.messages[1])]);
    state.texts = state.messages.iter().map(|row| serde_json::to_string(&message(row)).unwrap()).collect();
    let mut view = View::default();
    state.messages.iter().for_each(|row| view.show(&message(row)));
    let views = Views { socket: view.clone(), page: view };
    (ledger, deliveries, [((0, 5), views)].into(), state)
}

/// The rules found violated after a change of the clean run.
fn found(change: impl FnOnce(&mut Run)) -> Vec<Rule> {
    let mut run = clean();
    change(&mut run);
    let mut faults = Vec::new();
    judge(&run.0, &run.1, &run.2, &run.3, &mut faults);
    faults.into_iter().map(|fault| fault.rule).collect()
}

fn finds(rule: Rule, change: impl FnOnce(&mut Run)) {
    let found = found(change);
    assert!(found.contains(&rule), "{rule} is not among {found:?}");
}

#[test]
fn a_clean_run_has_no_faults() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn a_client_that_missed_a_change_is_detected() {
    let before = || Shown { change: 1, content: "m2 b.".to_owned(), deleted_by: None };
    finds(Rule::Behind, |run| {
        run.2.get_mut(&(0, 5)).unwrap().socket.0.insert(2, before());
    });
    finds(Rule::Behind, |run| {
        run.2.get_mut(&(0, 5)).unwrap().page.0.insert(2, before());
    });
    // The right number with another text, and a deletion by somebody else.
    finds(Rule::Behind, |run| {
        run.2.get_mut(&(0, 5)).unwrap().page.0.insert(2, Shown { change: 4, ..before() });
    });
    finds(Rule::Behind, |run| {
        let shown = run.2.get_mut(&(0, 5)).unwrap().socket.0.get_mut(&3).unwrap();
        shown.deleted_by = Some(DeletedBy::Moderation);
    });
}

#[test]
fn a_view_keeps_the_latest_state() {
    let rows = clean().3.messages;
    let mut view = View::default();
    view.show(&message(&rows[1]));
    let older = Row { change: 1, content: "m2 b.".to_owned(), ..rows[1].clone() };
    view.show(&message(&older));
    assert_eq!(view.0[&2], rows[1].shown());
}

#[test]
fn lost_changes_are_detected() {
    // The last one is undone; an earlier one never was.
    finds(Rule::Lost, |run| run.3.messages[1].content = "m2 d.".to_owned());
    finds(Rule::Lost, |run| {
        run.0.edits(5, 101, "m1 b.", None);
        run.0.changed(101, Some("m1 b."), "200");
    });
    finds(Rule::Lost, |run| {
        run.0.deletes(5, 101);
        run.0.changed(101, None, "204");
    });
    // Without an acknowledgement, an edit may be lost.
    assert_eq!(found(|run| run.0.edits(5, 101, "m1 b.", None)), []);
}

#[test]
fn repeated_changes_are_detected() {
    finds(Rule::Twice, |run| run.3.messages[1].former[1].1 = "m2 c.".to_owned());
    finds(Rule::Twice, |run| run.3.messages[2].former[1].1 = String::new());
}

#[test]
fn changes_that_nobody_requested_are_detected() {
    finds(Rule::Change, |run| run.0.changes.get_mut(&102).unwrap().edits.truncate(1));
    finds(Rule::Change, |run| run.0.changes.get_mut(&103).unwrap().deletion = false);
    finds(Rule::Change, |run| run.0.changes.get_mut(&103).unwrap().conversation = 6);
    // An edit of another state than the one that the backend named.
    finds(Rule::Change, |run| run.0.changes.get_mut(&102).unwrap().edits[1].if_change = Some(0));
    let named = found(|run| run.0.changes.get_mut(&102).unwrap().edits[1].if_change = Some(1));
    assert_eq!(named, []);
}

#[test]
fn gaps_and_wrong_numbers_are_detected() {
    finds(Rule::Gap, |run| {
        run.3.changes.insert(5, 5);
    });
    finds(Rule::Gap, |run| run.3.messages[2].former[0].0 = 1);
    finds(Rule::Change, |run| run.3.messages[1].change = 5);
    finds(Rule::Change, |run| run.3.messages[1].former.swap(0, 1));
}

#[test]
fn delivered_states_that_never_existed_are_detected() {
    finds(Rule::Same, |run| {
        let between = Shown { change: 1, content: "m2 x.".to_owned(), deleted_by: None };
        run.1.states.insert((5, 2, 1), between);
    });
    finds(Rule::Same, |run| {
        let unmade = Shown { change: 9, content: "m2 b.".to_owned(), deleted_by: None };
        run.1.states.insert((5, 2, 9), unmade);
    });
}

#[test]
fn wrong_pages_of_changes_are_detected() {
    finds(Rule::Same, |run| run.3.changed.get_mut(&5).unwrap().reverse());
    finds(Rule::Same, |run| {
        run.3.changed.get_mut(&5).unwrap().pop();
    });
}

#[test]
fn deleted_texts_are_detected() {
    finds(Rule::Deleted, |run| run.3.texts.push(r#"{"last_message":{"content":"m3 a."}}"#.to_owned()));
    finds(Rule::Deleted, |run| run.3.messages[2].content = "m3 c.".to_owned());
    // The text of another message.
    assert_eq!(found(|run| run.3.texts.push(r#"{"content":"m33 a."}"#.to_owned())), []);
}
