//! Connections: their memory, their number, and the addresses of their clients.

use crate::{
    crowds::{memory, with},
    raw,
};
use e2e::{Kind, Options, Stack, eventually, token, token_with, within};
use futures_util::{StreamExt, future::join_all};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Request of a handshake with these headers.
fn handshake(stack: &Stack, path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
        stack.host(0)
    )
}

/// Sends a request and returns the head of the response, in lower case.
async fn response_head(stack: &Stack, request: &str) -> String {
    let mut stream = raw::connect(stack, None).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    raw::head(&mut stream).await.to_lowercase()
}

#[tokio::test]
async fn the_server_selects_the_subprotocol_bearer_wherever_the_token_is() {
    let stack = Stack::start().await;
    let (good, path) = (token(1), "/ws/notifications/");
    let stale = token_with(json!({"user_id": 1, "exp": 1}));
    for (path, headers) in [
        (path.to_owned(), format!("Sec-WebSocket-Protocol: bearer, {good}\r\n")),
        (path.to_owned(), format!("Sec-WebSocket-Protocol: bearer, x\r\nAuthorization: Bearer {good}\r\n")),
        (format!("{path}?token={good}"), "Sec-WebSocket-Protocol: bearer\r\n".to_owned()),
        (
            format!("{path}?token={good}"),
            "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: bearer\r\n".to_owned(),
        ),
        // These sockets are closed with 4401 or 4403. A browser sees the code only if it accepts the handshake.
        (path.to_owned(), format!("Sec-WebSocket-Protocol: bearer, {stale}\r\n")),
        (path.to_owned(), "Sec-WebSocket-Protocol: bearer\r\n".to_owned()),
        (format!("{path}?token={stale}"), "Sec-WebSocket-Protocol: bearer\r\n".to_owned()),
        (format!("/ws/chat/0/?token={good}"), "Sec-WebSocket-Protocol: bearer\r\n".to_owned()),
    ] {
        let head = response_head(&stack, &handshake(&stack, &path, &headers)).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("\r\nsec-websocket-protocol: bearer\r\n"), "{path} {headers}: {head}");
    }
    for headers in ["", "Sec-WebSocket-Protocol: chat\r\n"] {
        let head = response_head(&stack, &handshake(&stack, &format!("{path}?token={good}"), headers)).await;
        assert!(head.starts_with("http/1.1 101 ") && !head.contains("sec-websocket-protocol"), "{head}");
    }
}

#[tokio::test]
async fn a_clients_address_is_the_last_one_that_is_not_a_trusted_proxy() {
    let env = [("TRUSTED_PROXIES", "127.0.0.0/8"), ("HANDSHAKE_RATE", "1"), ("HANDSHAKE_BURST", "1")];
    let stack = Stack::with(with(&env)).await;
    // Both headers of a pair have the same client. The limit is one handshake a second, so one of two is refused.
    for (client, pair) in [
        (
            "two lines",
            [
                "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.1\r\n",
                "X-Forwarded-For: 2.2.2.2\r\nX-Forwarded-For: 203.0.113.1\r\n",
            ],
        ),
        (
            "ports",
            [
                "X-Forwarded-For: 1.1.1.1, 203.0.113.2:4711\r\n",
                "X-Forwarded-For: 2.2.2.2, 203.0.113.2:4712\r\n",
            ],
        ),
        ("brackets", ["X-Forwarded-For: [2001:db8::1]:4711\r\n", "X-Forwarded-For: 2001:db8::1\r\n"]),
        (
            "Forwarded",
            [
                "Forwarded: for=1.1.1.1\r\nForwarded: for=\"[2001:db8::2]:80\";proto=https\r\n",
                "Forwarded: For=2.2.2.2, for=\"[2001:db8::2]\"\r\n",
            ],
        ),
    ] {
        let path = format!("/ws/notifications/?token={}", token(1));
        let requests = pair.map(|headers| handshake(&stack, &path, headers));
        let (one, other) =
            tokio::join!(response_head(&stack, &requests[0]), response_head(&stack, &requests[1]));
        let mut heads = [one, other];
        heads.sort_unstable();
        assert!(heads[0].starts_with("http/1.1 101 "), "{client}: {}", heads[0]);
        assert!(heads[1].starts_with("http/1.1 429 "), "{client}: {}", heads[1]);
    }
}

