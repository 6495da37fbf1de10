use e2e::{Kind, Options, Socket, Stack, token_with};
use serde_json::json;
use std::time::Duration;
use testkit::Signal;

#[tokio::test]
async fn typing_starts_and_ends_once_and_only_for_the_others() {
    let stack = Stack::with(Options { counts: [2, 1, 1, 2], ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/typing/{id}/");
    let (mut ada, mut ben) = (stack.socket_at(0, &path, 1).await, stack.socket_at(1, &path, 2).await);
    for _ in 0..20 {
        ada.send(json!({"is_typing": true})).await;
    }
    let start = ben.next().await;
    assert_eq!(
        start,
        json!({"type": "typing", "conversation_id": id, "user_id": 1, "username": "name-1", "is_typing": true})
    );
    // Who joins is told.
    let mut late = stack.socket_at(0, &path, 2).await;
    assert_eq!(late.next().await, start);
    ada.send(json!({"is_typing": false})).await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert_eq!(late.next().await["is_typing"], false);
    ben.expect_silence().await;
    ada.expect_silence().await;
}

#[tokio::test]
async fn typing_ends_by_silence_and_by_leaving() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/typing/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let tab = stack.socket(&path, 1).await;
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    let started = std::time::Instant::now();
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(started.elapsed().as_millis() > 5_900, "ended after {:?}", started.elapsed());
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    ada.close().await;
    // The user has another tab open: nothing ends yet. With the last one it does.
    ben.expect_silence().await;
    let left = std::time::Instant::now();
    tab.close().await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(left.elapsed().as_millis() < 3_000, "ended after {:?}", left.elapsed());
}

/// Longer than typing lasts.
const TOO_LONG: Duration = Duration::from_secs(9);

#[tokio::test]
async fn typing_that_waited_for_too_long_in_a_service_is_not_shown() {
    let stack = Stack::with(Options::one_of_each()).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2, 3]).await);
    let (mut ada, mut ben, mut eve) =
        (stack.socket(&path, 1).await, stack.socket(&path, 2).await, stack.socket(&path, 3).await);
    stack.signal(Kind::Typing, 0, Signal::Stop);
    ada.send(json!({"is_typing": true})).await;
    ada.expect_silence().await;
    tokio::time::sleep(TOO_LONG).await;
    stack.signal(Kind::Typing, 0, Signal::Cont);
    // Inputs are taken in their order.
    eve.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["user_id"], 3);
    assert_eq!(ben.next().await["user_id"], 3, "it ends, and nobody else has typed");
    assert_eq!(stack.metric(Kind::Typing, 0, "typing_stale_total{what=\"input\"}").await, 1.0);
}

#[tokio::test]
async fn typing_that_waited_for_too_long_in_nats_is_not_shown() {
    let stack = Stack::with(Options::one_of_each()).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2, 3]).await);
    let (mut ada, mut ben, mut eve) =
        (stack.socket(&path, 1).await, stack.socket(&path, 2).await, stack.socket(&path, 3).await);
    stack.nats.stop();
    ada.send(json!({"is_typing": true})).await;
    ada.expect_silence().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    stack.nats.cont();
    // Until the connections are back, inputs may be lost. What waited comes before.
    let shown = async {
        loop {
            eve.send(json!({"is_typing": true})).await;
            if let Ok(frame) = tokio::time::timeout(Duration::from_millis(500), ben.next()).await {
                return frame;
            }
        }
    };
    assert_eq!(e2e::within("typing", shown).await["user_id"], 3);
    assert_eq!(ben.next().await["user_id"], 3, "it ends, and nobody else has typed");
}

/// A socket of user 1 under this name.
async fn named(stack: &Stack, path: &str, name: &str) -> Socket {
    let token = token_with(json!({"user_id": 1, "username": name}));
    Socket::open(&format!("ws://{}{path}?token={token}", stack.host(0))).await
}

#[tokio::test]
async fn a_fresh_token_names_the_typist_anew() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[1, 2]).await;
    let (path, channel) = (format!("/ws/typing/{conversation}/"), format!("typing/{conversation}"));
    let mut ben = stack.socket(&path, 2).await;
    let fresh = token_with(json!({"user_id": 1, "username": "Anna"}));
    let mut single = named(&stack, &path, "Ann").await;
    single.send(json!({"type": "auth", "token": &fresh})).await;
    assert_eq!(single.next().await["type"], "auth");
    single.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["username"], "Anna");
    single.send(json!({"is_typing": false})).await;
    assert_eq!(ben.next().await["username"], "Anna");
    single.close().await;

    let mut several = named(&stack, "/ws/", "Ann").await;
    for frame in [
        json!({"op": "subscribe", "channel": &channel, "ref": 1}),
        json!({"op": "auth", "token": &fresh, "ref": 2}),
    ] {
        let reference = frame["ref"].clone();
        several.send(frame).await;
        while several.next().await["ref"] != reference {}
    }
    // The subscription's `ok` comes before there is a place to type.
    loop {
        several.send(json!({"op": "send", "channel": &channel, "data": {"is_typing": true}, "ref": 3})).await;
        match several.next().await["op"].as_str() {
            Some("ok") => break,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert_eq!(ben.next().await["username"], "Anna");
}

#[tokio::test]
async fn typing_ends_under_the_name_under_which_it_began() {
    let stack = Stack::with(Options { counts: [1, 1, 1, 2], ..Options::default() }).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2]).await);
    let mut ben = stack.socket(&path, 2).await;
    let (mut ann, mut anna) = (named(&stack, &path, "Ann").await, named(&stack, &path, "Anna").await);
    ann.send(json!({"is_typing": true})).await;
    let start = ben.next().await;
    assert_eq!((&start["username"], &start["is_typing"]), (&json!("Ann"), &json!(true)));
    // Renewals go out once a second; the second typing-service may take this one.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    anna.send(json!({"is_typing": true})).await;
    let mut late = stack.socket(&path, 2).await;
    assert_eq!(late.next().await["username"], "Ann");
    anna.send(json!({"is_typing": false})).await;
    for socket in [&mut ben, &mut late] {
        let end = socket.next().await;
        assert_eq!((&end["username"], &end["is_typing"]), (&json!("Ann"), &json!(false)));
    }
    // From the next start on it is the new one.
    anna.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["username"], "Anna");
}
