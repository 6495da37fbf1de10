//! Edits and deletions of messages, whatever is lost on the way.

use e2e::{
    Kind, Options, Socket, Stack,
    documented::{self, Sender},
    eventually, within,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

const ADA: i64 = 1;
const BEN: i64 = 2;

/// A conversation of Ada and Ben, with these messages of Ada.
async fn talk(stack: &Stack, texts: &[&str]) -> (i64, Vec<Value>) {
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let mut messages = Vec::new();
    for text in texts {
        let path = format!("/api/conversations/{conversation}/messages");
        messages.push(stack.post(&path, ADA, json!({"message": text, "client_id": text})).await.expect(201));
    }
    (conversation, messages)
}

fn path(message: &Value) -> String {
    format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["message_id"])
}

async fn edit(stack: &Stack, message: &Value, text: &str) -> Value {
    stack.call("PATCH", &path(message), ADA, Some(json!({"message": text}))).await.expect(200)
}

async fn delete(stack: &Stack, message: &Value) {
    stack.call("DELETE", &path(message), ADA, None).await.expect(204);
}

/// `change`, `content` and whether the message is deleted, of a `changed` frame.
fn changed(frame: &Value) -> (i64, &str, bool) {
    assert_eq!(frame["type"], "changed", "{frame}");
    assert!(frame["change"].as_i64() <= frame["message"]["change"].as_i64(), "{frame}");
    let message = &frame["message"];
    let content = message["content"].as_str().expect("a text");
    (frame["change"].as_i64().expect("a number"), content, message.get("deleted_at").is_some())
}

#[tokio::test]
async fn every_socket_and_page_shows_an_edit_and_a_deletion() {
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let (conversation, messages) = talk(&stack, &["50 €", "still there?"]).await;
    let chat = format!("/ws/chat/{conversation}/");
    let (mut ada, mut ben) = (stack.socket(&chat, ADA).await, stack.socket_at(1, &chat, BEN).await);
    let mut all = stack.socket("/ws/", BEN).await;
    // Receives each frame of the conversation, in an envelope.
    let channel = format!("chat/{conversation}");
    all.send(json!({"op": "subscribe", "channel": channel, "ref": 1})).await;
    assert_eq!(all.next().await["op"], "ok");

    ada.send(json!({"type": "edit", "message_id": messages[0]["message_id"], "message": " 45 € "})).await;
    let frame = ben.next_of("changed").await;
    assert_eq!(changed(&frame), (1, "45 €", false));
    assert_eq!(frame["message"].get("client_id"), None, "only the sender sees it");
    assert_eq!(all.next().await["data"], frame);
    assert_eq!(ada.next_of("changed").await["message"]["client_id"], "50 €");

    ada.send(json!({"type": "delete", "message_id": messages[1]["message_id"]})).await;
    for socket in [&mut ada, &mut ben] {
        let frame = socket.next_of("changed").await;
        assert_eq!(changed(&frame), (2, "", true));
        assert_eq!(frame["message"]["deleted_by"], "sender");
    }
    let page = stack.get(&format!("/api/conversations/{conversation}/messages?after=0"), BEN).await;
    assert_eq!(page["changes"], 2);
    let texts: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| &item["content"]).collect();
    assert_eq!(texts, ["45 €", ""]);
    assert_eq!(stack.get(&path(&messages[0]), BEN).await, page["items"][0]);
    let changes = format!("/api/conversations/{conversation}/messages?changed_after=1");
    assert_eq!(stack.get(&changes, BEN).await["items"], json!([page["items"][1]]));
    // A repeated send gets the message as it is now.
    let repeat = json!({"message": "50 €", "client_id": "50 €"});
    let messages_path = format!("/api/conversations/{conversation}/messages");
    let repeated = stack.post(&messages_path, ADA, repeat).await.expect(200);
    assert_eq!((&repeated["content"], &repeated["change"]), (&json!("45 €"), &json!(1)));

    // C9: repeats make no change.
    assert_eq!(edit(&stack, &messages[0], "45 €").await["change"], 1);
    delete(&stack, &messages[1]).await;
    for socket in [&mut ada, &mut ben] {
        socket.expect_silence().await;
    }
    assert_eq!(all.next().await["data"]["change"], 2);
    all.expect_silence().await;
}

