//! The multiplexed socket: subscriptions are independent of each other, and a pending send delays no other command.

use crate::crowds::memory;
use e2e::{Kind, Options, Socket, Stack, token, within};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use testkit::Signal;
use tokio_tungstenite::tungstenite::Message;

async fn conversation_with_messages(stack: &Stack, messages: usize, text: &str) -> i64 {
    let id = stack.conversation(&[1, 2]).await;
    for _ in 0..messages {
        let path = format!("/api/conversations/{id}/messages");
        stack.post(&path, 1, json!({"message": text})).await.expect(201);
    }
    id
}

/// Returns the frames before the reply with this `ref`, and that reply.
async fn until_reply(socket: &mut Socket, reference: i64) -> (Vec<Value>, Value) {
    let mut before = Vec::new();
    loop {
        let frame = socket.next().await;
        if frame["ref"] == reference {
            return (before, frame);
        }
        before.push(frame);
    }
}

fn seqs(frames: &[Value]) -> Vec<i64> {
    let messages = frames.iter().filter(|frame| frame["data"]["type"] == "message");
    messages.map(|frame| frame["data"]["seq"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_subscription_receives_only_its_own_replay() {
    let stack = Stack::start().await;
    let id = conversation_with_messages(&stack, 120, "hello").await;
    let channel = format!("chat/{id}");
    let subscribe =
        |reference: i64| json!({"op": "subscribe", "channel": channel, "after": 0, "ref": reference});
    let unsubscribe =
        |reference: i64| json!({"op": "unsubscribe", "channel": channel, "ref": reference}).to_string();
    for round in 0..10 {
        let mut socket = stack.socket("/ws/", 2).await;
        socket.send(subscribe(1)).await;
        if round % 2 == 0 {
            until_reply(&mut socket, 1).await; // In the other rounds, the subscription ends before it is admitted.
        }
        socket.send_text(unsubscribe(2)).await;
        socket.send(subscribe(3)).await;
        until_reply(&mut socket, 2).await;
        let (between, reply) = until_reply(&mut socket, 3).await;
        assert_eq!((seqs(&between), &reply["op"]), (vec![], &json!("ok")));
        for seq in 1..=120 {
            assert_eq!(socket.next().await["data"]["seq"], seq);
        }
        socket.send_text(unsubscribe(4)).await;
        until_reply(&mut socket, 4).await;
        socket.expect_silence().await;
    }
}

#[tokio::test]
async fn three_frames_in_one_write_are_three_commands() {
    let stack = Stack::start().await;
    let id = conversation_with_messages(&stack, 120, "hello").await;
    let mut socket = stack.socket("/ws/", 2).await;
    socket
        .send_together(&[
            json!({"op": "subscribe", "channel": format!("chat/{id}"), "after": 0, "ref": 1}),
            json!({"op": "unsubscribe", "channel": format!("chat/{id}"), "ref": 2}),
            json!({"op": "subscribe", "channel": format!("chat/{id}"), "after": 0, "ref": 3}),
        ])
        .await;
    until_reply(&mut socket, 1).await;
    until_reply(&mut socket, 2).await;
    until_reply(&mut socket, 3).await;
    for seq in 1..=120 {
        assert_eq!(socket.next().await["data"]["seq"], seq);
    }
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_late_refusal_ends_only_the_subscription_that_it_answers() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = conversation_with_messages(&stack, 3, "hello").await;
    let channel = format!("chat/{id}");
    let mut socket = stack.socket("/ws/", 2).await;
    stack.signal(Kind::Chat, 0, Signal::Stop);
    let start = Instant::now();
    socket.send(json!({"op": "subscribe", "channel": channel, "ref": 1})).await;
    // The first subscription is refused 5 s after its start. The second one is then already pending, and has most of
    // its time left when the service continues.
    tokio::time::sleep(Duration::from_millis(4_000).saturating_sub(start.elapsed())).await;
    socket.send(json!({"op": "unsubscribe", "channel": channel, "ref": 2})).await;
    socket.send(json!({"op": "subscribe", "channel": channel, "after": 0, "ref": 3})).await;
    until_reply(&mut socket, 2).await;
    tokio::time::sleep(Duration::from_millis(5_500).saturating_sub(start.elapsed())).await;
    stack.signal(Kind::Chat, 0, Signal::Cont);
    let (before, reply) = until_reply(&mut socket, 3).await;
    assert_eq!((before, &reply["op"]), (vec![], &json!("ok")));
    for seq in 1..=3 {
        assert_eq!(socket.next().await["data"]["seq"], seq);
    }
}

#[tokio::test]
async fn a_pending_send_delays_no_other_command_and_each_send_has_its_own_deadline() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut socket = stack.socket("/ws/", 1).await;
    let subscribe = |channel: String| json!({"op": "subscribe", "channel": channel, "ref": 9});
    for channel in [format!("chat/{id}"), format!("typing/{id}")] {
        socket.send(subscribe(channel)).await;
        until_reply(&mut socket, 9).await;
    }
    let typing = |is_typing: bool| {
        let data = json!({"is_typing": is_typing});
        json!({"op": "send", "channel": format!("typing/{id}"), "data": data, "ref": 6})
    };
    // The `ok` of the subscription can arrive before the channel accepts typing.
    within("the channel to accept typing", async {
        loop {
            socket.send(typing(false)).await;
            match until_reply(&mut socket, 6).await.1["op"].as_str() {
                Some("ok") => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    stack.signal(Kind::Chat, 0, Signal::Stop);
    let start = Instant::now();
    for reference in 1..=3 {
        let send = json!({"op": "send", "channel": format!("chat/{id}"), "ref": reference,
                          "data": {"message": "late", "client_id": reference.to_string()}});
        socket.send(send).await;
    }
    socket.send(json!({"op": "ping", "ref": 4})).await;
    socket.send(json!({"op": "auth", "token": token(1), "ref": 5})).await;
    socket.send(typing(true)).await;
    socket.send(json!({"op": "unsubscribe", "channel": format!("typing/{id}"), "ref": 7})).await;
    for reference in 4..=7 {
        let frame = socket.next().await;
        assert_eq!((&frame["op"], &frame["ref"]), (&json!("ok"), &json!(reference)));
    }
    socket.send_raw(Message::Ping(b"alive"[..].into())).await;
    assert!(within("a pong", socket.pong_before_frames()).await);
    for reference in 1..=3 {
        let frame = socket.next().await;
        assert_eq!((&frame["code"], &frame["ref"]), (&json!("unavailable"), &json!(reference)));
        assert_eq!(frame["client_id"], reference.to_string());
    }
    // One after another, they would take three times 5 s.
    assert!(
        start.elapsed() < Duration::from_secs(14),
        "{:?}: the sends waited for each other",
        start.elapsed()
    );
    stack.signal(Kind::Chat, 0, Signal::Cont);
    // Pending sends keep their order.
    let texts: Vec<String> = (1..=30).map(|number| number.to_string()).collect();
    for text in &texts {
        let send = json!({"op": "send", "channel": format!("chat/{id}"), "data": {"message": text}});
        socket.send(send).await;
    }
    let mut shown = Vec::new();
    while shown.len() < texts.len() {
        let frame = socket.next().await;
        shown.extend(frame["data"]["content"].as_str().map(str::to_owned));
    }
    assert_eq!(shown, texts);
}

#[tokio::test]
async fn a_single_channel_socket_handles_pings_and_closes_while_a_send_is_pending() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut socket = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    stack.signal(Kind::Chat, 0, Signal::Stop);
    for _ in 0..3 {
        socket.say("late").await;
    }
    // Both come before the sends are refused.
    socket.send_raw(Message::Ping(b"alive"[..].into())).await;
    assert!(within("a pong", socket.pong_before_frames()).await);
    socket.send_raw(Message::Close(None)).await;
    assert_eq!(within("a close", socket.receive()).await, Err(Some(1000)));
}

#[tokio::test]
async fn hello_is_the_first_frame_and_a_ping_gets_a_reply() {
    let stack = Stack::start().await;
    let mut socket = stack.socket("/ws/", 1).await;
    socket.send(json!({"op": "ping", "ref": "alive"})).await;
    assert_eq!(socket.next().await, json!({"op": "ok", "ref": "alive"}));
    let hello = socket.hello.take().unwrap();
    assert_eq!((&hello["op"], &hello["user_id"]), (&json!("hello"), &json!(1)));
    assert!(hello["server_time"].as_str() < hello["expires_at"].as_str(), "{hello}");
}

#[tokio::test]
async fn the_error_of_a_send_carries_its_client_id() {
    let stack = Stack::with(Options {
        env: vec![("FRAME_RATE", "1".to_owned()), ("FRAME_BURST", "4".to_owned())],
        ..Options::default()
    })
    .await;
    let id = stack.conversation(&[1, 2]).await;
    let mut socket = stack.socket("/ws/", 1).await;
    let sends = [
        (format!("chat/{id}"), "x".repeat(4_001), "message_too_long"),
        (format!("chat/{id}"), " ".to_owned(), "invalid_message"),
        ("chat/0".to_owned(), "hello".to_owned(), "invalid_message"),
        (format!("chat/{}", i64::MAX), "hello".to_owned(), "forbidden"),
        (format!("chat/{id}"), "hello".to_owned(), "rate_limited"),
    ];
    // Together, because another frame is allowed every second. Their answers come in any order.
    let frame = |(number, (channel, message, _)): (usize, &(String, String, &str))| {
        let data = json!({"message": message, "client_id": format!("k{number}")});
        json!({"op": "send", "channel": channel, "data": data, "ref": number})
    };
    let frames: Vec<Value> = sends.iter().enumerate().map(frame).collect();
    socket.send_together(&frames).await;
    let mut codes = BTreeMap::new();
    for _ in &sends {
        let error = socket.next().await;
        let number = error["ref"].as_u64().unwrap();
        assert_eq!(error["client_id"], format!("k{number}"), "{error}");
        codes.insert(number, error["code"].as_str().unwrap().to_owned());
    }
    assert!(codes.values().eq(sends.iter().map(|(_, _, code)| code)), "{codes:?}");
}

#[tokio::test]
async fn a_client_far_above_the_rate_of_frames_is_closed() {
    let stack = Stack::with(Options {
        env: vec![("FRAME_RATE", "100".to_owned()), ("FRAME_BURST", "200".to_owned())],
        ..Options::default()
    })
    .await;
    let id = stack.conversation(&[1, 2]).await;
    for path in [format!("/ws/chat/{id}/"), "/ws/".to_owned()] {
        let code = stack.socket(&path, 1).await.flood("{}", 100_000).await;
        assert_eq!(code, Some(4429), "{path}");
    }
}

#[tokio::test]
async fn ended_subscriptions_hold_no_memory() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = conversation_with_messages(&stack, 200, &"é".repeat(4_000)).await;
    let pid = stack.pid(Kind::Gateway, 0);
    let rest = memory(pid, "VmHWM");
    let mut socket = stack.socket("/ws/", 2).await;
    for _ in 0..500 {
        let op = |op: &str| json!({"op": op, "channel": format!("chat/{id}"), "after": 0, "ref": 1});
        socket.send_together(&[op("subscribe"), op("unsubscribe")]).await;
    }
    socket.send(json!({"op": "ping", "ref": 2})).await;
    // The client has not read until now. Either every command gets a reply, or the outbox was full.
    while let Ok(frame) = within("the reply to the ping", socket.receive()).await
        && frame["ref"] != 2
    {}
    let cost = memory(pid, "VmHWM").saturating_sub(rest) / 1024;
    assert!(cost < 64, "{cost} MiB");
}

#[tokio::test]
async fn a_socket_with_an_invalid_after_is_closed_with_4400() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    for after in ["undefined", "null", "", "-1", "1.5"] {
        let mut socket = stack.socket(&format!("/ws/chat/{id}/?after={after}"), 1).await;
        assert_eq!(socket.closed().await, Some(4400), "{after}");
    }
}

#[tokio::test]
async fn messages_sent_before_a_close_are_stored() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    for path in [format!("/ws/chat/{id}/"), "/ws/".to_owned()] {
        let mut socket = stack.socket(&path, 1).await;
        let texts: Vec<String> = (1..=5).map(|number| format!("{path} {number}")).collect();
        let frames: Vec<Value> = texts
            .iter()
            .map(|text| match path.as_str() {
                "/ws/" => json!({"op": "send", "channel": format!("chat/{id}"), "data": {"message": text}}),
                _ => json!({ "message": text }),
            })
            .collect();
        let mut other = stack.socket(&format!("/ws/chat/{id}/"), 2).await;
        socket.send_together(&frames).await;
        socket.send_raw(Message::Close(None)).await;
        for text in texts {
            assert_eq!(other.next().await["content"], text);
        }
    }
}

#[tokio::test]
async fn a_subscription_does_not_wait_for_subscriptions_to_another_service() {
    let stack = Stack::with(Options::one_of_each()).await;
    let mut socket = stack.socket("/ws/", 1).await;
    stack.signal(Kind::Chat, 0, Signal::Stop);
    for reference in 1..=40 {
        let channel = format!("chat/{}", 1_000 + reference);
        socket.send(json!({"op": "subscribe", "channel": channel, "ref": reference})).await;
    }
    socket.send(json!({"op": "subscribe", "channel": "notifications", "ref": 99})).await;
    let first = socket.next().await;
    assert_eq!((&first["op"], &first["ref"]), (&json!("ok"), &json!(99)), "{first}");
    for number in 1..=40 {
        // Subscriptions that started later than the others would now be answered by the service.
        if number == 33 {
            stack.signal(Kind::Chat, 0, Signal::Cont);
        }
        assert_eq!(socket.next().await["code"], "unavailable", "{number}");
    }
}
