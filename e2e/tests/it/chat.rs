use e2e::{Options, Stack, token_with};
use serde_json::{Value, json};

#[tokio::test]
async fn two_people_chat_as_in_the_guide() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[456, 457]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut john, mut mary) = (stack.socket(&path, 456).await, stack.socket(&path, 457).await);

    john.send(json!({"message": " Bonjour! ", "client_id": "3f6c"})).await;
    let (echo, shown) = (john.next().await, mary.next().await);
    assert_eq!(echo["type"], "message");
    assert_eq!(echo["conversation_id"], id);
    assert_eq!(echo["seq"], 1);
    assert_eq!(echo["sender_id"], 456);
    assert_eq!(echo["sender_username"], "name-456");
    assert_eq!(echo["content"], "Bonjour!");
    assert_eq!(echo["is_read"], false);
    assert_eq!(echo["client_id"], "3f6c");
    let created_at = echo["created_at"].as_str().unwrap();
    assert!(created_at.len() == 27 && created_at.ends_with('Z'), "{created_at}");
    let mut without = echo.clone();
    without.as_object_mut().unwrap().remove("client_id");
    assert_eq!(shown, without, "the other member receives the same without the client_id");

    mary.say("Salut John").await;
    assert_eq!(john.next().await["seq"], 2);
    assert_eq!(mary.next().await["content"], "Salut John");
}

#[tokio::test]
async fn every_socket_receives_the_same_order_without_a_gap() {
    let stack = Stack::with(Options { counts: [2, 2, 1, 1], ..Options::default() }).await;
    let id = stack.conversation(&[1, 2, 3, 4]).await;
    let path = format!("/ws/chat/{id}/");
    let mut sockets = Vec::new();
    for user in 1..=4 {
        for gateway in 0..2 {
            sockets.push(stack.socket_at(gateway, &path, user).await);
        }
    }
    for round in 0..25 {
        for (index, socket) in sockets.iter_mut().enumerate() {
            socket.say(&format!("{round} of {index}")).await;
        }
    }
    let mut first: Option<Vec<Value>> = None;
    for socket in &mut sockets {
        let mut seen = Vec::new();
        for seq in 1..=200 {
            let frame = socket.next().await;
            assert_eq!(frame["seq"], seq);
            seen.push(frame["message_id"].clone());
        }
        assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen);
        assert!(seen.is_sorted_by_key(|id| id.as_i64()), "message_id grows with seq");
    }
}

#[tokio::test]
async fn a_repeated_client_id_is_the_same_message() {
    let stack = Stack::with(Options { counts: [1, 2, 1, 1], ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket(&path, 1).await;
    for _ in 0..5 {
        ada.send(json!({"message": "once", "client_id": "c1"})).await;
        let frame = ada.next().await;
        assert_eq!((&frame["seq"], &frame["content"]), (&json!(1), &json!("once")));
    }
    // The same applies over HTTP and NATS, and another text does not change the stored message.
    let messages = format!("/api/conversations/{id}/messages");
    let repeat = stack.post(&messages, 1, json!({"message": "other", "client_id": "c1"})).await.expect(200);
    assert_eq!(repeat["content"], "once");
    let backend = stack.backend().await;
    let send = json!({"conversation_id": id, "sender_id": 1, "message": "again", "client_id": "c1"});
    let answer = backend.request("chat.messages.send", send.to_string().into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).unwrap()["seq"], 1);
    // Each sender has its own keys: the same key of another sender makes another message.
    stack.post(&messages, 2, json!({"message": "mine", "client_id": "c1"})).await.expect(201);
    assert_eq!(stack.get(&messages, 1).await["items"].as_array().unwrap().len(), 2);
    // The repeats caused no event; the next one is the message of the other sender.
    assert_eq!(ada.next().await["seq"], 2);
    ada.expect_silence().await;
}

#[tokio::test]
async fn after_replays_missed_messages_before_live_ones() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket(&path, 1).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ada.say(text).await;
        ids.push(ada.next().await["message_id"].as_i64().unwrap());
    }
    let mut ben = stack.socket(&format!("{path}?after={}", ids[0]), 2).await;
    assert_eq!(ben.next().await["content"], "two");
    assert_eq!(ben.next().await["content"], "three");
    ada.say("four").await;
    assert_eq!(ben.next().await["content"], "four");
    ben.expect_silence().await;
    let mut all = stack.socket(&format!("{path}?after=0"), 2).await;
    for seq in 1..=4 {
        assert_eq!(all.next().await["seq"], seq);
    }
    all.expect_silence().await;
}

