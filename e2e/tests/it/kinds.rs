//! Messages of a kind, system messages and replies.

use e2e::{Kind, Options, Stack, documented, eventually};
use serde_json::{Value, json};
use std::fs;
use testkit::Signal;

const ADA: i64 = 1;
const BEN: i64 = 2;
const SYSTEM: i64 = 9_000;

fn with_system() -> Options {
    let env = vec![("SYSTEM_USER_ID", SYSTEM.to_string()), ("SYSTEM_USERNAME", "Le marché".to_owned())];
    Options { env, ..Options::default() }
}

async fn request(stack: &Stack, subject: &'static str, channel: &str, body: Value) -> Result<Value, String> {
    let reply = stack.request(subject, &body).await?;
    documented::check(channel, documented::Sender::Client, &body).unwrap();
    documented::check(&format!("{channel}Reply"), documented::Sender::Server, &reply).unwrap();
    Ok(reply)
}

async fn send(stack: &Stack, body: Value) -> Result<Value, String> {
    request(stack, "chat.messages.send", "sendMessage", body).await
}

async fn update(stack: &Stack, body: Value) -> Result<Value, String> {
    request(stack, "chat.messages.update", "updateMessage", body).await
}

fn merged(mut one: Value, other: Value) -> Value {
    one.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    one
}

fn offer(state: &str) -> Value {
    json!({"kind": "offer", "data": {"amount": 4500, "currency": "EUR", "state": state}})
}

fn messages(conversation: i64) -> String {
    format!("/api/conversations/{conversation}/messages")
}

/// A kind with a sample, its text, and whether users may send it.
fn samples() -> [(&'static str, Value, &'static str, bool); 4] {
    let appointment = json!({"starts_at": "2026-12-01T14:30:00+01:00", "place": "Gare", "state": "proposed"});
    [
        ("offer", offer("open")["data"].clone(), "Offre : 45 € (en attente)", true),
        ("order", json!({"order_id": 12, "state": "paid"}), "Commande n° 12 : payée", false),
        ("appointment", appointment, "Rendez-vous : 01/12/2026 à 14:30, Gare (proposé)", true),
        ("location", json!({"latitude": 48.8584, "longitude": 2.2945}), "Position : 48.8584, 2.2945", true),
    ]
}

#[tokio::test]
async fn each_built_in_kind_is_sent_through_each_entry_point() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = messages(conversation);
    let mut ada = stack.socket(&format!("/ws/chat/{conversation}/"), ADA).await;
    let mut ben = stack.socket("/ws/", BEN).await;
    ben.send(json!({"op": "subscribe", "channel": format!("chat/{conversation}"), "ref": 1})).await;
    assert_eq!(ben.next().await["op"], "ok");
    let mut sent = Vec::new();
    for (kind, data, text, by_users) in samples() {
        let body = json!({"kind": kind, "data": data});
        if !by_users {
            stack.call("POST", &path, ADA, Some(body.clone())).await.expect_problem(403, "forbidden");
            ada.send(merged(body.clone(), json!({"client_id": kind}))).await;
            let error = ada.next_of("error").await;
            assert_eq!((&error["code"], &error["client_id"]), (&json!("forbidden"), &json!(kind)));
        }
        let from_backend = merged(body.clone(), json!({"conversation_id": conversation, "sender_id": ADA}));
        let mut stored = vec![send(&stack, from_backend).await.unwrap()];
        if by_users {
            stored.push(stack.post(&path, ADA, body.clone()).await.expect(201));
            ada.send(merged(body.clone(), json!({"client_id": kind}))).await;
            stored.push(json!(null));
        }
        for stored in stored {
            let frame = ada.next_of("message").await;
            assert_eq!(
                (&frame["kind"], &frame["data"], &frame["content"]),
                (&json!(kind), &data, &json!(text))
            );
            assert_eq!(ben.next().await["data"]["data"], data);
            let mut expected = frame.clone();
            expected.as_object_mut().unwrap().remove("type");
            if !stored.is_null() {
                assert_eq!(stored, expected);
            }
            sent.push(expected);
        }
    }
    // Pages, single messages, lists and replays show the same.
    for message in &mut sent {
        message.as_object_mut().unwrap().remove("client_id");
    }
    let page = stack.get(&format!("{path}?after=0"), BEN).await;
    assert_eq!(page["items"], json!(sent));
    assert_eq!(stack.get(&format!("{path}/{}", sent[0]["message_id"]), BEN).await, sent[0]);
    assert_eq!(stack.get("/api/conversations", BEN).await["items"][0]["last_message"], *sent.last().unwrap());
    let mut again = stack.socket(&format!("/ws/chat/{conversation}/?after=1"), BEN).await;
    for message in &sent {
        assert_eq!(again.next_of("message").await, merged(message.clone(), json!({"type": "message"})));
    }
    let kinds = stack.get("/api/kinds", BEN).await;
    let names: Vec<_> = kinds["kinds"].as_array().unwrap().iter().map(|kind| &kind["kind"]).collect();
    assert_eq!(names, ["appointment", "location", "offer", "order"]);
    assert_eq!(kinds["kinds"][2]["schema"]["x-vyzio"]["send"], json!(["users", "backends"]));
}