#[tokio::test]
async fn a_message_that_is_deleted_unread_leaves_no_badge_and_no_notification() {
    let stack = Stack::start().await;
    let (conversation, messages) = talk(&stack, &["one", "two", "three"]).await;
    let unread = async |expected: Value| {
        eventually(&format!("{expected} unread"), async || {
            (stack.get("/api/unread", BEN).await == expected).then_some(())
        })
        .await;
    };
    unread(json!({"conversations": 1, "messages": 3, "notifications": 1})).await;
    // Behind an unread message, a deleted one still counts.
    delete(&stack, &messages[1]).await;
    unread(json!({"conversations": 1, "messages": 3, "notifications": 1})).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    delete(&stack, &messages[0]).await;
    let moved = ben.next_of("read").await;
    assert_eq!(
        (&moved["user_id"], &moved["seq"], &moved["unread_count"]),
        (&json!(BEN), &json!(2), &json!(1))
    );
    unread(json!({"conversations": 1, "messages": 1, "notifications": 1})).await;
    delete(&stack, &messages[2]).await;
    unread(json!({"conversations": 0, "messages": 0, "notifications": 0})).await;
    let listed = stack.get("/api/conversations", BEN).await;
    assert_eq!(
        (&listed["items"][0]["unread_count"], &listed["items"][0]["last_message"]["content"]),
        (&json!(0), &json!(""))
    );

    // Reading up to the message before a deleted one reads that one, too.
    let (conversation, messages) = talk(&stack, &["four", "five"]).await;
    delete(&stack, &messages[1]).await;
    let read = json!({"message_id": messages[0]["message_id"]});
    stack.post(&format!("/api/conversations/{conversation}/read"), BEN, read).await.expect(204);
    unread(json!({"conversations": 0, "messages": 0, "notifications": 0})).await;
}

