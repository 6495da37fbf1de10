//! Effects of chat messages and markers on inboxes.

use crate::app::App;
use contract::log::Range;

#[tokio::test]
async fn a_message_notifies_its_recipients_and_not_its_sender() {
    let app = App::spawn().await;
    let (mut ada, mut ben) = (app.watch(1).await, app.watch(2).await);
    app.message(7, 10, 1, &[2, 3]).await;
    let shown = ben.shown().await;
    assert_eq!((shown.kind.as_str(), shown.title.as_str()), ("message_received", "Nouveau message"));
    assert_eq!(shown.message, "user-1 a envoyé un message");
    assert_eq!(shown.data.get(), r#"{"conversation_id":7,"message_id":10,"count":1}"#);
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    assert_eq!(ada.shown().await.kind, "payment_completed", "the sender's first event is not of the message");
    app.is_settled().await;
    assert_eq!(app.rows().await, 3);
}

#[tokio::test]
async fn a_later_message_supersedes_and_the_marker_clears() {
    let app = App::spawn().await;
    let mut watch = app.watch(2).await;
    app.message(7, 10, 1, &[2]).await;
    let first = watch.shown().await;
    app.message(7, 11, 3, &[1, 2]).await;
    let second = watch.shown().await;
    assert_eq!((second.replaces, second.unread_count), (Some(first.notification_id), 1));
    assert_eq!(second.data.get(), r#"{"conversation_id":7,"message_id":11,"count":2}"#);
    app.message(8, 12, 1, &[2]).await;
    assert_eq!((watch.shown().await.unread_count, app.inbox(2).await[0].is_read), (2, true));

    app.marker(7, 2, 10).await; // Before the newest message.
    app.marker(7, 2, 11).await;
    let read = watch.read().await;
    assert_eq!((read.notification_id, read.unread_count, read.all), (second.notification_id, 1, false));
    app.message(8, 13, 2, &[1]).await; // Sending a message marks the conversation as read.
    assert_eq!(watch.read().await.unread_count, 0);
    app.message(7, 14, 1, &[2]).await;
    let fresh = watch.shown().await;
    assert_eq!((fresh.replaces, fresh.unread_count), (None, 1));
    assert!(fresh.data.get().ends_with(r#""count":1}"#));
    app.is_settled().await;
    app.check_inboxes().await;
}

#[tokio::test]
async fn a_message_before_the_marker_does_not_notify() {
    let app = App::spawn().await;
    app.marker(7, 2, 20).await;
    app.is_settled().await;
    app.message(7, 19, 1, &[2]).await;
    app.message(7, 21, 1, &[2]).await;
    app.message(7, 21, 1, &[2]).await;
    app.is_settled().await;
    let page = app.page(2, Range::Newest, 50).await;
    assert_eq!((page.page.items.len(), page.unread_count), (1, 1));
    app.check_inboxes().await;
}

#[tokio::test]
async fn a_notification_that_was_read_is_not_superseded() {
    let app = App::spawn().await;
    let mut watch = app.watch(2).await;
    app.message(7, 10, 1, &[2]).await;
    let first = watch.shown().await;
    app.read(2, first.notification_id).await.unwrap();
    assert_eq!(watch.read().await.unread_count, 0);
    app.message(7, 11, 1, &[2]).await;
    let second = watch.shown().await;
    assert_eq!((second.replaces, second.unread_count), (None, 1));
    assert_eq!(app.read_all(2).await.unwrap().notification_id, second.notification_id);
    let read = watch.read().await;
    assert_eq!((read.all, read.unread_count), (true, 0));
    app.marker(7, 2, 11).await; // Nothing is unread.
    app.is_settled().await;
    app.check_inboxes().await;
}

#[tokio::test]
async fn an_invalid_log_entry_is_a_dead_letter() {
    let app = App::spawn().await;
    app.jetstream.publish("chat.log", "nonsense".into()).await.unwrap().await.unwrap();
    app.message(7, 10, 1, &[2]).await;
    app.is_settled().await;
    let letters = app.dead_letters(1).await;
    assert_eq!(
        (letters[0].subject.as_str(), &letters[0].payload[..]),
        ("deadletters.chat.log", &b"nonsense"[..])
    );
    assert_eq!(app.inbox(2).await.len(), 1);
}

#[tokio::test]
async fn counts_are_right_while_an_earlier_release_runs() {
    let app = App::spawn().await;
    let count = async |message: i64| {
        let newest = &app.page(2, Range::Newest, 1).await.page.items[0];
        let data: serde_json::Value = serde_json::from_str(newest.data.get()).unwrap();
        assert_eq!(data["message_id"], message);
        data["count"].as_i64().unwrap()
    };
    for seq in 1..=3 {
        app.message_at(7, 10 * seq, Some(seq), 1, &[2]).await;
    }
    app.is_settled().await;
    assert_eq!(count(30).await, 3);
    // The earlier release moves the marker to the third message, without its seq.
    sqlx::query(
        "insert into markers (user_id, conversation_id, message_id) values (2, 7, 30)
        on conflict (user_id, conversation_id) do update set message_id = 30",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    app.read_all(2).await;
    app.message_at(7, 40, Some(4), 1, &[2]).await;
    app.is_settled().await;
    assert_eq!(count(40).await, 1);
    app.message(7, 50, 1, &[2]).await; // From a chat-service that doesn't send the seq.
    app.is_settled().await;
    assert_eq!(count(50).await, 2);
    app.check_inboxes().await;
}