#[tokio::test]
async fn a_plain_message_is_the_same_as_in_the_last_release() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{conversation}/"), ADA).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    ada.send(json!({"message": "Bonjour!", "client_id": "3f6c"})).await;
    // The fixture is a frame of release 0.9.0, with names in the place of what differs each time.
    let fixture = include_str!("fixtures/plain_message.json").trim();
    let line = |frame: &Value| {
        fixture
            .replace("CONVERSATION", &conversation.to_string())
            .replace("MESSAGE_ID", &frame["message_id"].to_string())
            .replace("CREATED_AT", frame["created_at"].as_str().unwrap())
    };
    for (socket, client_id) in [(&mut ada, r#","client_id":"3f6c""#), (&mut ben, "")] {
        let text = socket.next_text().await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text, line(&frame).replace("CLIENT_ID", client_id));
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_not_stored() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = messages(conversation);
    let deep = json!({"a": [[[[[[[[0]]]]]]]]});
    for (body, status, code) in [
        (offer("accepted"), 400, "invalid_message"),
        (json!({"kind": "offer", "message": "45 €"}), 400, "invalid_message"),
        (
            json!({"kind": "offer", "data": {"amount": 0, "currency": "EUR", "state": "open"}}),
            400,
            "invalid_message",
        ),
        (json!({"kind": "unknown", "data": {}}), 400, "invalid_message"),
        (json!({"kind": "Offer", "data": {}}), 400, "invalid_message"),
        (json!({"kind": "offer", "data": []}), 400, "invalid_message"),
        (json!({"kind": "offer", "data": deep}), 400, "invalid_message"),
        (json!({"message": "x", "data": {}}), 400, "invalid_message"),
        (json!({"kind": "offer", "data": {"a": "x".repeat(8_192)}}), 422, "message_too_long"),
        (json!({"client_id": "a"}), 400, "invalid_message"),
    ] {
        stack.call("POST", &path, ADA, Some(body)).await.expect_problem(status, code);
    }
    for body in [
        json!({"system": true, "message": "x"}),
        json!({"message": "x"}),
        json!({"sender_id": ADA, "system": true, "message": "x"}),
    ] {
        let error = send(&stack, merged(body, json!({"conversation_id": conversation}))).await.unwrap_err();
        assert!(error.starts_with("invalid_request: "), "{error}");
    }
    assert_eq!(stack.get(&path, ADA).await["items"], json!([]));
}

#[tokio::test]
async fn a_reply_names_a_message_of_its_own_conversation_only() {
    let stack = Stack::start().await;
    let (one, other) = (stack.conversation(&[ADA, BEN]).await, stack.conversation(&[ADA, 3]).await);
    let original = stack.post(&messages(one), ADA, json!({"message": "45 €?"})).await.expect(201);
    let id = &original["message_id"];
    let reply = json!({"message": "Oui", "reply_to": id, "client_id": "r"});
    let stored = stack.post(&messages(one), BEN, reply.clone()).await.expect(201);
    assert_eq!(stored["reply_to"], *id);
    assert!(!stored.to_string().contains("45 €"), "S6: no text is copied");
    stack.call("POST", &messages(other), ADA, Some(reply.clone())).await.expect_problem(404, "not_found");
    let unknown = json!({"message": "Oui", "reply_to": 1_i64 << 40});
    stack.call("POST", &messages(one), BEN, Some(unknown)).await.expect_problem(404, "not_found");
    let backend = json!({"conversation_id": other, "sender_id": ADA, "message": "Oui", "reply_to": id});
    assert!(send(&stack, backend).await.unwrap_err().starts_with("not_found: "));
    // S7: a repeat returns the first message, whatever else it says.
    let repeat = json!({"kind": "location", "data": {"latitude": 1, "longitude": 2}, "client_id": "r"});
    assert_eq!(stack.post(&messages(one), BEN, repeat).await.expect(200), stored);
    // The original may be deleted.
    let path = format!("{}/{id}", messages(one));
    stack.call("DELETE", &path, ADA, None).await.expect(204);
    let late = json!({"message": "Toujours là ?", "reply_to": id});
    assert_eq!(stack.post(&messages(one), BEN, late).await.expect(201)["reply_to"], *id);
}