#[tokio::test]
async fn a_refused_change_gets_its_answer_and_changes_nothing() {
    let stack =
        Stack::with(Options { env: vec![("EDIT_SECONDS", "0".to_owned())], ..Options::default() }).await;
    let (conversation, messages) = talk(&stack, &["one"]).await;
    let other = stack.conversation(&[ADA, 3]).await;
    let message = &messages[0];
    let text = || Some(json!({"message": "new"}));
    stack.call("PATCH", &path(message), ADA, text()).await.expect_problem(409, "too_late");
    stack.call("PATCH", &path(message), BEN, text()).await.expect_problem(403, "forbidden");
    stack.call("DELETE", &path(message), BEN, None).await.expect_problem(403, "forbidden");
    stack.call("DELETE", &path(message), 3, None).await.expect_problem(403, "forbidden");
    stack.call("GET", &path(message), 3, None).await.expect_problem(403, "forbidden");
    // A stranger does not learn which messages and conversations exist.
    for (conversation, message) in [(conversation, 1_i64 << 40), (1_i64 << 40, 1)] {
        let unknown = format!("/api/conversations/{conversation}/messages/{message}");
        for (method, body) in [("GET", None), ("DELETE", None), ("PATCH", text())] {
            stack.call(method, &unknown, 3, body).await.expect_problem(403, "forbidden");
        }
    }
    let elsewhere = format!("/api/conversations/{other}/messages/{}", message["message_id"]);
    for method in ["GET", "DELETE"] {
        stack.call(method, &elsewhere, ADA, None).await.expect_problem(404, "not_found");
    }
    stack.call("DELETE", "/api/conversations/1/messages/0", ADA, None).await.expect_problem(404, "not_found");
    for (text, status, code) in
        [("\u{200b}".to_owned(), 400, "invalid_message"), ("é".repeat(4_001), 422, "message_too_long")]
    {
        let body = Some(json!({"message": text}));
        stack.call("PATCH", &path(message), ADA, body).await.expect_problem(status, code);
    }
    let chat = format!("/api/conversations/{conversation}/messages");
    for query in ["changed_after=-1", "changed_after=x", "changed_after=1&before=5"] {
        stack.call("GET", &format!("{chat}?{query}"), ADA, None).await.expect_problem(400, "invalid_request");
    }
    let ids = json!({"conversation_id": conversation, "message_id": message["message_id"]});
    let with = |more: Value| {
        let mut body = ids.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (subject, body, code) in [
        ("chat.messages.update", with(json!({"message": "new", "if_change": 3})), "conflict"),
        ("chat.messages.update", with(json!({"message": "\u{200b}"})), "invalid_message"),
        ("chat.messages.remove", with(json!({"reason": " "})), "invalid_request"),
        ("chat.messages.remove", with(json!({"message_id": 1_i64 << 40, "reason": "spam"})), "not_found"),
    ] {
        let error = stack.request(subject, &body).await.unwrap_err();
        assert!(error.starts_with(&format!("{code}: ")), "{subject} {body}: {error}");
    }
    // A number beyond the last change, or a broken one.
    let mut all = stack.socket("/ws/", ADA).await;
    let subscribe = |changes: i64, reference: i64| json!({"op": "subscribe", "channel": format!("chat/{conversation}"), "after": 1, "changes": changes, "ref": reference});
    all.send(subscribe(-1, 1)).await;
    assert_eq!(all.next().await["code"], "invalid_message");
    all.send(subscribe(99, 2)).await;
    assert_eq!(all.next().await, json!({"op": "ok", "changes": 0, "ref": 2}));
    let url = format!("/ws/chat/{conversation}/?after=1&changes=x");
    assert_eq!(stack.socket(&url, ADA).await.closed().await, Some(4400));

    let page = stack.get(&format!("{chat}?after=0"), ADA).await;
    assert_eq!((&page["items"], &page["changes"]), (&json!([message]), &json!(0)));
}

#[tokio::test]
async fn a_socket_that_resumes_receives_the_last_change_of_each_message_it_has() {
    let stack = Stack::start().await;
    let (conversation, messages) = talk(&stack, &["one", "two", "three"]).await;
    edit(&stack, &messages[2], "before").await;
    for round in 0..40 {
        for message in &messages[..2] {
            edit(&stack, message, &format!("text {round}")).await;
        }
    }
    delete(&stack, &messages[1]).await;
    let (_, four) = (delete(&stack, &messages[2]).await, "four");
    let chat = format!("/api/conversations/{conversation}/messages");
    let four = stack.post(&chat, ADA, json!({"message": four})).await.expect(201);
    edit(&stack, &four, "4").await;

    let after = messages[1]["message_id"].as_i64().unwrap();
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/?after={after}&changes=1"), BEN).await;
    // The messages after `after`, as they are now.
    for (message, content) in [(&messages[2], ""), (&four, "4")] {
        let frame = ben.next_of("message").await;
        assert_eq!((&frame["message_id"], &frame["content"]), (&message["message_id"], &json!(content)));
    }
    // One frame for each message up to `after`, in the order of its last change: 79 edits of each are left out.
    let first = ben.next_of("changed").await;
    assert_eq!(changed(&first), (80, "text 39", false));
    assert_eq!(changed(&ben.next_of("changed").await), (82, "", true));
    edit(&stack, &messages[0], "live").await;
    assert_eq!(changed(&ben.next_of("changed").await), (85, "live", false));

    // Without `changes`, only live changes.
    let mut plain =
        stack.socket(&format!("/ws/chat/{conversation}/?after={}", four["message_id"]), BEN).await;
    edit(&stack, &messages[0], "last").await;
    assert_eq!(changed(&plain.next_of("changed").await), (86, "last", false));
    let _ = first;
}

#[tokio::test]
async fn a_change_whose_event_was_lost_is_found() {
    let stack = Stack::start().await;
    let (conversation, messages) = talk(&stack, &["one", "two"]).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    // Neither published nor left in the outbox.
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    let lost = format!(
        "begin; set local search_path = chat;
         select change_message({conversation}, {}, null, 'lost', null, null, null, null, 50, 90);
         delete from outbox; commit",
        messages[0]["message_id"]
    );
    database.execute(sqlx::AssertSqlSafe(lost)).await.unwrap();
    assert_eq!(changed(&ben.next_of("changed").await), (1, "lost", false));
    assert!(stack.metric(Kind::Gateway, 0, "gateway_changes_repaired_total").await >= 1.0);

    // Made while the next change is published: it shows the gap at once, and the order stays.
    database
        .execute(sqlx::AssertSqlSafe(format!(
            "begin; set local search_path = chat;
         select change_message({conversation}, {}, null, 'lost again', null, null, null, null, 50, 90);
         delete from outbox; commit",
            messages[1]["message_id"]
        )))
        .await
        .unwrap();
    edit(&stack, &messages[0], "seen").await;
    assert_eq!(changed(&ben.next_of("changed").await), (2, "lost again", false));
    assert_eq!(changed(&ben.next_of("changed").await), (3, "seen", false));
}

#[tokio::test]
async fn a_change_that_was_not_published_is_published_later() {
    let stack = Stack::start().await;
    let (conversation, messages) = talk(&stack, &["one"]).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    database
        .execute(sqlx::AssertSqlSafe(format!(
            "begin; set local search_path = chat;
             select change_message({conversation}, {}, null, null, 'moderation', 'spam', null, null, 50, 90); commit",
            messages[0]["message_id"]
        )))
        .await
        .unwrap();
    let frame = ben.next_of("changed").await;
    assert_eq!((changed(&frame), &frame["message"]["deleted_by"]), ((1, "", true), &json!("moderation")));
    let nothing = json!({"conversations": 0, "messages": 0, "notifications": 0});
    eventually("nothing unread", async || (stack.get("/api/unread", BEN).await == nothing).then_some(()))
        .await;
}

#[tokio::test]
async fn a_backend_edits_and_deletes_any_message_and_moderators_read_former_texts() {
    let stack = Stack::start().await;
    let (conversation, messages) = talk(&stack, &["bad words", "fine"]).await;
    let id = &messages[0]["message_id"];
    let update = json!({"conversation_id": conversation, "message_id": id, "message": "…", "if_change": 0});
    let updated = stack.request("chat.messages.update", &update).await.unwrap();
    assert_eq!((&updated["content"], &updated["change"]), (&json!("…"), &json!(1)));
    assert_eq!(updated.get("client_id"), None);
    // A report keeps the text that was reported.
    let report = json!({"message_id": id, "reason": "spam"});
    let reported = stack.post("/api/reports", BEN, report).await.expect(201);
    assert_eq!(reported["message"]["content"], "…");
    let remove = json!({"conversation_id": conversation, "message_id": id, "reason": "spam"});
    let removed = stack.request("chat.messages.remove", &remove).await.unwrap();
    assert_eq!((&removed["content"], &removed["deleted_by"]), (&json!(""), &json!("moderation")));
    assert_eq!(stack.request("chat.messages.remove", &remove).await.unwrap(), removed);
    assert!(stack.request("chat.messages.update", &update).await.unwrap_err().starts_with("not_found: "));

    let list = json!({"conversation_id": conversation, "limit": 1, "before": messages[1]["message_id"]});
    let listed = stack.request("chat.messages.versions", &list).await.unwrap();
    let versions = listed["items"][0]["versions"].as_array().unwrap();
    let versions: Vec<_> = versions
        .iter()
        .map(|version| (&version["change"], &version["content"], version.get("reason")))
        .collect();
    assert_eq!(
        versions,
        [(&json!(1), &json!("bad words"), None), (&json!(2), &json!("…"), Some(&json!("spam")))]
    );
    assert_eq!(listed["next"], Value::Null);
    let page = stack.get(&format!("/api/conversations/{conversation}/messages"), BEN).await;
    assert!(!page.to_string().contains("bad words") && !page.to_string().contains('…'), "{page}");
}

#[tokio::test]
async fn backends_are_told_of_changes_if_the_operator_wants_it() {
    let stack =
        Stack::with(Options { env: vec![("TELL", "changed".to_owned())], ..Options::default() }).await;
    let backend = stack.backend().await;
    let mut told = testkit::nats::subscribe(&backend, "chat.changed").await.unwrap();
    let (conversation, messages) = talk(&stack, &["one"]).await;
    edit(&stack, &messages[0], "1").await;
    delete(&stack, &messages[0]).await;
    let mut events = Vec::new();
    while events.len() < 2 {
        let message = within("an event", told.next()).await.unwrap();
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        documented::check("changedForBackends", Sender::Server, &event).unwrap();
        assert_eq!(
            message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(),
            event["event_id"].as_str().unwrap()
        );
        events.push(event);
    }
    events.sort_by_key(|event| event["change"].as_i64());
    assert_eq!(events[0]["event_id"], format!("chat.changed-{conversation}-1"));
    assert_eq!((events[0].get("deleted_at"), &events[1]["deleted_by"]), (None, &json!("sender")));
}

/// Reads frames until the last change has arrived, and returns what the socket shows: text by message id.
async fn follow(socket: &mut Socket, shown: &mut std::collections::BTreeMap<i64, (i64, String)>, until: i64) {
    let mut last = 0;
    while last < until {
        let frame = socket.next_of("changed").await;
        let number = frame["change"].as_i64().unwrap();
        assert!(number > last, "C4: the numbers grow: {frame}");
        last = number;
        let message = &frame["message"];
        let change = message["change"].as_i64().unwrap();
        let text = message["content"].as_str().unwrap().to_owned();
        let known = shown.entry(message["message_id"].as_i64().unwrap()).or_default();
        if change > known.0 {
            *known = (change, text);
        }
    }
}

#[tokio::test]
async fn sockets_show_what_postgres_has_although_chat_service_is_killed() {
    let mut stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let texts: Vec<String> = (0..8).map(|number| format!("message {number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (conversation, messages) = talk(&stack, &texts).await;
    let chat = format!("/ws/chat/{conversation}/");
    let mut sockets = [stack.socket(&chat, BEN).await, stack.socket_at(1, &chat, ADA).await];
    for round in 0..4 {
        let changes = async {
            for index in 0..40 {
                let message = &messages[fastrand::usize(..messages.len())];
                // Without a reply, the change is made or not; the sockets agree with Postgres in any case.
                let body = Some(json!({"message": format!("round {round}, {index}")}));
                stack.call("PATCH", &path(message), ADA, body).await;
            }
        };
        changes.await;
        stack.kill(Kind::Chat, 0).await;
        stack.restart(Kind::Chat, 0);
        stack.ready().await;
    }
    delete(&stack, &messages[3]).await;
    let page = stack.get(&format!("/api/conversations/{conversation}/messages?limit=200"), BEN).await;
    let last = page["changes"].as_i64().unwrap();
    for socket in &mut sockets {
        let mut shown = std::collections::BTreeMap::new();
        follow(socket, &mut shown, last).await;
        for message in page["items"].as_array().unwrap() {
            let Some((change, text)) = shown.get(&message["message_id"].as_i64().unwrap()) else {
                assert_eq!(message.get("change"), None, "{message}");
                continue;
            };
            assert_eq!((&json!(change), &json!(text)), (&message["change"], &message["content"]), "C2");
        }
    }
}
