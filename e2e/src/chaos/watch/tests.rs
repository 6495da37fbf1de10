use super::*;
use serde_json::json;

/// Owner of the socket.
const ME: i64 = 1;

fn message(seq: i64, sender: i64, client_id: Option<&str>) -> Message {
    let id = 100 + seq;
    let mut message = json!({
        "conversation_id": 5, "message_id": id, "seq": seq, "sender_id": sender, "sender_username": "x",
        "content": format!("m{seq}"), "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false,
    });
    if let Some(client_id) = client_id {
        message["client_id"] = client_id.into();
    }
    serde_json::from_value(message).unwrap()
}

fn marker(user: i64, seq: i64, unread: Option<i64>) -> Marker {
    let mut marker = json!({
        "conversation_id": 5, "user_id": user, "message_id": 100 + seq, "seq": seq,
        "read_at": "2025-12-09T10:30:00.123456Z",
    });
    if let Some(unread) = unread {
        marker["unread_count"] = unread.into();
    }
    serde_json::from_value(marker).unwrap()
}

fn after(seq: i64) -> ChatWatch {
    ChatWatch::new(ME, Some(Head { seq, id: 100 + seq }), 0)
}

fn rule<T: std::fmt::Debug>(result: Result<T, Fault>) -> Rule {
    result.unwrap_err().rule
}

#[test]
fn a_log_in_order_is_accepted() {
    let mut watch = after(3);
    for seq in 4..10 {
        assert_eq!(watch.message(&message(seq, 2, None)), Ok(Delivery::New));
    }
    assert_eq!(watch.last(), Some(Head { seq: 9, id: 109 }));
    watch.marker(&marker(2, 9, None)).unwrap_err();
    watch.marker(&marker(3, 9, None)).unwrap();
    watch.marker(&marker(ME, 7, Some(2))).unwrap();
}

#[test]
fn gaps_repeats_and_wrong_ids_are_detected() {
    assert_eq!(rule(after(3).message(&message(5, 2, None))), Rule::Gap);
    assert_eq!(rule(after(3).message(&message(3, 2, None))), Rule::Twice);
    let mut older = message(4, 2, None);
    older.message_id = 50.try_into().unwrap();
    assert_eq!(rule(after(3).message(&older)), Rule::Order);
    let mut live = ChatWatch::new(ME, None, 0);
    live.message(&message(8, 2, None)).unwrap();
    assert_eq!(rule(live.message(&message(10, 2, None))), Rule::Gap);
}

#[test]
fn a_repeat_is_accepted_only_on_the_socket_that_sent_the_message() {
    let mut watch = after(3);
    let own = message(2, ME, Some("c"));
    assert_eq!(rule(watch.message(&own)), Rule::Twice);
    watch.sends("c");
    assert_eq!(watch.message(&own), Ok(Delivery::Again));
    assert_eq!(watch.last().map(|last| last.seq), Some(3), "a repeat doesn't move the socket");
    let mut resubscribed = after(3).after(watch);
    assert_eq!(resubscribed.message(&own), Ok(Delivery::Again), "the same socket");
    let mut other = after(3);
    assert_eq!(rule(other.message(&own)), Rule::Twice, "another socket has not sent it");
    assert_eq!(rule(other.message(&message(4, 2, Some("c")))), Rule::Refused, "another user's client_id");
}

#[test]
fn markers_that_are_too_far_or_move_back_are_detected() {
    let mut watch = after(3);
    assert_eq!(rule(watch.marker(&marker(2, 4, None))), Rule::Marker);
    let mut watch = after(3);
    watch.marker(&marker(2, 3, None)).unwrap();
    assert_eq!(rule(watch.marker(&marker(2, 2, None))), Rule::Marker);
    watch.message(&message(4, 3, None)).unwrap();
    assert_eq!(rule(watch.marker(&marker(3, 2, None))), Rule::Marker, "before their own message");
    let mut live = ChatWatch::new(ME, None, 0);
    live.marker(&marker(2, 9, None)).unwrap();
    assert_eq!(rule(live.message(&message(9, 3, None))), Rule::Marker, "seq 9 was not delivered yet");
}