#[tokio::test]
async fn only_backends_change_data_and_one_of_two_that_race_wins() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let sent = stack.post(&messages(conversation), ADA, offer("open")).await.expect(201);
    let id = &sent["message_id"];
    let path = format!("{}/{id}", messages(conversation));
    stack.call("PATCH", &path, ADA, Some(json!({"message": "40 €"}))).await.expect_problem(403, "forbidden");
    let ids = json!({"conversation_id": conversation, "message_id": id, "if_change": 0});
    let with = |state: &str| merged(ids.clone(), json!({"data": offer(state)["data"]}));
    let (one, other) = tokio::join!(update(&stack, with("accepted")), update(&stack, with("declined")));
    let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
    let won = won.unwrap();
    assert!(lost.unwrap_err().starts_with("conflict: "));
    let state = won["data"]["state"].as_str().unwrap();
    let word = if state == "accepted" { "acceptée" } else { "refusée" };
    // S2: the text is that of the data.
    assert_eq!((&won["content"], &won["change"]), (&json!(format!("Offre : 45 € ({word})")), &json!(1)));
    assert_eq!(stack.get(&path, BEN).await, won);
    // The same data make no change.
    let same = merged(ids.clone(), json!({"data": won["data"], "if_change": 1}));
    assert_eq!(update(&stack, same).await.unwrap(), won);
    for (body, code) in [
        (json!({"message": "Offre : 1 €"}), "invalid_message"),
        (json!({}), "invalid_message"),
        (json!({"data": {"amount": 1}}), "invalid_message"),
        (json!({"data": offer("expired")["data"], "message_id": 1_i64 << 40}), "not_found"),
    ] {
        let error = update(&stack, merged(ids.clone(), body.clone())).await.unwrap_err();
        assert!(error.starts_with(code), "{body}: {error}");
    }
    // A tombstone has no data; moderators read the former ones.
    let remove = json!({"conversation_id": conversation, "message_id": id, "reason": "fraud"});
    let removed = request(&stack, "chat.messages.remove", "removeMessage", remove).await.unwrap();
    assert_eq!(
        (&removed["content"], removed.get("data"), &removed["kind"]),
        (&json!(""), None, &json!("offer"))
    );
    let list = json!({"conversation_id": conversation});
    let listed = request(&stack, "chat.messages.versions", "listVersions", list).await.unwrap();
    let states: Vec<_> = listed["items"][0]["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["data"]["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["open", state]);
    // Users delete messages of the kinds that they may send.
    let own = stack.post(&messages(conversation), ADA, offer("open")).await.expect(201);
    stack
        .call("DELETE", &format!("{}/{}", messages(conversation), own["message_id"]), ADA, None)
        .await
        .expect(204);
    let order = json!({"conversation_id": conversation, "sender_id": ADA, "kind": "order", "data": {"order_id": 1, "state": "paid"}});
    let order = send(&stack, order).await.unwrap();
    let path = format!("{}/{}", messages(conversation), order["message_id"]);
    stack.call("DELETE", &path, ADA, None).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn an_offer_that_is_accepted_while_a_client_is_away_is_shown_once() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let sent = stack.post(&messages(conversation), ADA, offer("open")).await.expect(201);
    let ids = json!({"conversation_id": conversation, "message_id": sent["message_id"]});
    let mut chat = stack.socket(&format!("/ws/chat/{conversation}/?after=1&changes=0"), BEN).await;
    assert_eq!(chat.next_of("message").await["data"]["state"], "open");
    chat.close().await;
    for state in ["declined", "open", "accepted"] {
        update(&stack, merged(ids.clone(), json!({"data": offer(state)["data"]}))).await.unwrap();
    }
    let after = format!("/ws/chat/{conversation}/?after={}&changes=0", sent["message_id"]);
    let mut chat = stack.socket(&after, BEN).await;
    let frame = chat.next_of("changed").await;
    assert_eq!((&frame["message"]["data"]["state"], &frame["change"]), (&json!("accepted"), &json!(3)));
    assert_eq!(frame["message"]["content"], "Offre : 45 € (acceptée)");
    chat.expect_silence().await;
}

