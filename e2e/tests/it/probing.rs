//! What is somebody else's looks like what isn't there.

use crate::raw;
use e2e::{Stack, eventually, token};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Who asks: a stranger to every conversation here.
const STRANGER: i64 = 3;

/// An answer as it is on the wire, but for its date. No answer repeats the id that was asked for.
fn undated(answer: &[u8]) -> String {
    let answer = String::from_utf8_lossy(answer);
    let lines = answer.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    lines.collect::<Vec<_>>().join("\n")
}

/// All that a socket's path is answered, to the end of the connection.
async fn socket(stack: &Stack, path: &str) -> String {
    let mut stream = raw::connect(stack, None).await;
    stream.write_all(raw::handshake(stack, path, STRANGER).as_bytes()).await.unwrap();
    let mut answer = raw::head(&mut stream).await.into_bytes();
    while let Some((opcode, payload)) = raw::next(&mut stream).await {
        answer.extend_from_slice(format!("{opcode}: {}", payload.escape_ascii()).as_bytes());
        if opcode == raw::CLOSE {
            break;
        }
    }
    undated(&answer)
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
    let mut answer = Vec::new();
    e2e::within("an answer", stream.read_to_end(&mut answer)).await.unwrap();
    undated(&answer)
}

/// Every question that names a conversation, a message or a notification.
async fn answers(stack: &Stack, conversation: i64, message: i64, notification: i64) -> Vec<String> {
    let mut answers = Vec::new();
    for path in ["/ws/chat/ID/", "/ws/chat/ID/?after=0", "/ws/typing/ID/"] {
        answers.push(socket(stack, &path.replace("ID", &conversation.to_string())).await);
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
        let answer = multiplexed.next().await;
        assert_eq!(answer["op"], "error", "{op}");
        answers.push(answer.to_string());
    }
    let conversations = format!("/api/conversations/{conversation}");
    let messages = format!("{conversations}/messages");
    let said = json!({"message": "hi", "client_id": "c"});
    for (method, path, body) in [
        ("GET", conversations.clone(), None),
        ("GET", messages.clone(), None),
        ("GET", format!("{messages}?after=0"), None),
        ("GET", format!("{messages}?before={message}"), None),
        ("POST", messages.clone(), Some(said)),
        ("POST", messages.clone(), Some(json!({"message": ""}))),
        ("POST", format!("{conversations}/read"), Some(json!({"message_id": message}))),
        ("POST", "/api/reports".into(), Some(json!({"message_id": message, "reason": "spam"}))),
        ("POST", format!("/api/notifications/{notification}/read"), None),
        ("DELETE", conversations.clone(), None),
    ] {
        let answer = call(stack, method, &path, body).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{method} {path}: {answer}");
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn nobody_learns_whether_something_exists_that_is_not_theirs() {
    let stack = Stack::start().await;
    let theirs = stack.conversation(&[1, 2]).await;
    let path = format!("/api/conversations/{theirs}/messages");
    let message = stack.post(&path, 1, json!({"message": "between us"})).await.expect(201);
    let message = message["message_id"].as_i64().unwrap();
    // Someone types, someone is connected, and someone has been notified.
    let mut typist = stack.socket(&format!("/ws/typing/{theirs}/"), 1).await;
    typist.send(json!({"is_typing": true})).await;
    let _reader = stack.socket(&format!("/ws/chat/{theirs}/"), 2).await;
    let notification = eventually("a notification", || async {
        stack.get("/api/notifications", 2).await["items"][0]["notification_id"].as_i64()
    })
    .await;
    // Ids of as many digits that nothing has.
    let absent = |id: i64| 10_i64.pow(id.ilog10() + 1) - 1;
    let (no_conversation, no_message) = (absent(theirs), absent(message));
    let no_notification = absent(notification);
    assert!(no_conversation != theirs && no_message != message && no_notification != notification);

    let exists = answers(&stack, theirs, message, notification).await;
    let absent = answers(&stack, no_conversation, no_message, no_notification).await;
    for (exists, absent) in exists.iter().zip(&absent) {
        assert_eq!(exists, absent);
    }
    assert_eq!(exists.len(), absent.len());
    // A message or a conversation of their own makes no difference to what isn't.
    let own = stack.conversation(&[STRANGER, 1]).await;
    let path = format!("/api/conversations/{own}/read");
    let read = async |message: i64| call(&stack, "POST", &path, Some(json!({"message_id": message}))).await;
    assert_eq!(read(message).await, read(no_message).await);

    // Not asserted, as a machine under load says anything: asked in turn, both take as long.
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
    println!("median answer: somebody else's {theirs:?}, nobody's {absent:?}");
}

#[tokio::test]
async fn of_many_who_come_at_once_each_is_told_what_is_theirs() {
    let stack = Stack::start().await;
    let people: Vec<[i64; 2]> = (0..40).map(|pair| [100 + 2 * pair, 101 + 2 * pair]).collect();
    let conversations = join_all(people.iter().map(|pair| stack.conversation(pair))).await;
    let come = conversations.iter().zip(&people).map(async |(id, [one, other])| {
        let path = format!("/ws/chat/{id}/");
        let strange = format!("/ws/chat/{}/", conversations[0]);
        let stranger = if *id == conversations[0] { STRANGER } else { *other };
        let (mut in_it, mut refused) =
            tokio::join!(stack.socket(&path, *one), stack.socket(&strange, stranger));
        assert_eq!(refused.closed().await, Some(4403));
        in_it.say(&format!("from {one}")).await;
        let message = in_it.next().await;
        assert_eq!((message["conversation_id"].as_i64(), message["seq"].as_i64()), (Some(*id), Some(1)));
        // Whose name came with a token is known by it.
        let participants =
            stack.get(&format!("/api/conversations/{id}"), *other).await["participants"].clone();
        assert_eq!(participants[0], json!({"user_id": one, "username": format!("name-{one}")}));
    });
    join_all(come).await;
}
