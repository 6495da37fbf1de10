use e2e::{Socket, Stack, eventually, token, token_with, within};
use serde_json::{Value, json};

#[tokio::test]
async fn a_plain_publish_creates_a_notification_as_in_the_guide() {
    let stack = Stack::start().await;
    let mut john = stack.socket("/ws/notifications/", 456).await;
    let backend = stack.backend().await;
    let event = json!({"user_id": 456, "data": {"payment_id": 789}});
    backend.publish("events.payment_completed", event.to_string().into()).await.unwrap();
    let shown = john.next().await;
    assert_eq!(shown["type"], "payment_completed");
    assert_eq!(shown["title"], "Paiement confirmé");
    assert_eq!(shown["message"], "Votre paiement a été traité");
    assert_eq!(shown["data"], json!({"payment_id": 789}));
    assert_eq!(
        (&shown["seq"], &shown["unread_count"], &shown["is_read"]),
        (&json!(1), &json!(1), &json!(false))
    );
    let event = json!({"user_id": 456, "data": {"listing_id": 1}, "lang": "en"});
    backend.publish("events.listing_published", event.to_string().into()).await.unwrap();
    assert_eq!(john.next().await["title"], "Listing published");
    let page = stack.get("/api/notifications", 456).await;
    let kinds: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["listing_published", "payment_completed"]);
}

#[tokio::test]
async fn notifications_are_in_the_users_latest_language() {
    let stack = Stack::start().await;
    let backend = stack.backend().await;
    let publish = async |users: &[i64]| {
        let event = json!({"user_ids": users}).to_string();
        backend.publish("events.payment_completed", event.into()).await.unwrap();
    };
    let open = async |token: String, accepts: &str| {
        let url = format!("ws://{}/ws/notifications/?token={token}", stack.host(0));
        Socket::try_open(&url, &[("accept-language", accepts)]).await.unwrap()
    };
    let (fr, en) = ("Paiement confirmé", "Payment confirmed");
    let mut ada = open(token(1), "en-GB,en;q=0.9,fr;q=0.8").await;
    let mut ben = open(token_with(json!({"user_id": 2, "lang": "fr"})), "en").await;
    let mut zoe = open(token(3), "<script>alert(1)</script>").await;
    let until = async |user: i64, socket: &mut Socket, title: &str| {
        let switched = async {
            loop {
                publish(&[user]).await;
                if socket.next().await["title"] == title {
                    return;
                }
            }
        };
        within(title, switched).await;
    };
    // The language of a socket may become known after an event.
    until(1, &mut ada, en).await;
    publish(&[2, 3]).await;
    assert_eq!(ben.next().await["title"], fr, "the token takes precedence over the header");
    assert_eq!(zoe.next().await["title"], fr, "an invalid language is ignored");
    // Any socket or call of the user can set the language.
    let mut everything = Socket::open(&format!(
        "ws://{}/ws/?token={}",
        stack.host(0),
        token_with(json!({"user_id": 2, "lang": "en"}))
    ))
    .await;
    let call = stack.http().get(format!("http://{}/api/unread", stack.host(0)));
    call.bearer_auth(token(3)).header("accept-language", "en").send().await.unwrap();
    until(2, &mut ben, en).await;
    until(3, &mut zoe, en).await;
    let fresh = token_with(json!({"user_id": 2, "lang": "fr"}));
    everything.send(json!({"op": "auth", "token": fresh, "ref": 1})).await;
    until(2, &mut ben, fr).await;
}

