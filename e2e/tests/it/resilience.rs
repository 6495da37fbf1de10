use crate::{unread, wait_for_unread};
use e2e::{Kind, Options, Stack, eventually, within};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::Signal;

#[tokio::test]
async fn a_send_is_refused_as_unavailable_until_the_service_is_back() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    stack.kill(Kind::Chat, 0).await;
    let started = Instant::now();
    ada.send(json!({"message": "lost?", "client_id": "c1"})).await;
    let error = ada.next().await;
    assert_eq!((&error["code"], &error["client_id"]), (&json!("unavailable"), &json!("c1")));
    // The deadline of a send is 5 s.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    stack.restart(Kind::Chat, 0);
    stack.ready().await;
    ada.send(json!({"message": "lost?", "client_id": "c1"})).await;
    assert_eq!(ada.next().await["seq"], 1);
}

#[tokio::test]
async fn a_killed_chat_service_is_not_noticed_if_another_runs() {
    let mut stack = Stack::with(Options { counts: [1, 2, 1, 1], ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    for seq in 1..=30 {
        if seq == 10 {
            stack.kill(Kind::Chat, 0).await;
        }
        ada.say(&seq.to_string()).await;
        assert_eq!(ada.next().await["content"], seq.to_string());
        assert_eq!(ben.next().await["seq"], seq);
    }
}

#[tokio::test]
async fn a_send_that_the_gateway_repeats_is_delivered_once() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut guide = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    stack.signal(Kind::Chat, 0, Signal::Stop);
    guide.say("once").await;
    // The first request still waits in NATS when the gateway abandons it and sends a second one.
    let repeated = || async {
        let failed = stack.metric(Kind::Gateway, 0, "gateway_send_batches_failed_total").await;
        (failed >= 1.0).then_some(())
    };
    eventually("the gateway to repeat the request", repeated).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.signal(Kind::Chat, 0, Signal::Cont);
    assert_eq!(guide.next().await["content"], "once");
    guide.say("done").await;
    assert_eq!(guide.next().await["content"], "done");
}

#[tokio::test]
async fn a_notification_stored_while_a_socket_joins_is_delivered() {
    let stack = Stack::with(Options { counts: [1, 1, 0, 1], ..Options::default() }).await;
    let backend = stack.backend().await;
    // A fake notify-service: a notification is stored between the page and the head of its replies.
    let mut requests = backend.subscribe("notify.notifications.page").await.unwrap();
    let client = backend.clone();
    let responder = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let page: Value = serde_json::from_slice(&request.payload).unwrap();
            let head =
                if page["limit"] == 0 { json!({"seq": 0, "id": 0}) } else { json!({"seq": 1, "id": 10}) };
            let reply = json!({"page": {"items": [], "next": null}, "head": head, "unread_count": 0});
            client.publish(request.reply.unwrap(), reply.to_string().into()).await.unwrap();
        }
    });
    let mut ada = stack.socket("/ws/notifications/?after=0", 1).await;
    ada.send(json!({"type": "nonsense"})).await;
    assert_eq!(ada.next().await["type"], "error", "the replay has ended");
    let stored = json!({
        "type": "payment_completed", "notification_id": 10, "seq": 1, "title": "", "message": "", "data": {},
        "created_at": "2025-12-09T10:30:00.123456Z", "is_read": false, "unread_count": 1,
    });
    backend.publish("notify.event.1", stored.to_string().into()).await.unwrap();
    assert_eq!(ada.next().await["seq"], 1);
    responder.abort();
}

#[tokio::test]
async fn services_recover_after_nats_is_killed() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    ada.say("before").await;
    assert_eq!(ben.next().await["seq"], 1);
    assert_eq!(ada.next().await["seq"], 1);
    stack.nats.kill().await;
    let is_unready = || async { (stack.readyz(Kind::Chat, 0).await == Some(503)).then_some(()) };
    eventually("chat-service to be unready", is_unready).await;
    stack.nats.restart().await.unwrap();
    stack.ready().await;
    let message = send_until_stored(&mut ada, "after").await;
    assert_eq!(message["seq"], 2);
    assert_eq!(ben.next().await["content"], "after");
    // Notifications work again, too.
    wait_for_unread(&stack, 2, 1, 2).await;
}