#[tokio::test]
async fn a_system_message_moves_no_marker_and_is_not_stopped_by_blocks() {
    let stack = Stack::with(with_system()).await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    for user in [ADA, BEN] {
        stack.call("PUT", &format!("/api/blocks/{SYSTEM}"), user, None).await.expect(204);
    }
    stack.call("PUT", &format!("/api/blocks/{ADA}"), BEN, None).await.expect(204);
    let mut ada = stack.socket(&format!("/ws/chat/{conversation}/"), ADA).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    let order = json!({"conversation_id": conversation, "system": true, "kind": "order", "client_id": "o1",
        "data": {"order_id": 12, "state": "shipped"}});
    let stored = send(&stack, order.clone()).await.unwrap();
    assert_eq!(
        (&stored["sender_id"], &stored["sender_username"], &stored["system"]),
        (&json!(SYSTEM), &json!("Le marché"), &json!(true))
    );
    assert_eq!(send(&stack, order).await.unwrap(), stored);
    for socket in [&mut ada, &mut ben] {
        let frame = socket.next_of("message").await;
        assert_eq!((&frame["content"], frame.get("client_id")), (&json!("Commande n° 12 : expédiée"), None));
    }
    // S8: it counts as unread for everyone, and notifies everyone.
    for user in [ADA, BEN] {
        let expected = json!({"conversations": 1, "messages": 1, "notifications": 1});
        eventually("an unread message", async || {
            (stack.get("/api/unread", user).await == expected).then_some(())
        })
        .await;
        let notified = &stack.get("/api/notifications", user).await["items"][0];
        assert_eq!(notified["message"], "Le marché a envoyé un message");
        assert_eq!(notified["data"]["kind"], "order");
    }
    ada.send(json!({"type": "read", "message_id": stored["message_id"]})).await;
    let read = ben.next_of("read").await;
    assert_eq!((&read["user_id"], &read["seq"]), (&json!(ADA), &json!(1)));
    assert_eq!(stack.get(&messages(conversation), ADA).await["items"][0]["is_read"], false);
    ben.send(json!({"type": "read", "message_id": stored["message_id"]})).await;
    ada.next_of("read").await;
    eventually("read by all", async || {
        let page = stack.get(&messages(conversation), ADA).await;
        (page["items"][0]["is_read"] == true).then_some(())
    })
    .await;
    // Its sender participates in no conversation.
    let participants = json!({"participants": [{"user_id": ADA}, {"user_id": SYSTEM}]});
    let backend = stack.backend().await;
    let reply = backend.request("chat.conversations.create", participants.to_string().into()).await.unwrap();
    let error = reply.headers.unwrap().get("Nats-Service-Error").unwrap().to_string();
    assert!(error.starts_with("invalid_request: "), "{error}");
}

#[tokio::test]
async fn the_files_of_kinds_and_texts_are_used_and_loaded_again() {
    let (kinds, texts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let schema = |property: &str| {
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
            "required": [property], "properties": {property: {"type": "string"}},
            "x-vyzio": {"send": ["users"], "notify": false}})
        .to_string()
    };
    let write = |text: &str| fs::write(kinds.path().join("poll.json"), text).unwrap();
    write(&schema("question"));
    let text = "message_received = Nouveau\n    .message = { $kind ->\n        [offer] { $sender_username } vous fait une offre\n       *[other] { $kind }\n    }\n";
    fs::write(texts.path().join("fr.ftl"), text).unwrap();
    let env = vec![
        ("KINDS_DIR", kinds.path().to_string_lossy().into_owned()),
        ("CATALOGUE_DIR", texts.path().to_string_lossy().into_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = messages(conversation);
    let poll = |property: &str| json!({"message": "Une question", "kind": "poll", "data": {property: "x"}});
    // A silent message is unread, but causes no notification. The next one counts both.
    let asked = merged(poll("question"), json!({"client_id": "poll-1"}));
    let first = stack.post(&path, ADA, asked.clone()).await.expect(201);
    stack.post(&path, ADA, offer("open")).await.expect(201);
    let notified = eventually("a notification", async || {
        stack.get("/api/notifications", BEN).await["items"].get(0).cloned()
    })
    .await;
    assert_eq!(
        (&notified["message"], &notified["data"]["count"]),
        (&json!("name-1 vous fait une offre"), &json!(2))
    );
    assert_eq!(stack.get("/api/unread", BEN).await["messages"], 2);

    // A broken file changes nothing; a good one is used from then on.
    let schema_of = async || stack.get("/api/kinds", ADA).await["kinds"][4]["schema"]["required"][0].clone();
    write("{");
    stack.signal(Kind::Chat, 0, Signal::Hup);
    eventually("the failed reload", async || {
        stack.metrics(Kind::Chat, 0).await.contains("chat_kinds_reloads_failed_total 1").then_some(())
    })
    .await;
    stack.post(&path, ADA, poll("question")).await.expect(201);
    write(&schema("subject"));
    stack.signal(Kind::Chat, 0, Signal::Hup);
    eventually("the new schema", async || (schema_of().await == "subject").then_some(())).await;
    stack.call("POST", &path, ADA, Some(poll("question"))).await.expect_problem(400, "invalid_message");
    // The message was stored before the schema changed.
    assert_eq!(stack.post(&path, ADA, asked).await.expect(200), first);
    stack.post(&path, ADA, poll("subject")).await.expect(201);
}