#[tokio::test]
async fn a_read_that_a_crashed_notify_service_did_not_publish_is_delivered() {
    let mut stack = Stack::start().await;
    let backend = stack.backend().await;
    let mut ada = stack.socket("/ws/notifications/?after=latest", 1).await;
    for _ in 0..2 {
        backend.publish("events.payment_completed", r#"{"user_id":1}"#.into()).await.unwrap();
    }
    let (first, second) = (ada.next().await, ada.next().await);
    // Simulates a notify-service that is killed between its commit and the publication.
    let pool = sqlx::PgPool::connect(&stack.database.url()).await.unwrap();
    stack.nats.kill().await;
    sqlx::raw_sql(
        "update notify.notifications set read_at = now() where seq = 1;
        update notify.inboxes set unread_count = 1, last_read_at = now(),
            last_read_id = (select notification_id from notify.notifications where seq = 1)",
    )
    .execute(&pool)
    .await
    .unwrap();
    stack.nats.restart().await.unwrap();
    let read = ada.next_of("read").await;
    assert_eq!((&read["notification_id"], &read["unread_count"]), (&first["notification_id"], &json!(1)));
    // A socket that resumes receives it, too.
    let after = format!("/ws/notifications/?after={}", second["notification_id"]);
    let mut back = stack.socket(&after, 1).await;
    assert_eq!(back.next().await, read);
    ada.expect_silence().await;
}

#[tokio::test]
async fn a_message_notifies_the_other_members_until_they_read_it() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ben = stack.socket("/ws/notifications/?after=latest", 2).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    ada.say("one").await;
    let first = ben.next().await;
    assert_eq!(first["type"], "message_received");
    assert_eq!(first["title"], "Nouveau message");
    assert_eq!(first["message"], "name-1 a envoyé un message");
    assert_eq!(first["data"]["conversation_id"], id);
    ada.say("two").await;
    let second = ben.next().await;
    assert_eq!(second["replaces"], first["notification_id"]);
    assert_eq!((&second["data"]["count"], &second["unread_count"]), (&json!(2), &json!(1)));
    let message = second["data"]["message_id"].clone();
    let read = stack.post(&format!("/api/conversations/{id}/read"), 2, json!({"message_id": message})).await;
    read.expect(204);
    let frame = ben.next().await;
    assert_eq!((&frame["type"], &frame["unread_count"]), (&json!("read"), &json!(0)));
    assert_eq!(frame["notification_id"], second["notification_id"]);
    let counts = json!({"unread_count": 0, "unseen_count": 0});
    assert_eq!(stack.get("/api/notifications/unread_count", 2).await, counts);
}

#[tokio::test]
async fn the_guides_page_receives_only_notifications() {
    let stack = Stack::start().await;
    let mut guide = stack.socket("/ws/notifications/", 5).await;
    let mut modern = stack.socket("/ws/notifications/?after=latest", 5).await;
    let backend = stack.backend().await;
    let publish = async |payment: i64| {
        let event = json!({"user_id": 5, "data": {"payment_id": payment}});
        backend.publish("events.payment_completed", event.to_string().into()).await.unwrap();
    };
    publish(1).await;
    let id = guide.next().await["notification_id"].clone();
    assert_eq!(modern.next().await["notification_id"], id);
    modern.send(json!({"type": "read", "notification_id": id})).await;
    assert_eq!(modern.next().await["type"], "read");
    publish(2).await;
    assert_eq!(guide.next().await["data"]["payment_id"], 2, "the guide's page does not receive the read");
    assert_eq!(modern.next().await["unread_count"], 1);
    modern.send(json!({"type": "read_all"})).await;
    let read = modern.next().await;
    assert_eq!((&read["type"], &read["unread_count"]), (&json!("read"), &json!(0)));
    // `after` replays missed notifications.
    let mut back = stack.socket(&format!("/ws/notifications/?after={id}"), 5).await;
    let missed = back.next().await;
    assert_eq!((&missed["data"]["payment_id"], &missed["is_read"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn an_event_with_an_id_creates_one_notification_for_each_user() {
    let stack = Stack::start().await;
    let backend = stack.backend().await;
    let jetstream = async_nats::jetstream::new(backend);
    for _ in 0..3 {
        let event = json!({"user_ids": [7, 8, 7], "event_id": "e1", "data": {}});
        jetstream.publish("events.payment_completed", event.to_string().into()).await.unwrap().await.unwrap();
    }
    let event = json!({"user_id": 7, "data": {}, "title": "Fin", "message": "C'est tout"});
    jetstream.publish("events.done", event.to_string().into()).await.unwrap().await.unwrap();
    let page = eventually("the last event", || async {
        let page = stack.get("/api/notifications", 7).await;
        (page["items"][0]["type"] == "done").then_some(page)
    })
    .await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(stack.get("/api/notifications", 8).await["items"].as_array().unwrap().len(), 1);
}