async fn send_until_stored(socket: &mut e2e::Socket, text: &str) -> Value {
    loop {
        socket.send(json!({"message": text, "client_id": text})).await;
        let frame = socket.next().await;
        if frame["type"] == "message" {
            return frame;
        }
        assert_eq!(frame["code"], "unavailable", "{frame}");
    }
}

#[tokio::test]
async fn a_service_that_waits_for_nats_at_its_start_is_unready() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    stack.terminate(Kind::Typing, 0).await;
    stack.nats.kill().await;
    stack.restart(Kind::Typing, 0);
    let starting = || async { (stack.readyz(Kind::Typing, 0).await == Some(503)).then_some(()) };
    eventually("status 503 at the start", starting).await;
    stack.nats.restart().await.unwrap();
    stack.ready().await;
}

#[tokio::test]
async fn a_stop_closes_sockets_with_1012_and_exits_0() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    // The gateway has sent a message to chat-service, which does not reply yet.
    stack.signal(Kind::Chat, 0, Signal::Stop);
    ada.say("the last").await;
    let is_sent = async || {
        stack.metrics(Kind::Gateway, 0).await.contains("gateway_send_batch_messages_count 1").then_some(())
    };
    eventually("the message to be sent to chat-service", is_sent).await;
    stack.signal(Kind::Gateway, 0, Signal::Term);
    stack.signal(Kind::Chat, 0, Signal::Cont);
    let (code, closed) = tokio::join!(stack.wait_for_exit(Kind::Gateway, 0), async {
        assert_eq!(ada.next().await["content"], "the last", "a send in progress is completed");
        ada.closed().await
    });
    assert_eq!((code, closed), (Some(0), Some(1012)));
    for kind in [Kind::Chat, Kind::Notify, Kind::Typing] {
        assert_eq!(stack.terminate(kind, 0).await, Some(0), "{kind:?}");
    }
}

