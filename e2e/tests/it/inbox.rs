//! Inboxes and their unread counts.

use e2e::{Kind, Options, Stack, eventually};
use serde_json::{Value, json};

/// Publishes an event and waits until it is stored.
async fn publish(jetstream: &async_nats::jetstream::Context, subject: &str, body: &Value) {
    jetstream.publish(subject.to_owned(), body.to_string().into()).await.unwrap().await.unwrap();
}

/// Waits for a user's notification of this message and returns it.
async fn received(stack: &Stack, user: i64, message: &Value) -> Value {
    eventually("the notification", || async {
        let page = stack.get("/api/notifications", user).await;
        let first = page["items"][0].clone();
        (first["data"]["message_id"] == *message).then_some(first)
    })
    .await
}

#[tokio::test]
async fn a_notification_counts_the_currently_unread_messages() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut sent = Vec::new();
    for text in ["m1", "m2", "m3"] {
        ada.send(json!({"message": text})).await;
        sent.push(ada.next_of("message").await["message_id"].clone());
        let shown = received(&stack, 2, sent.last().unwrap()).await;
        assert_eq!(shown["data"]["count"], sent.len());
    }
    let path = format!("/api/conversations/{id}/read");
    stack.post(&path, 2, json!({"message_id": sent[1]})).await.expect(204);
    // A later entry of the same log shows that the marker was processed.
    let mut ben = stack.socket("/ws/notifications/?after=latest", 2).await;
    ada.send(json!({"message": "m4"})).await;
    let fourth = ada.next_of("message").await["message_id"].clone();
    assert_eq!(ben.next_of("message_received").await["data"]["message_id"], fourth);
    let shown = received(&stack, 2, &fourth).await;
    assert_eq!(shown["data"]["count"], 2, "m3 and m4");
    assert_eq!(stack.get("/api/unread", 2).await["messages"], 2);
    // Reading the notification leaves the messages unread.
    stack.post("/api/notifications/read_all", 2, json!({})).await.expect(204);
    ada.send(json!({"message": "m5"})).await;
    let fifth = ada.next_of("message").await["message_id"].clone();
    assert_eq!(received(&stack, 2, &fifth).await["data"]["count"], 3);
}

#[tokio::test]
async fn a_burst_supersedes_its_notification_once_a_second_even_if_replicas_are_killed() {
    const MESSAGES: usize = 300;
    let options = Options { counts: [1, 1, 2, 1], own_postgres: true, ..Options::default() };
    let mut stack = Stack::with(options).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    for number in 0..MESSAGES {
        ada.say("hello").await;
        // Both replicas hold messages by now.
        if number % 100 == 50 {
            stack.kill(Kind::Notify, number / 100 % 2).await;
            stack.restart(Kind::Notify, number / 100 % 2);
        }
    }
    // NATS delivers what the killed replicas held to another one after the time for acknowledgements.
    let shown = eventually("the notification of the last message", || async {
        let page = stack.get("/api/notifications?unread=true", 2).await;
        let items = page["items"].as_array().unwrap().clone();
        (items.first()?["data"]["count"] == MESSAGES).then_some(items)
    })
    .await;
    assert_eq!(shown.len(), 1, "one unread notification for the conversation: {shown:?}");
    let page = stack.get("/api/notifications?limit=200", 2).await;
    let mut all = page["items"].as_array().unwrap().clone();
    all.reverse();
    for pair in all.windows(2) {
        assert_eq!(pair[1]["replaces"], pair[0]["notification_id"]);
        let count = |item: &Value| item["data"]["count"].as_i64().unwrap();
        assert!(count(&pair[0]) < count(&pair[1]));
    }
    let pool = sqlx::PgPool::connect(&stack.database.url()).await.unwrap();
    let fastest: Option<f64> = sqlx::query_scalar(
        "select min(extract(epoch from gap))::float8 from (
            select created_at - lag(created_at) over (order by seq) as gap from notify.notifications
        ) as gaps",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(fastest.unwrap() >= 1.0, "two notifications within {fastest:?} s");
}