#[test]
fn wrong_unread_counts_are_detected() {
    let mut watch = after(9);
    assert_eq!(rule(watch.marker(&marker(ME, 5, Some(3)))), Rule::Unread);
    assert_eq!(rule(watch.marker(&marker(ME, 6, None))), Rule::Unread);
    assert_eq!(rule(watch.marker(&marker(2, 6, Some(3)))), Rule::Refused, "unread_count of another user");
    let mut live = ChatWatch::new(ME, None, 0);
    live.marker(&marker(ME, 5, Some(3))).unwrap();
    assert_eq!(rule(live.message(&message(10, 2, None))), Rule::Marker, "5 + 3 is not 9");
}

/// A change of the message with this `seq`.
fn changed(seq: i64, change: i64) -> Changed {
    let message = Message { change: Some(change), ..message(seq, 2, None) };
    Changed { conversation_id: 5, change, message }
}

#[test]
fn changes_in_order_are_accepted() {
    let mut watch = ChatWatch::new(ME, Some(Head { seq: 3, id: 103 }), 6);
    watch.changed(&changed(2, 7)).unwrap();
    // Some numbers may be left out.
    watch.changed(&changed(3, 9)).unwrap();
    assert_eq!(watch.message(&message(4, 2, None)), Ok(Delivery::New), "a change doesn't move the socket");
    watch.changed(&changed(4, 10)).unwrap();
}

#[test]
fn changes_out_of_order_or_of_unknown_messages_are_detected() {
    let mut watch = ChatWatch::new(ME, Some(Head { seq: 3, id: 103 }), 6);
    assert_eq!(rule(watch.changed(&changed(2, 6))), Rule::Change, "the client had it");
    watch.changed(&changed(2, 8)).unwrap();
    assert_eq!(rule(watch.changed(&changed(2, 8))), Rule::Change, "a repeat");
    assert_eq!(rule(watch.changed(&changed(3, 7))), Rule::Change, "a step back");
    assert_eq!(rule(watch.changed(&changed(4, 9))), Rule::Change, "seq 4 was not delivered yet");
    let other = Changed { change: 11, ..changed(2, 10) };
    assert_eq!(rule(watch.changed(&other)), Rule::Change, "the message has another number");
    let mut live = ChatWatch::new(ME, None, 0);
    live.changed(&changed(9, 3)).unwrap();
    assert_eq!(rule(live.message(&message(9, 2, None))), Rule::Marker, "seq 9 was not delivered yet");
}

#[test]
fn deleted_messages_with_a_text_and_foreign_client_ids_are_detected() {
    let deleted = |content: &str| {
        let mut changed = changed(2, 8);
        changed.message.content = content.to_owned();
        changed.message.deleted_at = Some(changed.message.created_at);
        changed.message.deleted_by = Some(contract::chat::DeletedBy::Sender);
        changed
    };
    after(3).changed(&deleted("")).unwrap();
    assert_eq!(rule(after(3).changed(&deleted("m2"))), Rule::Deleted);
    assert_eq!(rule(after(1).message(&deleted("m2").message)), Rule::Deleted);
    let mut nameless = deleted("");
    nameless.message.deleted_by = None;
    assert_eq!(rule(after(3).changed(&nameless)), Rule::Deleted);
    let mut empty = changed(2, 8);
    empty.message.content.clear();
    assert_eq!(rule(after(3).changed(&empty)), Rule::Deleted);
    let mut foreign = changed(2, 8);
    foreign.message.client_id = Some("c".to_owned());
    assert_eq!(rule(after(3).changed(&foreign)), Rule::Refused);
}

#[test]
fn an_inbox_is_checked_in_the_same_way() {
    let shown = |seq: i64, unread: i64| -> Notification {
        serde_json::from_value(json!({
            "type": "t", "notification_id": seq, "seq": seq, "title": "", "message": "", "data": null,
            "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false, "unread_count": unread,
        }))
        .unwrap()
    };
    let mut watch = InboxWatch::new(Some(Head { seq: 1, id: 1 }));
    watch.notification(&shown(2, 1)).unwrap();
    assert_eq!(rule(watch.notification(&shown(2, 1))), Rule::Twice);
    assert_eq!(rule(watch.notification(&shown(4, 1))), Rule::Gap);
    assert_eq!(rule(watch.notification(&shown(5, -1))), Rule::Unread);
}
