use super::*;
use serde_json::json;

fn message(seq: i64, content: &str) -> Message {
    serde_json::from_value(json!({
        "conversation_id": 5, "message_id": 100 + seq, "seq": seq, "sender_id": 1, "sender_username": "x",
        "content": content, "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false,
    }))
    .unwrap()
}

#[test]
fn different_frames_on_two_sockets_are_detected() {
    let mut deliveries = Deliveries::default();
    deliveries.message(&message(1, "a")).unwrap();
    deliveries.message(&Message { is_read: true, ..message(1, "a") }).unwrap();
    assert_eq!(deliveries.message(&message(1, "b")).unwrap_err().rule, Rule::Same);
    let elsewhere = Message { message_id: 7.try_into().unwrap(), ..message(1, "a") };
    assert_eq!(deliveries.message(&elsewhere).unwrap_err().rule, Rule::Same);
}

#[test]
fn a_change_keeps_the_identity_of_a_message() {
    let changed = |seq: i64, content: &str, change: i64| Message {
        change: Some(change),
        edited_at: Some(message(1, "a").created_at),
        ..message(seq, content)
    };
    let deleted = |seq: i64, change: i64| Message {
        deleted_at: Some(message(1, "a").created_at),
        deleted_by: Some(contract::chat::DeletedBy::Sender),
        ..changed(seq, "", change)
    };
    let mut deliveries = Deliveries::default();
    deliveries.message(&message(1, "a one")).unwrap();
    deliveries.message(&changed(1, "a two", 1)).unwrap();
    deliveries.message(&deleted(1, 2)).unwrap();
    assert_eq!(deliveries.name(&deleted(1, 2)), Some("a".to_owned()));
    // Two states with the same number, and another message after a change.
    assert_eq!(deliveries.message(&changed(1, "a three", 1)).unwrap_err().rule, Rule::Same);
    assert_eq!(deliveries.message(&changed(1, "a one", 2)).unwrap_err().rule, Rule::Same);
    assert_eq!(deliveries.message(&changed(1, "b two", 3)).unwrap_err().rule, Rule::Same);
    let elsewhere = Message { message_id: 7.try_into().unwrap(), ..deleted(1, 2) };
    assert_eq!(deliveries.message(&elsewhere).unwrap_err().rule, Rule::Same);
    // Deleted before its first delivery.
    deliveries.message(&deleted(2, 3)).unwrap();
    assert_eq!(deliveries.name(&deleted(2, 3)), None);
    deliveries.message(&message(2, "c one")).unwrap();
    assert_eq!(deliveries.name(&deleted(2, 3)), Some("c".to_owned()));
    assert_eq!(deliveries.message(&message(3, "c one")).unwrap_err().rule, Rule::Twice);
}

#[test]
fn a_message_stored_twice_is_detected_immediately() {
    let mut deliveries = Deliveries::default();
    deliveries.message(&message(1, "a")).unwrap();
    assert_eq!(deliveries.message(&message(2, "a")).unwrap_err().rule, Rule::Twice);
    let mut ledger = Ledger::default();
    ledger.sends("a", 5, 1, Some("c"));
    assert_eq!(ledger.unacknowledged(), 1);
    assert_eq!(ledger.acked("a", "an ok", None), Ok(true));
    assert_eq!(ledger.acked("a", "an echo", Some(101)), Ok(false));
    assert_eq!(ledger.acked("a", "201", Some(102)).unwrap_err().rule, Rule::Twice);
    assert_eq!(ledger.unacknowledged(), 0);
}