#[tokio::test]
async fn a_marker_reaches_the_users_other_sockets_without_any_notification() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut guide = stack.socket("/ws/notifications/", 2).await;
    let mut list = stack.socket("/ws/notifications/?after=latest", 2).await;
    let mut everything = stack.socket("/ws/", 2).await;
    everything.send(json!({"op": "subscribe", "channel": "notifications", "ref": 1})).await;
    let mut stranger = stack.socket("/ws/notifications/?after=latest", 1).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut messages = Vec::new();
    for text in ["one", "two"] {
        ada.send(json!({"message": text})).await;
        messages.push(ada.next_of("message").await["message_id"].clone());
    }
    let newest = loop {
        let shown = list.next_of("message_received").await;
        if shown["data"]["message_id"] == messages[1] {
            break shown;
        }
    };
    // Marks the notification as read, but not the messages.
    list.send(json!({"type": "read", "notification_id": newest["notification_id"]})).await;
    assert_eq!(list.next_of("read").await["notification_id"], newest["notification_id"]);
    let path = format!("/api/conversations/{id}/read");
    for (message, seq, unread) in [(&messages[0], 1, 1), (&messages[1], 2, 0)] {
        stack.post(&path, 2, json!({"message_id": message})).await.expect(204);
        let frame = list.next_of("read").await;
        assert_eq!((&frame["conversation_id"], &frame["user_id"]), (&json!(id), &json!(2)));
        assert_eq!((&frame["message_id"], &frame["seq"]), (message, &json!(seq)));
        assert_eq!(frame["unread_count"], unread);
        assert!(frame["read_at"].is_string() && frame.get("notification_id").is_none(), "{frame}");
        loop {
            let event = everything.next().await;
            if event["data"]["conversation_id"] == id && event["data"]["type"] == "read" {
                assert_eq!((&event["channel"], &event["data"]), (&json!("notifications"), &frame));
                break;
            }
        }
    }
    // A send marks earlier messages as read. The user's other sockets receive that marker, too.
    ada.send(json!({"message": "three"})).await;
    ada.next_of("message").await;
    list.next_of("message_received").await;
    let mut ben = stack.socket(&format!("/ws/chat/{id}/"), 2).await;
    ben.send(json!({"message": "four"})).await;
    let own = ben.next_of("message").await["message_id"].clone();
    let marker = loop {
        let frame = list.next_of("read").await;
        if frame.get("conversation_id").is_some() {
            break frame;
        }
    };
    assert_eq!(
        (&marker["message_id"], &marker["seq"], &marker["unread_count"]),
        (&own, &json!(4), &json!(0))
    );
    // Other users receive only their own markers, and the guide's page receives only notifications.
    loop {
        let frame = stranger.next().await;
        if frame["type"] == "message_received" {
            break;
        }
        assert_eq!((&frame["type"], &frame["user_id"]), (&json!("read"), &json!(1)), "{frame}");
    }
    stranger.expect_silence().await;
    for _ in 0..2 {
        assert_eq!(guide.next().await["type"], "message_received");
    }
}

#[tokio::test]
async fn deleted_streams_are_created_again() {
    let stack = Stack::start().await;
    let operator = stack.nats_options("operator").connect(stack.nats_urls("operator")).await.unwrap();
    let streams = async_nats::jetstream::new(operator);
    for stream in ["EVENTS_OUT", "CHAT"] {
        streams.delete_stream(stream).await.unwrap();
    }
    let report = json!({"user_id": 2, "reason": "spam"});
    stack.post("/api/reports", 1, report).await.expect(201);
    eventually("the report", || async {
        let stream = streams.get_stream("EVENTS_OUT").await.ok()?;
        (stream.cached_info().state.messages == 1).then_some(())
    })
    .await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    ada.send(json!({"message": "Bonjour!"})).await;
    let message = ada.next_of("message").await["message_id"].clone();
    received(&stack, 2, &message).await;
}

/// Peak memory of a process, in MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_largest_events_cost_a_bounded_amount_of_memory() {
    let mut stack = Stack::start().await;
    stack.kill(Kind::Notify, 0).await;
    let jetstream = async_nats::jetstream::new(stack.backend().await);
    let users: Vec<i64> = (1..=1_000).collect();
    for n in 0..4 {
        let data = json!({"n": n, "fill": "x".repeat(56 * 1024)});
        publish(&jetstream, "events.payment_completed", &json!({"user_ids": users, "data": data})).await;
    }
    stack.restart(Kind::Notify, 0);
    stack.ready().await;
    for user in [1, 1_000] {
        eventually("the notifications", || async {
            let unread = stack.get("/api/notifications/unread_count", user).await;
            (unread["unread_count"] == 4).then_some(())
        })
        .await;
    }
    let peak = peak_memory(stack.pid(Kind::Notify, 0));
    assert!(peak < 120, "notify-service used {peak} MiB");
}

#[tokio::test]
async fn a_marker_that_a_crashed_notify_service_did_not_publish_is_delivered() {
    let mut stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut list = stack.socket("/ws/notifications/?after=latest", 2).await;
    ada.say("one").await;
    let shown = list.next_of("message_received").await;
    let pool = sqlx::PgPool::connect(&stack.database.url()).await.unwrap();
    // Simulates a notify-service that is killed between its commit and the publication.
    stack.nats.kill().await;
    let marker = json!({
        "conversation_id": id, "user_id": 2, "message_id": shown["data"]["message_id"], "seq": 1,
        "read_at": "2025-12-09T10:30:00.123456Z",
    });
    sqlx::query("update notify.inboxes set moves = moves + 1, last_moved = $1 where user_id = 2")
        .bind(marker.to_string())
        .execute(&pool)
        .await
        .unwrap();
    stack.nats.restart().await.unwrap();
    let frame = list.next_of("read").await;
    assert_eq!((&frame["conversation_id"], &frame["seq"]), (&json!(id), &json!(1)));
    assert!(frame.get("unread_count").is_none(), "{frame}");
}