#[tokio::test]
async fn messages_that_a_crashed_chat_service_did_not_publish_are_published_by_another() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ben = stack.socket(&format!("/ws/chat/{id}/"), 2).await;
    ben.expect_silence().await;
    // Simulates a chat-service that was killed right after its commit: the rows exist, but no event was published.
    let mut database =
        <sqlx::PgConnection as sqlx::Connection>::connect(&stack.database.url()).await.unwrap();
    let store = "select chat.store_messages(array[$1::bigint], array[1::bigint], array[null::text], array['orphan'], array['k'])";
    sqlx::query("set search_path = chat").execute(&mut database).await.unwrap();
    sqlx::query(store).bind(id).execute(&mut database).await.unwrap();
    assert_eq!(ben.next().await["content"], "orphan");
    let notified = || async {
        (stack.get("/api/notifications/unread_count", 2).await["unread_count"] == 1).then_some(())
    };
    eventually("the notification", notified).await;
    let mut outbox_rows =
        async || sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&mut database).await;
    within("the outbox to be empty", async {
        while outbox_rows().await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A marker that a crashed chat-service did not publish reaches notify-service after later messages, which it counted from
/// the marker before.
#[tokio::test]
async fn the_count_of_a_notification_is_right_after_a_crashed_chat_service_did_not_publish_a_marker() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut ben = stack.socket("/ws/notifications/?after=latest", 2).await;
    let mut sent = Vec::new();
    for text in ["one", "two"] {
        ada.send(json!({"message": text})).await;
        sent.push(ada.next_of("message").await["message_id"].as_i64().unwrap());
    }
    let newest = |shown: &Value| (shown["data"]["message_id"].as_i64(), shown["data"]["count"].as_i64());
    while newest(&ben.next_of("message_received").await) != (Some(sent[1]), Some(2)) {}
    let mut database =
        <sqlx::PgConnection as sqlx::Connection>::connect(&stack.database.url()).await.unwrap();
    let query = "select from chat.mark_read($1, 2, $2)";
    sqlx::query("set search_path = chat").execute(&mut database).await.unwrap();
    // The marker must not be published before the next message has its notification: its row becomes stale only then.
    let mut transaction = sqlx::Connection::begin(&mut database).await.unwrap();
    sqlx::query(query).bind(id).bind(sent[1]).execute(&mut *transaction).await.unwrap();
    let later = "update outbox set created_at = now() + interval '1 hour' where reader = 2";
    assert_eq!(sqlx::query(later).execute(&mut *transaction).await.unwrap().rows_affected(), 1);
    transaction.commit().await.unwrap();
    ada.send(json!({"message": "three"})).await;
    let third = ada.next_of("message").await["message_id"].as_i64();
    while newest(&ben.next_of("message_received").await).0 != third {}
    let old = "update outbox set created_at = now() - interval '10 seconds' where reader = 2";
    assert_eq!(sqlx::query(old).execute(&mut database).await.unwrap().rows_affected(), 1);
    let (mut marker, mut is_right) = (Value::Null, false);
    while marker.is_null() || !is_right {
        let frame = ben.next().await;
        match frame["type"].as_str() {
            Some("read") if frame["conversation_id"] == id => marker = frame,
            Some("message_received") => is_right = newest(&frame) == (third, Some(1)),
            _ => {}
        }
    }
    assert_eq!((&marker["seq"], &marker["unread_count"]), (&json!(2), &json!(1)));
}

/// Sends, events and revocations, on a cluster that loses one server after the other.
#[tokio::test]
async fn a_cluster_survives_the_loss_of_each_nats_server() {
    let mut stack = Stack::with(Options::cluster()).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben) = (stack.socket_at(0, &path, 1).await, stack.socket_at(1, &path, 2).await);
    let backend = stack.backend().await;
    let jetstream = async_nats::jetstream::new(backend.clone());
    for name in ["CHAT", "EVENTS", "EVENTS_OUT", "DEADLETTERS", "KV_REVOCATIONS"] {
        let is_replicated = || async {
            let stream = jetstream.get_stream(name).await.ok()?;
            (stream.cached_info().config.num_replicas == 3).then_some(())
        };
        eventually(&format!("three replicas of {name}"), is_replicated).await;
    }
    for server in 0..3 {
        stack.server(server).kill().await;
        // The clients of this server connect to the others.
        let message = send_until_stored(&mut ada, &format!("without {server}")).await;
        assert_eq!((&message["seq"], &ben.next().await["seq"]), (&json!(server + 1), &json!(server + 1)));
        let paid =
            json!({"user_id": 10, "event_id": format!("paid-{server}"), "data": {"payment_id": server}})
                .to_string();
        let stored = async || {
            jetstream.publish("events.payment_completed", paid.clone().into()).await.ok()?.await.ok()
        };
        eventually("the event to be stored", stored).await;
        let user = 20 + server;
        let mut revoked = stack.socket_at(1, "/ws/notifications/", user as i64).await;
        let revoke = || async {
            let answer =
                backend.request("sessions.revoke", json!({"user_id": user}).to_string().into()).await;
            answer.is_ok_and(|answer| answer.headers.is_none()).then_some(())
        };
        eventually("the revocation", revoke).await;
        assert_eq!(revoked.closed().await, Some(4401));
        stack.server(server).restart().await.unwrap();
        stack.ready().await;
    }
    let paid = async || (unread(&stack, 10).await.len() == 3).then_some(());
    eventually("three payments", paid).await;
    wait_for_unread(&stack, 2, 1, 3).await;
}
