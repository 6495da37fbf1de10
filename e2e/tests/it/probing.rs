//! For strangers, conversations, messages and notifications of others look as if they didn't exist.

use crate::raw;
use e2e::{Stack, eventually, token};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A user who is not a member of the probed conversation.
const STRANGER: i64 = 3;

/// A response as on the wire, without its date. No response repeats the requested id.
fn undated(response: &[u8]) -> String {
    let response = String::from_utf8_lossy(response);
    let lines = response.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Opens a socket and returns the bytes that it receives until the end of the connection.
async fn socket(stack: &Stack, path: &str) -> String {
    let mut stream = raw::connect(stack, None).await;
    stream.write_all(raw::handshake(stack, path, STRANGER).as_bytes()).await.unwrap();
    let mut response = raw::head(&mut stream).await.into_bytes();
    while let Some((opcode, payload)) = raw::next(&mut stream).await {
        response.extend_from_slice(format!("{opcode}: {}", payload.escape_ascii()).as_bytes());
        if opcode == raw::CLOSE {
            break;
        }
    }
    undated(&response)
}

async fn call(stack: &Stack, method: &str, path: &str, body: Option<Value>) -> String {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        stack.host(0),
        token(STRANGER),
        body.len()
    );
    let mut stream = raw::connect(stack, None).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    e2e::within("a response", stream.read_to_end(&mut response)).await.unwrap();
    undated(&response)
}

/// Responses to every request that names a conversation, a message or a notification.
async fn probe(stack: &Stack, conversation: i64, message: i64, notification: i64) -> Vec<String> {
    let mut responses = Vec::new();
    for path in ["/ws/chat/ID/", "/ws/chat/ID/?after=0", "/ws/typing/ID/"] {
        responses.push(socket(stack, &path.replace("ID", &conversation.to_string())).await);
    }
    let mut multiplexed = stack.socket("/ws/", STRANGER).await;
    let (chat, typing) = (format!("chat/{conversation}"), format!("typing/{conversation}"));
    for op in [
        json!({"op": "subscribe", "channel": chat, "ref": 1}),
        json!({"op": "subscribe", "channel": chat, "after": 0, "ref": 1}),
        json!({"op": "subscribe", "channel": typing, "ref": 1}),
        json!({"op": "unsubscribe", "channel": chat, "ref": 1}),
        json!({"op": "send", "channel": chat, "data": {"message": "hi"}, "ref": 1}),
        json!({"op": "send", "channel": chat, "data": {"message": "hi", "client_id": "c"}, "ref": 1}),
        json!({"op": "send", "channel": chat, "data": {"type": "read", "message_id": message}, "ref": 1}),
        json!({"op": "send", "channel": typing, "data": {"is_typing": true}, "ref": 1}),
        json!({"op": "send", "channel": "notifications", "data": {"type": "read", "notification_id": notification}, "ref": 1}),
    ] {
        multiplexed.send(op.clone()).await;
        let response = multiplexed.next().await;
        assert_eq!(response["op"], "error", "{op}");
        responses.push(response.to_string());
    }
    let conversations = format!("/api/conversations/{conversation}");
    let messages = format!("{conversations}/messages");
    let message_body = json!({"message": "hi", "client_id": "c"});
    for (method, path, body) in [
        ("GET", conversations.clone(), None),
        ("GET", messages.clone(), None),
        ("GET", format!("{messages}?after=0"), None),
        ("GET", format!("{messages}?before={message}"), None),
        ("POST", messages.clone(), Some(message_body)),
        ("POST", messages.clone(), Some(json!({"message": ""}))),
        ("POST", format!("{conversations}/read"), Some(json!({"message_id": message}))),
        ("POST", "/api/reports".into(), Some(json!({"message_id": message, "reason": "spam"}))),
        ("POST", format!("/api/notifications/{notification}/read"), None),
        ("DELETE", conversations.clone(), None),
    ] {
        let response = call(stack, method, &path, body).await;
        assert!(response.starts_with("HTTP/1.1 4"), "{method} {path}: {response}");
        responses.push(response);
    }
    responses
}

#[tokio::test]
async fn strangers_cannot_learn_whether_a_conversation_message_or_notification_exists() {
    let stack = Stack::start().await;
    let theirs = stack.conversation(&[1, 2]).await;
    let path = format!("/api/conversations/{theirs}/messages");
    let message = stack.post(&path, 1, json!({"message": "between us"})).await.expect(201);
    let message = message["message_id"].as_i64().unwrap();
    // One member types, the other one is connected and has a notification.
    let mut typist = stack.socket(&format!("/ws/typing/{theirs}/"), 1).await;
    typist.send(json!({"is_typing": true})).await;
    let _reader = stack.socket(&format!("/ws/chat/{theirs}/"), 2).await;
    let notification = eventually("a notification", || async {
        stack.get("/api/notifications", 2).await["items"][0]["notification_id"].as_i64()
    })
    .await;
    // Unused ids with the same number of digits.
    let absent = |id: i64| 10_i64.pow(id.ilog10() + 1) - 1;
    let (no_conversation, no_message) = (absent(theirs), absent(message));
    let no_notification = absent(notification);
    assert!(no_conversation != theirs && no_message != message && no_notification != notification);

    let existing = probe(&stack, theirs, message, notification).await;
    let absent = probe(&stack, no_conversation, no_message, no_notification).await;
    for (existing, absent) in existing.iter().zip(&absent) {
        assert_eq!(existing, absent);
    }
    assert_eq!(existing.len(), absent.len());
    // The same applies to a stranger's message id in a conversation of their own.
    let own = stack.conversation(&[STRANGER, 1]).await;
    let path = format!("/api/conversations/{own}/read");
    let read = async |message: i64| call(&stack, "POST", &path, Some(json!({"message_id": message}))).await;
    assert_eq!(read(message).await, read(no_message).await);

    // Response times should be equal, too. They are printed and not asserted, because load makes them unreliable.
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..200 {
        let id = [theirs, no_conversation][round % 2];
        let started = Instant::now();
        stack.call("GET", &format!("/api/conversations/{id}/messages"), STRANGER, None).await.expect(403);
        times[round % 2].push(started.elapsed());
    }
    let [theirs, absent] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    println!("median response time: an existing conversation {theirs:?}, an absent one {absent:?}");
}

#[tokio::test]
async fn concurrent_joins_are_admitted_or_refused_individually() {
    let stack = Stack::start().await;
    let people: Vec<[i64; 2]> = (0..40).map(|pair| [100 + 2 * pair, 101 + 2 * pair]).collect();
    let conversations = join_all(people.iter().map(|pair| stack.conversation(pair))).await;
    let joins = conversations.iter().zip(&people).map(async |(id, [one, other])| {
        let path = format!("/ws/chat/{id}/");
        let strange = format!("/ws/chat/{}/", conversations[0]);
        let stranger = if *id == conversations[0] { STRANGER } else { *other };
        let (mut member, mut refused) =
            tokio::join!(stack.socket(&path, *one), stack.socket(&strange, stranger));
        assert_eq!(refused.closed().await, Some(4403));
        member.say(&format!("from {one}")).await;
        let message = member.next().await;
        assert_eq!((message["conversation_id"].as_i64(), message["seq"].as_i64()), (Some(*id), Some(1)));
        // The username comes from the member's token.
        let participants =
            stack.get(&format!("/api/conversations/{id}"), *other).await["participants"].clone();
        assert_eq!(participants[0], json!({"user_id": one, "username": format!("name-{one}")}));
    });
    join_all(joins).await;
}
