use e2e::{Kind, Options, Socket, Stack, token_with};
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::Signal;

#[tokio::test]
async fn other_members_see_one_start_and_one_end_of_typing() {
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
    // A socket that joins later receives the current state.
    let mut late = stack.socket_at(0, &path, 2).await;
    assert_eq!(late.next().await, start);
    ada.send(json!({"is_typing": false})).await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert_eq!(late.next().await["is_typing"], false);
    ben.expect_silence().await;
    ada.expect_silence().await;
}

#[tokio::test]
async fn typing_ends_after_6_seconds_or_with_the_users_last_socket() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/typing/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let tab = stack.socket(&path, 1).await;
    let started = Instant::now();
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(started.elapsed().as_millis() > 5_900, "ended after {:?}", started.elapsed());
    let started = Instant::now();
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    ada.close().await;
    // Typing continues because the user has another tab open. It ends with the last one.
    ben.expect_silence().await;
    tab.close().await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(started.elapsed().as_millis() < 5_500, "ended after {:?}", started.elapsed());
}

/// Longer than typing lasts without a renewal.
const TOO_LONG: Duration = Duration::from_secs(9);

#[tokio::test]
async fn stale_typing_input_in_a_service_is_not_shown() {
    let stack = Stack::with(Options::one_of_each()).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2, 3]).await);
    let (mut ada, mut ben, mut eve) =
        (stack.socket(&path, 1).await, stack.socket(&path, 2).await, stack.socket(&path, 3).await);
    stack.signal(Kind::Typing, 0, Signal::Stop);
    ada.send(json!({"is_typing": true})).await;
    ada.expect_silence().await;
    tokio::time::sleep(TOO_LONG).await;
    stack.signal(Kind::Typing, 0, Signal::Cont);
    // The service processes inputs in order.
    eve.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["user_id"], 3);
    assert_eq!(ben.next().await["user_id"], 3, "the end of user 3's typing");
    assert_eq!(stack.metric(Kind::Typing, 0, "typing_stale_total{what=\"input\"}").await, 1.0);
}

#[tokio::test]
async fn stale_typing_input_in_nats_is_not_shown() {
    let stack = Stack::with(Options::one_of_each()).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2, 3]).await);
    let (mut ada, mut ben, mut eve) =
        (stack.socket(&path, 1).await, stack.socket(&path, 2).await, stack.socket(&path, 3).await);
    stack.nats.stop();
    ada.send(json!({"is_typing": true})).await;
    ada.expect_silence().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    stack.nats.cont();
    // Inputs may be lost until the connections are restored. Stale inputs would arrive before this one.
    let shown = async {
        loop {
            eve.send(json!({"is_typing": true})).await;
            if let Ok(frame) = tokio::time::timeout(Duration::from_millis(500), ben.next()).await {
                return frame;
            }
        }
    };
    assert_eq!(e2e::within("typing", shown).await["user_id"], 3);
    assert_eq!(ben.next().await["user_id"], 3, "the end of user 3's typing");
}

/// Opens a socket of user 1 with this name in the token.
async fn open_as(stack: &Stack, path: &str, name: &str) -> Socket {
    let token = token_with(json!({"user_id": 1, "username": name}));
    Socket::open(&format!("ws://{}{path}?token={token}", stack.host(0))).await
}

#[tokio::test]
async fn typing_uses_the_name_in_the_newest_token() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[1, 2]).await;
    let (path, channel) = (format!("/ws/typing/{conversation}/"), format!("typing/{conversation}"));
    let mut ben = stack.socket(&path, 2).await;
    let fresh = token_with(json!({"user_id": 1, "username": "Anna"}));
    let mut single = open_as(&stack, &path, "Ann").await;
    single.send(json!({"type": "auth", "token": &fresh})).await;
    assert_eq!(single.next().await["type"], "auth");
    single.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["username"], "Anna");
    single.send(json!({"is_typing": false})).await;
    assert_eq!(ben.next().await["username"], "Anna");
    single.close().await;

    let mut several = open_as(&stack, "/ws/", "Ann").await;
    for frame in [
        json!({"op": "subscribe", "channel": &channel, "ref": 1}),
        json!({"op": "auth", "token": &fresh, "ref": 2}),
    ] {
        let reference = frame["ref"].clone();
        several.send(frame).await;
        while several.next().await["ref"] != reference {}
    }
    // The `ok` of the subscription can arrive before the channel accepts typing.
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
async fn typing_ends_with_the_name_with_which_it_started() {
    let stack = Stack::with(Options { counts: [1, 1, 1, 2], ..Options::default() }).await;
    let path = format!("/ws/typing/{}/", stack.conversation(&[1, 2]).await);
    let mut ben = stack.socket(&path, 2).await;
    let (mut ann, mut anna) = (open_as(&stack, &path, "Ann").await, open_as(&stack, &path, "Anna").await);
    ann.send(json!({"is_typing": true})).await;
    let start = ben.next().await;
    assert_eq!((&start["username"], &start["is_typing"]), (&json!("Ann"), &json!(true)));
    // Renewals are sent once a second. The second typing-service may receive this one.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    anna.send(json!({"is_typing": true})).await;
    let mut late = stack.socket(&path, 2).await;
    assert_eq!(late.next().await["username"], "Ann");
    anna.send(json!({"is_typing": false})).await;
    for socket in [&mut ben, &mut late] {
        let end = socket.next().await;
        assert_eq!((&end["username"], &end["is_typing"]), (&json!("Ann"), &json!(false)));
    }
    // The next start has the new name.
    anna.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["username"], "Anna");
}