/// Folder of programs in which the gateway is a script that first sets the limits of open files.
fn programs_with(ulimit: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap();
    for kind in Kind::ALL {
        let (program, path) = (built.join(kind.program()), folder.path().join(kind.program()));
        if kind == Kind::Gateway {
            fs::write(&path, format!("#!/bin/sh\n{ulimit}\nexec '{}' \"$@\"\n", program.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        } else {
            std::os::unix::fs::symlink(program, path).unwrap();
        }
    }
    folder
}

#[tokio::test]
async fn a_process_raises_its_limit_of_open_files() {
    let folder = programs_with("ulimit -Sn 200 && ulimit -Hn 4000");
    let stack =
        Stack::with(Options { programs: Some(folder.path().to_owned()), ..Options::one_of_each() }).await;
    assert_eq!(stack.metric(Kind::Gateway, 0, "process_max_fds").await, 4000.0);
    let open = stack.metric(Kind::Gateway, 0, "process_open_fds").await;
    assert!((10.0..200.0).contains(&open), "{open}");
}

#[tokio::test]
async fn connections_are_refused_with_503_before_files_run_out() {
    let folder = programs_with("ulimit -n 256");
    // Connections without a further request stay open.
    let env = vec![("HEAD_SECONDS", "600".to_owned())];
    let programs = Some(folder.path().to_owned());
    let stack = Stack::with(Options { programs, env, ..Options::one_of_each() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut chat = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let request = format!("GET /api/unread HTTP/1.1\r\nHost: {}\r\n\r\n", stack.host(0));
    let mut held = Vec::new();
    loop {
        assert!(held.len() < 256, "no connection was refused");
        let mut stream = raw::connect(&stack, None).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = raw::head(&mut stream).await;
        if head.starts_with("HTTP/1.1 503 ") {
            break;
        }
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        held.push(stream);
    }
    // A client that sends no request also receives the refusal.
    let (mut silent, mut refused) = (raw::connect(&stack, None).await, String::new());
    within("a refusal", silent.read_to_string(&mut refused)).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: "), "{refused}");
    assert!(refused.contains("unavailable"), "{refused}");
    // A client that sends its request at once receives the whole response before the connection ends.
    let mut stream = raw::connect(&stack, None).await;
    stream.write_all(raw::handshake(&stack, "/ws/notifications/", 1).as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 503 ") && all.ends_with('}'), "{all}");
    // Open sockets and the gateway's own connections are not affected.
    chat.say("still here").await;
    assert_eq!(chat.next().await["seq"], 1);
    assert_eq!(stack.readyz(Kind::Gateway, 0).await, Some(200));
    assert!(stack.metric(Kind::Gateway, 0, "gateway_connections_refused_total").await >= 3.0);
    drop(held);
    let back = || async {
        let url = format!("ws://{}/ws/notifications/?token={}", stack.host(0), token(1));
        e2e::Socket::try_connect(&url).await
    };
    eventually("a new connection", back).await;
}

/// Requests a page on a connection that never reads the response.
async fn request_page(stack: &Stack, user: i64) -> TcpStream {
    let mut stream = raw::connect(stack, Some(4 * 1024)).await;
    let head = format!(
        "GET /api/conversations/1/messages?limit=200 HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
        stack.host(0),
        token(user)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A fake chat-service that replies to every request for a page: with 0.9 MB if the limit is 200, otherwise with one
/// message.
async fn serve_pages(stack: &Stack) -> tokio::task::JoinHandle<()> {
    let backend = stack.backend().await;
    let page = |messages: i64| {
        let message = |id| {
            json!({"conversation_id": 1, "message_id": id, "seq": id, "sender_id": 1,
                "sender_username": "ada", "content": "x".repeat(4_000), "created_at": "2025-12-09T10:30:00.123456Z",
                "is_read": false})
        };
        let items: Vec<Value> = (1..=messages).map(message).collect();
        json!({"items": items, "more": false, "head": {"seq": messages, "id": messages}, "markers": []})
            .to_string()
    };
    let (large, small) = (page(210), page(1));
    assert!(large.len() > 850_000 && large.len() < 1_000_000, "{}", large.len());
    let mut requests = testkit::nats::subscribe(&backend, "chat.messages.page").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let page: Value = serde_json::from_slice(&request.payload).unwrap();
            let reply = if page["limit"] == 200 { large.clone() } else { small.clone() };
            backend.publish(request.reply.unwrap(), reply.into()).await.unwrap();
        }
    })
}

/// Sends requests and returns the growth of the gateway's peak memory, in KiB.
async fn cost(stack: &Stack, requests: impl Future<Output = Vec<TcpStream>>) -> (usize, Vec<TcpStream>) {
    let pid = stack.pid(Kind::Gateway, 0);
    // Resets the peak, `VmHWM`.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let rest = memory(pid, "VmRSS");
    let streams = requests.await;
    // Waits until the peak stops growing.
    let (mut last, mut unchanged) = (0, 0);
    while unchanged < 8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let peak = memory(pid, "VmHWM");
        unchanged = if peak == last { unchanged + 1 } else { 0 };
        last = peak;
    }
    (last.saturating_sub(rest), streams)
}

#[tokio::test]
async fn unread_responses_cost_bounded_memory_and_are_ended() {
    let stack = Stack::with(Options { counts: [1, 0, 1, 1], ..with(&[]) }).await;
    let responder = serve_pages(&stack).await;
    let (kib, _one) = cost(&stack, join_all((0..200).map(|_| request_page(&stack, 1)))).await;
    println!("200 responses of one user cost {kib} KiB");
    assert!(kib < 100 * 1024, "{kib} KiB");
    // Small responses and those of other users are still sent.
    let read = |user, limit| {
        stack.call(
            "GET",
            ["/api/conversations/1/messages?limit=5", "/api/conversations/1/messages?limit=200"][limit],
            user,
            None,
        )
    };
    assert_eq!(read(1, 0).await.status, 200);
    assert_eq!(read(2, 1).await.status, 200);
    let (kib, _many) =
        cost(&stack, join_all((0..400).map(|request| request_page(&stack, request % 40 + 1)))).await;
    println!("400 responses of 40 users cost {kib} KiB");
    // Without a bound, they would cost about 700 MiB. The allocator keeps some memory of the first case.
    assert!(kib < 200 * 1024, "{kib} KiB");
    assert_eq!(read(41, 0).await.status, 200);
    assert!(stack.metric(Kind::Gateway, 0, "gateway_response_bytes").await > 1e6);
    let refused =
        stack.metric(Kind::Gateway, 0, "gateway_responses_limited_total{limit=\"user_bytes\"}").await;
    // The exact number depends on how fast the other responses end.
    assert!(refused > 0.0);
    // A write without progress for 10 s is ended and releases its memory.
    let ended = || async {
        let held = stack.metric(Kind::Gateway, 0, "gateway_response_bytes").await;
        (held == 0.0).then_some(())
    };
    eventually("the responses to be ended", ended).await;
    assert!(stack.metric(Kind::Gateway, 0, "gateway_responses_stalled_total").await >= 8.0);
    assert_eq!(read(1, 1).await.status, 200);
    responder.abort();
}
