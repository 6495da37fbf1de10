use e2e::{Kind, Options, Socket, Stack, eventually, token, token_with, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

fn with(env: &[(&'static str, &str)]) -> Options {
    Options {
        env: env.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        ..Options::default()
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Reads a chat socket until each of these sends is accepted or refused. Returns the number of refusals.
async fn refusals_of(socket: &mut Socket, mut sends: BTreeSet<String>) -> usize {
    let mut refusals = 0;
    while !sends.is_empty() {
        let frame = socket.next().await;
        // The user's other socket sends as well; its messages are shown here, too.
        let Some(id) = frame["client_id"].as_str() else { panic!("{frame}") };
        if !sends.remove(id) {
            assert_eq!(frame["type"], "message", "{frame}");
        } else if frame["type"] != "message" {
            assert_eq!(frame["code"], "rate_limited", "{frame}");
            assert!(frame["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1_000).contains(&ms)), "{frame}");
            refusals += 1;
        }
    }
    refusals
}

#[tokio::test]
async fn a_users_rate_of_sends_is_limited_across_all_sockets() {
    let stack = Stack::with(with(&[("SEND_RATE", "1"), ("SEND_BURST", "10")])).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut phone, mut page) = (stack.socket(&path, 1).await, stack.socket(&path, 1).await);
    // No socket sends more than the burst. Everything is sent before the first answer is read, because another message
    // is allowed every second.
    let sends = |device: &str| (0..10).map(|number| format!("{device}-{number}")).collect::<BTreeSet<_>>();
    let frames = |sends: &BTreeSet<String>| -> Vec<Value> {
        sends.iter().map(|id| json!({"message": "hello", "client_id": id})).collect()
    };
    let (of_phone, of_page) = (sends("phone"), sends("page"));
    let (first, second) = (frames(&of_phone), frames(&of_page));
    tokio::join!(phone.send_together(&first), page.send_together(&second));
    let refused = refusals_of(&mut phone, of_phone).await + refusals_of(&mut page, of_page).await;
    assert!((1..=10).contains(&refused), "{refused} of 20 were refused");
    let messages = format!("/api/conversations/{id}/messages");
    let calls = join_all((0..40).map(|_| stack.post(&messages, 1, json!({"message": "x"})))).await;
    let refused: Vec<_> = calls.iter().filter(|call| call.status != 201).collect();
    assert!(!refused.is_empty(), "no call was refused");
    refused.iter().for_each(|call| call.expect_problem(429, "rate_limited"));
    // Other users are not affected.
    stack.post(&messages, 2, json!({"message": "x"})).await.expect(201);
    // A socket that continues to send is closed.
    for _ in 0..150 {
        if !page.try_send(json!({"message": "more"})).await {
            break;
        }
    }
    assert_eq!(page.closed().await, Some(4429));
}

#[tokio::test]
async fn rates_of_sends_in_one_conversation_and_of_typing_are_limited() {
    let stack = Stack::with(with(&[
        ("CONVERSATION_SEND_RATE", "1"),
        ("CONVERSATION_SEND_BURST", "2"),
        ("TYPING_RATE", "1"),
        ("TYPING_BURST", "3"),
    ]))
    .await;
    let (one, other) = (stack.conversation(&[1, 2]).await, stack.conversation(&[1, 3]).await);
    let (mut here, mut there) = (
        stack.socket(&format!("/ws/chat/{one}/"), 1).await,
        stack.socket(&format!("/ws/chat/{other}/"), 1).await,
    );
    for _ in 0..3 {
        here.say("hello").await;
    }
    let frames = [here.next().await, here.next().await, here.next().await];
    assert_eq!(frames.iter().filter(|frame| frame["seq"].is_number()).count(), 2);
    assert_eq!(frames.iter().filter(|frame| frame["code"] == "rate_limited").count(), 1);
    there.say("hello").await;
    assert_eq!(there.next().await["seq"], 1);

    let mut typist = stack.socket(&format!("/ws/typing/{one}/"), 1).await;
    for start in [true, false, true, false] {
        typist.send(json!({"is_typing": start})).await;
    }
    let refused = typist.next().await;
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
}

#[tokio::test]
async fn rates_of_calls_reads_and_subscriptions_are_limited() {
    let burst = [("CALL_BURST", "10"), ("READ_BURST", "2"), ("SUBSCRIBE_BURST", "20")];
    let rate = [("CALL_RATE", "1"), ("READ_RATE", "1"), ("SUBSCRIBE_RATE", "1")];
    let stack = Stack::with(with(&[rate, burst].concat())).await;
    let id = stack.conversation(&[1, 2]).await;
    let calls = join_all((0..40).map(|_| stack.call("GET", "/api/unread", 1, None))).await;
    let (done, refused): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.status == 200);
    assert!(!done.is_empty() && !refused.is_empty(), "{} of 40 were refused", refused.len());
    refused.iter().for_each(|call| call.expect_problem(429, "rate_limited"));
    stack.get("/api/unread", 2).await;

    let mut socket = stack.socket("/ws/", 1).await;
    // Each subscription names another conversation that doesn't exist.
    for number in 0..40 {
        let channel = format!("chat/{}", id + 1_000 + number);
        socket.send(json!({"op": "subscribe", "channel": channel, "ref": number})).await;
    }
    let mut refused = 0;
    for _ in 0..40 {
        let answer = socket.next().await;
        match answer["code"].as_str() {
            Some("forbidden") => {}
            Some("rate_limited") => {
                assert!(answer["retry_after_ms"].is_u64(), "{answer}");
                refused += 1;
            }
            _ => panic!("{answer}"),
        }
    }
    assert!((1..=20).contains(&refused), "{refused} of 40");

    let mut chat = stack.socket(&format!("/ws/chat/{id}/"), 2).await;
    chat.say("hello").await;
    let message = chat.next().await["message_id"].clone();
    for _ in 0..10 {
        chat.send(json!({"type": "read", "message_id": message})).await;
    }
    let refused = chat.next().await;
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    let counted = stack.metrics(Kind::Gateway, 0).await;
    for name in ["calls", "subscribes", "reads"] {
        let line = counted.lines().find(|line| line.starts_with(&format!("gateway_{name}_limited_total ")));
        assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{name}: {line:?}");
    }
}

#[tokio::test]
async fn sockets_of_a_user_and_handshakes_of_an_address_are_limited() {
    let stack =
        Stack::with(with(&[("SOCKETS_PER_USER", "2"), ("HANDSHAKE_RATE", "1"), ("HANDSHAKE_BURST", "6")]))
            .await;
    let url = |user: i64| format!("ws://{}/ws/notifications/?token={}", stack.host(0), token(user));
    let one = Socket::open(&url(1)).await;
    let _two = Socket::open(&url(1)).await;
    assert_eq!(Socket::try_open(&url(1), &[]).await.unwrap_err(), 429);
    one.close().await;
    let reopened = async {
        while Socket::try_open(&url(1), &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("a socket to be released", reopened).await;
    // Another user may open sockets until the address exceeds its rate.
    while Socket::try_open(&url(2), &[]).await.is_ok() {}
    // In between, the address may be allowed another handshake.
    let refused = || async {
        let request = stack.http().get(format!("http://{}/ws/", stack.host(0)));
        let request = request
            .header("upgrade", "websocket")
            .header("connection", "upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        let response = request.send().await.unwrap();
        (response.status() == 429).then_some(response)
    };
    let refused = eventually("a handshake to be refused", refused).await;
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_revocation_ends_sessions_on_every_gateway_and_on_one_that_starts_later() {
    let mut stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let issued = |at: u64| token_with(json!({"user_id": 1, "iat": at}));
    let url = |stack: &Stack, gateway: usize, token: &str| {
        format!("ws://{}/ws/notifications/?token={token}", stack.host(gateway))
    };
    let old = issued(unix_now() - 60);
    let mut here = Socket::open(&url(&stack, 0, &old)).await;
    let mut there = Socket::open(&url(&stack, 1, &old)).await;
    let mut other = stack.socket_at(1, "/ws/notifications/", 2).await;
    let backend = stack.backend().await;
    let answer = backend.request("sessions.revoke", r#"{"user_id": 1}"#.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["revoked_before"].as_str().unwrap().ends_with('Z'), "{answer}");
    assert_eq!((here.closed().await, there.closed().await), (Some(4401), Some(4401)));
    other.expect_silence().await;
    stack.terminate(Kind::Gateway, 1).await;
    stack.restart(Kind::Gateway, 1);
    stack.ready().await;
    // From the second after the revocation, however long the restart took.
    let fresh = issued(unix_now() + 1);
    for gateway in 0..2 {
        assert_eq!(Socket::open(&url(&stack, gateway, &old)).await.closed().await, Some(4401));
        let undated = token_with(json!({"user_id": 1}));
        assert_eq!(Socket::open(&url(&stack, gateway, &undated)).await.closed().await, Some(4401));
        Socket::open(&url(&stack, gateway, &fresh)).await.expect_silence().await;
    }
}

#[tokio::test]
async fn a_socket_is_closed_when_its_token_expires_unless_it_has_a_fresh_one() {
    let stack = Stack::start().await;
    // With the leeway of 5 s, 10 s are left: time for both handshakes and the fresh token on a busy machine.
    let expiring = token_with(json!({"user_id": 1, "exp": unix_now() + 5}));
    let url = format!("ws://{}/ws/notifications/?token={expiring}", stack.host(0));
    let (mut stale, mut fresh) = (Socket::open(&url).await, Socket::open(&url).await);
    fresh.send(json!({"type": "auth", "token": token(1)})).await;
    assert_eq!(fresh.next().await["type"], "auth");
    assert_eq!(stale.closed().await, Some(4401));
    fresh.expect_silence().await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_delays_no_others() {
    // Sockets that stall answer no pings either, and must not be closed for that.
    let env = [("OUTBOX_BYTES", "131072"), ("SOCKETS_PER_USER", "2000"), ("IDLE_SECONDS", "3600")];
    let stack = Stack::with(with(&env)).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket(&path, 1).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(stack.socket(&path, 2).await);
    }
    let mut ben = stack.socket(&path, 2).await;
    // More than the kernel's buffers and the outbox hold together.
    let text = "x".repeat(4_000);
    let closed = async || {
        let metrics = stack.metrics(Kind::Gateway, 0).await;
        let line = metrics.lines().find(|line| line.starts_with("gateway_slow_clients_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or_default()
    };
    let mut seq = 0;
    while closed().await < 20 {
        for _ in 0..50 {
            seq += 1;
            ada.say(&text).await;
            assert_eq!(ada.next().await["seq"], seq);
            assert_eq!(ben.next().await["seq"], seq);
        }
        assert!(seq < 5_000, "no socket was closed");
    }
    // A client that resumes with `after` misses no message.
    let last = seq - 10;
    let page = stack.get(&format!("/api/conversations/{id}/messages?limit=11"), 2).await;
    let after = page["items"][10]["message_id"].clone();
    let mut back = stack.socket(&format!("{path}?after={after}"), 2).await;
    for expected in last + 1..=seq {
        assert_eq!(back.next().await["seq"], expected);
    }
}