#[tokio::test]
async fn a_read_moves_the_marker_only_forward_and_reaches_every_member() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben, mut phone) =
        (stack.socket(&path, 1).await, stack.socket(&path, 2).await, stack.socket(&path, 2).await);
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ada.say(text).await;
        ids.push(ada.next().await["message_id"].as_i64().unwrap());
    }
    assert_eq!(stack.get("/api/unread", 2).await["messages"], 3);
    ben.send(json!({"type": "read", "message_id": ids[1]})).await;
    for socket in [&mut ben, &mut phone] {
        let read = socket.next_of("read").await;
        assert_eq!(
            (&read["user_id"], &read["seq"], &read["unread_count"]),
            (&json!(2), &json!(2), &json!(1))
        );
        assert_eq!(read["message_id"], ids[1]);
    }
    let read = ada.next_of("read").await;
    assert_eq!((&read["seq"], read.get("unread_count")), (&json!(2), None));
    // A read of an earlier message has no effect.
    ben.send(json!({"type": "read", "message_id": ids[0]})).await;
    ben.expect_silence().await;
    ada.expect_silence().await;
    assert_eq!(stack.get("/api/unread", 2).await["messages"], 1);
    let page = stack.get(&format!("/api/conversations/{id}/messages?after=0"), 1).await;
    let is_read: Vec<bool> =
        page["items"].as_array().unwrap().iter().map(|item| item["is_read"].as_bool().unwrap()).collect();
    assert_eq!(is_read, [true, true, false]);
    // A send moves the sender's own marker, without a `read` frame.
    ben.say("four").await;
    assert_eq!(ada.next().await["seq"], 4);
    ada.expect_silence().await;
    assert_eq!(stack.get("/api/unread", 2).await["messages"], 0);
    // A read of a message that isn't in this conversation.
    ben.send(json!({"type": "read", "message_id": ids[2] + 1000})).await;
    assert_eq!(ben.next_of("error").await["code"], "not_found");
}

#[tokio::test]
async fn a_socket_without_a_valid_token_or_membership_is_closed_with_a_code() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let host = stack.host(0);
    let bare = format!("ws://{host}/ws/chat/{id}/");
    assert_eq!(e2e::Socket::open(&bare).await.closed().await, Some(4401));
    assert_eq!(e2e::Socket::open(&format!("{bare}?token=nonsense")).await.closed().await, Some(4401));
    let expired = token_with(json!({"user_id": 1, "exp": 1_000_000_000}));
    assert_eq!(e2e::Socket::open(&format!("{bare}?token={expired}")).await.closed().await, Some(4401));
    for path in [format!("/ws/chat/{id}/"), format!("/ws/typing/{id}/")] {
        assert_eq!(stack.socket(&path, 3).await.closed().await, Some(4403), "{path} of other users");
    }
    for path in ["/ws/chat/999999/", "/ws/chat/0/", "/ws/chat/99999999999999999999/", "/ws/typing/999999/"] {
        assert_eq!(stack.socket(path, 3).await.closed().await, Some(4403), "{path}");
    }
}

#[tokio::test]
async fn an_open_socket_accepts_a_fresh_token() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    ada.send(json!({"type": "auth", "token": e2e::token(1)})).await;
    assert!(ada.next_of("auth").await["expires_at"].is_string());
    ada.send(json!({"type": "auth", "token": e2e::token(2)})).await;
    assert_eq!(ada.next_of("error").await["code"], "unauthorized");
    ada.say("still here").await;
    assert_eq!(ada.next().await["content"], "still here");
}

#[tokio::test]
async fn one_socket_carries_every_channel() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let (mut ada, mut ben) = (stack.socket("/ws/", 1).await, stack.socket("/ws/", 2).await);
    for socket in [&mut ada, &mut ben] {
        for (reference, channel) in
            [(1, format!("chat/{id}")), (2, format!("typing/{id}")), (3, "notifications".into())]
        {
            socket.send(json!({"op": "subscribe", "channel": channel, "ref": reference})).await;
            assert_eq!(socket.next().await, json!({"op": "ok", "ref": reference}));
        }
    }
    ada.send(
        json!({"op": "send", "channel": format!("typing/{id}"), "data": {"is_typing": true}, "ref": "t"}),
    )
    .await;
    assert_eq!(ada.next().await, json!({"op": "ok", "ref": "t"}));
    let event = ben.next().await;
    assert_eq!((&event["op"], &event["channel"]), (&json!("event"), &json!(format!("typing/{id}"))));
    assert_eq!(event["data"]["is_typing"], true);
    let data = json!({"message": "hi", "client_id": "c"});
    ada.send(json!({"op": "send", "channel": format!("chat/{id}"), "data": data, "ref": 4})).await;
    let mut frames = [ada.next().await, ada.next().await];
    frames.sort_by_key(|frame| frame["op"].as_str().unwrap().to_owned());
    assert_eq!(frames[0]["data"]["client_id"], "c");
    assert_eq!(frames[1], json!({"op": "ok", "ref": 4}));
    // The message and its notification, in either order.
    let mut channels = [ben.next().await, ben.next().await];
    channels.sort_by_key(|frame| frame["channel"].as_str().unwrap().to_owned());
    assert_eq!(channels[0]["data"]["content"], "hi");
    assert_eq!(channels[1]["data"]["type"], "message_received");
    ben.send(json!({"op": "subscribe", "channel": "chat/424242", "ref": 5})).await;
    let refused = ben.next().await;
    assert_eq!(
        (&refused["op"], &refused["ref"], &refused["code"]),
        (&json!("error"), &json!(5), &json!("forbidden"))
    );
    ben.send(json!({"op": "unsubscribe", "channel": format!("chat/{id}"), "ref": 6})).await;
    assert_eq!(ben.next().await, json!({"op": "ok", "ref": 6}));
}
