//! The HTTP API for backends: its calls, keys, limits, and repeats over HTTP and NATS.

use async_nats::jetstream;
use e2e::{Answer, BACKEND_KEY, Kind, Options, Stack, eventually, token, within};
use futures_util::{StreamExt, future::join_all};
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

const EVENTS: &str = "events-key-of-thirty-two-letters";
const CHAT: &str = "chat-key-of-thirty-two-letters-x";
const SESSIONS: &str = "sessions-key-of-32-letters-xxxxx";
const USERS: &str = "users-key-of-thirty-two-letters-";
const MODERATION: &str = "moderation-key-of-32-letters-xxx";

fn with(env: &[(&'static str, &str)]) -> Options {
    Options {
        env: env.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        ..Options::default()
    }
}

/// Calls a gateway with a key and other headers.
async fn call(
    stack: &Stack,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let url = format!("http://{}{path}", stack.host(0));
    let mut request = stack.http().request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    Answer::of(request).await
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn event(payment: i64) -> Value {
    json!({"user_id": 1, "data": {"payment_id": payment}})
}

/// Waits until a user has `count` notifications, and returns their payments, oldest first.
async fn payments(stack: &Stack, user: i64, count: usize) -> Vec<Value> {
    eventually(&format!("{count} notifications"), || async {
        let page = stack.get("/api/notifications?after=0", user).await;
        let items = page["items"].as_array().unwrap();
        (items.len() == count).then(|| items.iter().map(|item| item["data"]["payment_id"].clone()).collect())
    })
    .await
}

#[tokio::test]
async fn backends_use_every_call() {
    let stack = Stack::start().await;
    let post = async |path: &str, body: Value| stack.call_as_backend("POST", path, Some(body)).await;
    let wanted = json!({
        "participants": [{"user_id": 456, "username": "john_doe"}, {"user_id": 457}],
        "listing_id": 12, "title": "Vélo",
    });
    let made = post("/backend/conversations", wanted.clone()).await.expect(201);
    assert_eq!(made["participants"][0]["username"], "john_doe");
    let again = post("/backend/conversations", wanted.clone()).await.expect(200);
    assert_eq!(again["conversation_id"], made["conversation_id"]);
    // On NATS it is the same conversation.
    let nats = stack.backend().await;
    let reply = nats.request("chat.conversations.create", wanted.to_string().into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&reply.payload).unwrap(), again);

    let path = format!("/backend/conversations/{}", made["conversation_id"]);
    let messages = format!("{path}/messages");
    let mut page = stack.socket(&format!("/ws/chat/{}/", made["conversation_id"]), 457).await;
    let send = json!({"sender_id": 456, "message": " Bonjour ", "client_id": "question-31"});
    let sent = post(&messages, send).await.expect(201);
    assert_eq!((&sent["content"], &sent["client_id"]), (&json!("Bonjour"), &json!("question-31")));
    assert_eq!(page.next().await["content"], "Bonjour");
    let one = stack.call_as_backend("GET", &path, None).await.expect(200);
    assert_eq!((&one["title"], &one["last_message"]["content"]), (&json!("Vélo"), &json!("Bonjour")));

    let message = format!("{messages}/{}", sent["message_id"]);
    let change = json!({"message": "Bonsoir", "if_change": 0});
    let changed = stack.call_as_backend("PATCH", &message, Some(change.clone())).await.expect(200);
    assert_eq!((&changed["content"], &changed["change"]), (&json!("Bonsoir"), &json!(1)));
    stack.call_as_backend("PATCH", &message, Some(change)).await.expect_problem(409, "conflict");
    assert_eq!(page.next().await["message"]["content"], "Bonsoir");
    let reason = json!({"reason": "rude"});
    let removed = stack.call_as_backend("DELETE", &message, Some(reason.clone())).await.expect(200);
    assert_eq!((&removed["content"], &removed["deleted_by"]), (&json!(""), &json!("moderation")));
    assert_eq!(stack.call_as_backend("DELETE", &message, Some(reason)).await.expect(200), removed);
    post(&messages, json!({"sender_id": 457, "message": "Encore"})).await.expect(201);
    let newest = stack.call_as_backend("GET", &format!("{messages}?limit=1"), None).await.expect(200);
    assert_eq!(newest["items"][0]["content"], "Encore");
    let older = format!("{path}/versions?limit=1&before={}", newest["next"]);
    let older = stack.call_as_backend("GET", &older, None).await.expect(200);
    assert_eq!(
        (&older["items"][0]["versions"][0]["content"], &older["next"]),
        (&json!("Bonjour"), &Value::Null)
    );
    assert_eq!(older["items"][0]["versions"][1]["reason"], "rude");

    assert!(page.next().await["message"]["deleted_at"].is_string());
    // Then the marker that moved past the deleted message, and the next message.
    while page.next().await["content"] != "Encore" {}
    let revoked = post("/backend/sessions/revoke", json!({"user_id": 457})).await.expect(200);
    assert!(revoked["revoked_before"].is_string());
    assert_eq!(page.closed().await, Some(4401));

    let stored = post("/backend/events/payment_completed", event(789)).await.expect(202);
    assert!(stored["event_id"].is_string() && stored["seq"].is_number(), "{stored}");
    assert_eq!(payments(&stack, 1, 1).await, [789]);
    let key = stack.call_as_backend("GET", "/backend/whoami", None).await.expect(200);
    assert_eq!(
        (&key["name"], &key["scopes"]),
        (&json!("shop"), &json!(["events", "chat", "users", "sessions", "moderation"]))
    );
    // The start of the HMAC that docs/publishing.md describes.
    assert_eq!(key["signing_key_id"], SIGNING_KEY_ID);
}

#[tokio::test]
async fn backends_send_kinds_replies_and_system_messages_and_change_data() {
    let stack = Stack::with(with(&[("SYSTEM_USER_ID", "9000")])).await;
    let conversation = stack.conversation(&[456, 457]).await;
    let messages = format!("/backend/conversations/{conversation}/messages");
    let post = async |body: Value| stack.call_as_backend("POST", &messages, Some(body)).await;
    let open = json!({"amount": 4500, "currency": "EUR", "state": "open"});
    let offer = json!({"sender_id": 456, "kind": "offer", "data": open, "client_id": "offer-1"});
    let sent = post(offer.clone()).await.expect(201);
    assert_eq!((&sent["kind"], &sent["data"]), (&json!("offer"), &open));
    assert_eq!(post(offer).await.expect(200)["message_id"], sent["message_id"], "a repeat");

    let message = format!("{messages}/{}", sent["message_id"]);
    let accepted = json!({"amount": 4500, "currency": "EUR", "state": "accepted"});
    let change = json!({"data": accepted, "if_change": 0});
    let changed = stack.call_as_backend("PATCH", &message, Some(change)).await.expect(200);
    assert_eq!((&changed["data"], &changed["change"]), (&accepted, &json!(1)));
    let order = json!({"system": true, "kind": "order", "data": {"order_id": 12, "state": "placed"}});
    let placed = post(order).await.expect(201);
    assert_eq!((&placed["sender_id"], &placed["system"]), (&json!(9000), &json!(true)));
    let reply = json!({"sender_id": 457, "message": "Merci", "reply_to": sent["message_id"]});
    assert_eq!(post(reply).await.expect(201)["reply_to"], sent["message_id"]);

    for (body, status, code) in [
        (json!({"sender_id": 456, "kind": "offer", "data": {"amount": "x"}}), 400, "invalid_message"),
        (json!({"sender_id": 456, "message": "a", "reply_to": 1_000_000}), 404, "not_found"),
        (json!({"sender_id": 456, "message": "a", "system": true}), 400, "invalid_request"),
        (json!({"message": "a"}), 400, "invalid_request"),
        (json!({"sender_id": 456}), 400, "invalid_message"),
    ] {
        post(body).await.expect_problem(status, code);
    }
}

#[tokio::test]
async fn backends_export_and_erase_a_user() {
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[456, 457]).await;
    let messages = format!("/backend/conversations/{conversation}/messages");
    for number in 0..220 {
        let body = json!({"sender_id": 456, "message": format!("message {number}")});
        stack.call_as_backend("POST", &messages, Some(body)).await.expect(201);
    }
    let url = format!("http://{}/backend/users/456/export", stack.host(0));
    let response = stack.http().get(url).bearer_auth(BACKEND_KEY).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let lines = response.text().await.unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<&Value> = records
        .iter()
        .filter_map(|record| record.get("message"))
        .map(|message| &message["content"])
        .collect();
    assert_eq!(texts.len(), 220, "several pages");
    assert_eq!(texts[219], "message 219");
    assert_eq!(records.iter().filter(|record| record.get("conversation").is_some()).count(), 1);

    let erase =
        async |body: Value| stack.call_as_backend("POST", "/backend/users/456/erase", Some(body)).await;
    let erasure = erase(json!({"reason": "her request"})).await.expect(202);
    assert_eq!(erase(json!({})).await.expect(202), erasure);
    erase(json!({"reason": ""})).await.expect_problem(400, "invalid_request");
    eventually("the erasure", async || {
        let page = stack.get(&format!("/api/conversations/{conversation}/messages?limit=200"), 457).await;
        let items = page["items"].as_array().unwrap();
        items.iter().all(|item| item["deleted_by"] == "erasure").then_some(())
    })
    .await;
}

/// `hmac.new(SECRET, b"vyzio signing key", "sha256").hexdigest()[:16]`.
const SIGNING_KEY_ID: &str = "055ce324c4aefe31";

#[tokio::test]
async fn errors_of_backends_are_problems() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let messages = format!("/backend/conversations/{id}/messages");
    let long = json!({"sender_id": 1, "message": "x".repeat(4_001)});
    let large = json!({"user_id": 1, "data": {"text": "x".repeat(70_000)}});
    let send = |sender: i64| json!({"sender_id": sender, "message": "x"});
    for (method, path, body, status, code) in [
        ("POST", "/backend/events/payment_completed", json!({}), 400, "invalid_request"),
        ("POST", "/backend/events/payment_completed", json!([event(1)]), 400, "invalid_request"),
        ("POST", "/backend/events/read_all", event(1), 400, "invalid_request"),
        ("POST", "/backend/events/a%20b", event(1), 400, "invalid_request"),
        ("POST", "/backend/events/payment_completed", large, 413, "payload_too_large"),
        ("POST", "/backend/events", event(1), 400, "invalid_request"),
        ("POST", "/backend/conversations", json!({"participants": [{"user_id": 1}]}), 400, "invalid_request"),
        ("POST", &messages, send(3), 403, "forbidden"),
        ("POST", &messages, json!({"sender_id": 0, "message": "x"}), 400, "invalid_message"),
        ("POST", &messages, long, 422, "message_too_long"),
        ("POST", "/backend/conversations/999999/messages", send(1), 403, "forbidden"),
        ("PATCH", &format!("{messages}/999999"), json!({"message": "x"}), 404, "not_found"),
        ("DELETE", &format!("{messages}/999999"), json!({"reason": "x"}), 404, "not_found"),
        ("DELETE", &format!("{messages}/999999"), json!({"reason": ""}), 400, "invalid_request"),
        ("GET", "/backend/conversations/999999", Value::Null, 404, "not_found"),
        ("GET", "/backend/conversations/x", Value::Null, 404, "not_found"),
        ("GET", &format!("{messages}?after=x"), Value::Null, 400, "invalid_request"),
        ("GET", &format!("{messages}?limit=51"), Value::Null, 400, "invalid_request"),
        ("POST", "/backend/sessions/revoke", json!({"user_id": 1, "except_jti": ""}), 400, "invalid_request"),
        ("PUT", "/backend/whoami", Value::Null, 405, "method_not_allowed"),
        ("GET", "/backend/other", Value::Null, 404, "not_found"),
    ] {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = stack.call_as_backend(method, path, body).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (status, Some(code)),
            "{method} {path} {answer:?}"
        );
    }
    let key = bearer(BACKEND_KEY);
    let url = format!("http://{}/backend/events/payment_completed", stack.host(0));
    let plain = stack.http().post(url).header("authorization", &key).body(event(1).to_string());
    Answer::of(plain).await.expect_problem(415, "unsupported_media_type");
    let long = "k".repeat(257);
    for wrong in ["", " ", "é", &long] {
        let headers = [("authorization", &*key), ("idempotency-key", wrong)];
        let answer =
            call(&stack, ("POST", "/backend/events/payment_completed"), &headers, Some(&event(1))).await;
        answer.expect_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn without_keys_there_is_no_api_for_backends() {
    // Empty variables are unset ones, as compose passes them on.
    let empty =
        ["BACKEND_KEYS", "BACKEND_KEYS_FILE", "KINDS_DIR", "CATALOGUE_DIR", "WEBHOOKS", "EDIT_SECONDS"];
    let stack = Stack::with(with(&empty.map(|name| (name, "")))).await;
    for path in ["/backend/whoami", "/backend/openapi.json", "/backend/docs", "/backend/events"] {
        let url = format!("http://{}{path}", stack.host(0));
        let response = stack.http().get(url).bearer_auth(BACKEND_KEY).send().await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "not_found");
    }
}

#[tokio::test]
async fn each_scope_permits_its_calls_and_no_others() {
    let keys = format!(
        "{EVENTS}\n# comment\n,chat:{CHAT}:chat\nsessions:{SESSIONS}:sessions,users:{USERS}:users\n\
         moderation:{MODERATION}:moderation",
        EVENTS = format_args!("events:{EVENTS}:events")
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, keys).unwrap();
    let stack =
        Stack::with(with(&[("BACKEND_KEYS", ""), ("BACKEND_KEYS_FILE", file.to_str().unwrap())])).await;
    let document: Value = stack
        .http()
        .get(format!("http://{}/backend/openapi.json", stack.host(0)))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let mut calls = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let needed = match path.split('/').nth(2).unwrap() {
                _ if path.ends_with("/versions") => Some("moderation"),
                "events" => Some("events"),
                "conversations" => Some("chat"),
                "sessions" => Some("sessions"),
                "users" => Some("users"),
                "whoami" => None,
                other => panic!("the scope of {other} is not tested"),
            };
            let real =
                path.replace("{type}", "a").replace("{conversation_id}", "1").replace("{message_id}", "1");
            // Not a user: an export would succeed.
            let real = real.replace("{user_id}", "0");
            for (name, key) in [
                ("events", EVENTS),
                ("chat", CHAT),
                ("sessions", SESSIONS),
                ("users", USERS),
                ("moderation", MODERATION),
            ] {
                let key = bearer(key);
                let answer =
                    call(&stack, (&method.to_uppercase(), &real), &[("authorization", &key)], None).await;
                let is_refused =
                    answer.status == 403 && answer.body["detail"] == "the key lacks the scope for this call";
                assert_eq!(
                    is_refused,
                    needed.is_some_and(|needed| needed != name),
                    "{method} {path} with {name}: {answer:?}"
                );
                calls += 1;
            }
        }
    }
    assert!(calls >= 40, "{calls}");
}

#[tokio::test]
async fn a_key_is_never_logged_and_an_unknown_one_is_like_a_missing_one() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = lines.clone();
    let options = Options {
        on_line: Arc::new(move |_, line| kept.lock().unwrap().push(line.to_owned())),
        ..with(&[("RUST_LOG", "trace"), ("ALLOWED_ORIGINS", "*")])
    };
    let mut stack = Stack::with(options).await;
    let path = "/backend/events/payment_completed";
    let unknown = BACKEND_KEY.to_uppercase();
    let missing = call(&stack, ("POST", path), &[], Some(&event(1))).await;
    missing.expect_problem(401, "unauthorized");
    for wrong in [
        bearer(&unknown),
        bearer(&BACKEND_KEY[1..]),
        format!("Basic {BACKEND_KEY}"),
        bearer(""),
        bearer(&token(1)),
    ] {
        let answer = call(&stack, ("POST", path), &[("authorization", &wrong)], Some(&event(1))).await;
        assert_eq!((answer.status, &answer.body), (missing.status, &missing.body), "{wrong}");
    }
    // A page may not use it, even one of an allowed origin with the right key.
    let key = bearer(BACKEND_KEY);
    for method in ["POST", "OPTIONS", "GET"] {
        let mut request =
            stack.http().request(method.parse().unwrap(), format!("http://{}{path}", stack.host(0)));
        for (name, value) in [
            ("authorization", &*key),
            ("origin", "https://shop.example"),
            ("access-control-request-method", "POST"),
        ] {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 403, "{method}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "origin_not_allowed");
    }
    // A key of a backend is no token of a user.
    call(&stack, ("GET", "/api/unread"), &[("authorization", &key)], None)
        .await
        .expect_problem(401, "unauthorized");
    stack.call_as_backend("POST", path, Some(event(1))).await.expect(202);
    stack.nats.kill().await;
    stack.call_as_backend("POST", path, Some(event(1))).await.expect_problem(503, "unavailable");
    assert_eq!(stack.terminate(Kind::Gateway, 0).await, Some(0));
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains("store an event of a backend")));
    let secret = lines.iter().find(|line| line.contains(BACKEND_KEY) || line.contains(&unknown));
    assert!(secret.is_none(), "{secret:?}");
}

#[tokio::test]
async fn each_backend_has_its_own_rate() {
    let keys = format!("one:{EVENTS},one:{CHAT},other:{USERS}");
    let stack = Stack::with(with(&[("BACKEND_KEYS", &keys), ("BACKEND_RATE", "1")])).await;
    let whoami = async |key: &str| {
        call(&stack, ("GET", "/backend/whoami"), &[("authorization", &bearer(key))], None).await
    };
    // Both keys of one name count together. At once, because another call is allowed every second.
    let (one, other) = tokio::join!(whoami(EVENTS), whoami(CHAT));
    let (allowed, limited) = if one.status == 200 { (one, other) } else { (other, one) };
    allowed.expect(200);
    limited.expect_problem(429, "rate_limited");
    assert!(limited.body["retry_after_ms"].as_u64().is_some_and(|ms| (1..=1_000).contains(&ms)));
    whoami(USERS).await.expect(200);
    let metrics = stack.metrics(Kind::Gateway, 0).await;
    for (status, calls) in [("200", 2), ("429", 1)] {
        let line = format!("backend_calls_total{{route=\"/backend/whoami\",status=\"{status}\"}} {calls}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn each_event_of_a_batch_succeeds_or_fails_by_itself() {
    let stack = Stack::start().await;
    let typed = |payment: i64, id: Option<&str>| {
        let mut event = event(payment);
        event["type"] = "payment_completed".into();
        if let Some(id) = id {
            event["event_id"] = id.into();
        }
        event
    };
    let cloud = json!({
        "specversion": "1.0", "id": "c1", "source": "/pay", "type": "payment_completed", "data": event(4),
    });
    let batch = json!([typed(1, Some("e1")), {"user_id": 1}, 7, typed(2, None), {"type": "payment_completed"}, cloud]);
    let key = bearer(BACKEND_KEY);
    let headers = [("authorization", &*key), ("idempotency-key", "day-1")];
    // The second time, each event is a repeat.
    for _ in 0..2 {
        let answer = call(&stack, ("POST", "/backend/events"), &headers, Some(&batch)).await.expect(200);
        let items = answer["items"].as_array().unwrap();
        let ids: Vec<&Value> = items.iter().map(|item| &item["event_id"]).collect();
        assert_eq!(
            ids,
            [&json!("e1"), &Value::Null, &Value::Null, &json!("day-1:3"), &Value::Null, &json!("c1")]
        );
        for (index, detail) in [(1, "needs a \"type\""), (2, "needs a \"type\""), (4, "no user is named")] {
            let problem = &items[index];
            assert_eq!((&problem["status"], &problem["code"]), (&json!(400), &json!("invalid_request")));
            assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        }
    }
    stack.call_as_backend("POST", "/backend/events/payment_completed", Some(event(99))).await.expect(202);
    let mut shown = payments(&stack, 1, 4).await;
    shown.sort_by_key(Value::as_i64);
    assert_eq!(shown, [1, 2, 4, 99]);
    let many = |count: i64, text: usize| -> Value {
        (0..count)
            .map(|number| json!({"type": "payment_completed", "user_id": 2, "data": {"payment_id": number, "text": "x".repeat(text)}}))
            .collect()
    };
    stack.call_as_backend("POST", "/backend/events", Some(json!([]))).await.expect(200);
    // Far over the limit of other bodies.
    let full = stack.call_as_backend("POST", "/backend/events", Some(many(100, 9_000))).await.expect(200);
    assert!(full["items"].as_array().unwrap().iter().all(|item| item["seq"].is_number()));
    stack
        .call_as_backend("POST", "/backend/events", Some(many(101, 1)))
        .await
        .expect_problem(400, "invalid_request");
    let large = stack.call_as_backend("POST", "/backend/events", Some(many(100, 11_000))).await;
    large.expect_problem(413, "payload_too_large");
}

/// Law W2, and the documented answer to a key with another body: the first one counts.
#[tokio::test]
async fn an_event_or_message_counts_once_over_http_nats_or_both() {
    let stack = Stack::start().await;
    let nats = stack.backend().await;
    let jetstream = jetstream::new(nats.clone());
    let publish = async |id: &str, payment: i64| {
        let body = json!({"event_id": id, "user_id": 1, "data": {"payment_id": payment}}).to_string();
        jetstream.publish("events.payment_completed", body.into()).await.unwrap().await.unwrap();
    };
    let key = bearer(BACKEND_KEY);
    let post = async |id: &str, payment: i64| {
        let headers = [("authorization", &*key), ("idempotency-key", id)];
        let path = ("POST", "/backend/events/payment_completed");
        let stored = call(&stack, path, &headers, Some(&event(payment))).await.expect(202);
        assert_eq!(stored["event_id"], id);
    };
    post("http-first", 1).await;
    publish("http-first", 2).await;
    publish("nats-first", 3).await;
    post("nats-first", 4).await;
    post("http-twice", 5).await;
    post("http-twice", 6).await;
    post("last", 7).await;
    assert_eq!(payments(&stack, 1, 4).await, [1, 3, 5, 7]);
    // A CloudEvent keeps its own identity, in its binary form, too.
    let cloud = [
        ("authorization", &*key),
        ("ce-specversion", "1.0"),
        ("ce-id", "c1"),
        ("ce-source", "/pay"),
        ("ce-type", "payment_completed"),
        ("idempotency-key", "ignored"),
    ];
    for payment in [8, 9] {
        let path = ("POST", "/backend/events/payment_completed");
        let stored = call(&stack, path, &cloud, Some(&event(payment))).await.expect(202);
        assert_eq!(stored["event_id"], "c1");
    }
    post("ignored", 10).await;
    assert_eq!(payments(&stack, 1, 6).await[4..], [8, 10]);

    let id = stack.conversation(&[1, 2]).await;
    let messages = format!("/backend/conversations/{id}/messages");
    let send = async |headers: &[(&str, &str)], client: Option<&str>, text: &str| {
        let mut body = json!({"sender_id": 1, "message": text});
        if let Some(client) = client {
            body["client_id"] = client.into();
        }
        let headers: Vec<_> = headers.iter().copied().chain([("authorization", &*key)]).collect();
        call(&stack, ("POST", &messages), &headers, Some(&body)).await
    };
    let first = send(&[("idempotency-key", "c1")], None, "one").await.expect(201);
    let repeat = send(&[], Some("c1"), "another text").await.expect(200);
    assert_eq!(repeat, first);
    let body = json!({"conversation_id": id, "sender_id": 1, "message": "a third text", "client_id": "c1"});
    let reply = nats.request("chat.messages.send", body.to_string().into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&reply.payload).unwrap(), first);
    let second = send(&[("idempotency-key", "c1")], Some("c2"), "two").await.expect(201);
    assert_eq!(
        (&second["seq"], &second["client_id"]),
        (&json!(2), &json!("c2")),
        "the body's client_id counts"
    );
}

/// Law W1: 202 means that JetStream has the event.
#[tokio::test]
async fn an_event_is_accepted_only_once_jetstream_has_it() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    stack.kill(Kind::Notify, 0).await;
    let path = "/backend/events/payment_completed";
    let event = |payment: i64| json!({"event_id": format!("p-{payment}"), "user_id": 1, "data": {"payment_id": payment}});
    stack.call_as_backend("POST", path, Some(event(1))).await.expect(202);
    stack.nats.kill().await;
    stack.call_as_backend("POST", path, Some(event(2))).await.expect_problem(503, "unavailable");
    stack.nats.restart().await.unwrap();
    eventually("the repeat to be accepted", || async {
        (stack.call_as_backend("POST", path, Some(event(2))).await.status == 202).then_some(())
    })
    .await;
    // Without the stream, nothing is accepted.
    let jetstream = jetstream::new(stack.backend().await);
    let stored = jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.messages;
    assert!((2..=3).contains(&stored), "{stored}");
    stack.restart(Kind::Notify, 0);
    stack.ready().await;
    let mut shown = payments(&stack, 1, 2).await;
    shown.sort_by_key(Value::as_i64);
    assert_eq!(shown, [1, 2]);
    stack.kill(Kind::Notify, 0).await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    stack.call_as_backend("POST", path, Some(event(3))).await.expect_problem(503, "unavailable");
}

#[tokio::test]
async fn keys_are_rotated_under_load_without_a_refusal() {
    let mut stack = Stack::with(Options {
        counts: [2, 1, 1, 1],
        servers: 1,
        ..with(&[("BACKEND_KEYS", &format!("shop:{EVENTS}"))])
    })
    .await;
    let (current, over, accepted) =
        (Arc::new(Mutex::new(EVENTS)), Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
    let hosts = [stack.host(0), stack.host(1)];
    let publishers: Vec<_> = (0..4_usize)
        .map(|publisher| {
            let (current, over, accepted) = (current.clone(), over.clone(), accepted.clone());
            let (http, hosts) = (stack.http().clone(), hosts.clone());
            tokio::spawn(async move {
                for number in publisher.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = *current.lock().unwrap();
                    let url = format!("http://{}/backend/events/payment_completed", hosts[number % 2]);
                    let event = json!({"event_id": format!("{publisher}-{number}"), "user_id": 1});
                    // A gateway that restarts refuses the connection, and the backend uses the other one.
                    let Ok(response) = http.post(url).bearer_auth(key).json(&event).send().await else {
                        continue;
                    };
                    let status = response.status().as_u16();
                    assert!([202, 503].contains(&status), "{status}");
                    *accepted.lock().unwrap() += u32::from(status == 202);
                }
            })
        })
        .collect();
    let more = async || {
        let before = *accepted.lock().unwrap();
        eventually("more events", || async { (*accepted.lock().unwrap() > before + 20).then_some(()) }).await;
    };
    let rotation = [format!("shop:{EVENTS},shop:{CHAT}"), format!("shop:{CHAT}")];
    for (step, keys) in rotation.into_iter().enumerate() {
        for gateway in 0..2 {
            more().await;
            stack.set_env(Kind::Gateway, gateway, "BACKEND_KEYS", keys.clone());
            assert_eq!(stack.terminate(Kind::Gateway, gateway).await, Some(0));
            stack.restart(Kind::Gateway, gateway);
            stack.ready().await;
        }
        if step == 0 {
            // The backends switch after all gateways know both keys.
            *current.lock().unwrap() = CHAT;
            more().await;
            // Calls in progress with the former key have ended.
            more().await;
        }
    }
    more().await;
    over.store(true, Ordering::Relaxed);
    join_all(publishers).await.into_iter().for_each(|ended| ended.unwrap());
    call(&stack, ("GET", "/backend/whoami"), &[("authorization", &bearer(EVENTS))], None)
        .await
        .expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn the_api_for_backends_has_its_own_document_and_page() {
    let stack = Stack::start().await;
    let origin = format!("http://{}", stack.host(0));
    let read = async |path: &str| stack.http().get(format!("{origin}{path}")).send().await.unwrap();
    let document: Value = read("/backend/openapi.json").await.json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/backend/"), "{path}");
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            for status in ["401", "403", "429"] {
                assert!(
                    operation["responses"][status].is_object(),
                    "{method} {path} does not document {status}"
                );
            }
        }
    }
    let clients: Value = read("/api/openapi.json").await.json().await.unwrap();
    assert!(clients["paths"].as_object().unwrap().keys().all(|path| path.starts_with("/api/")));
    assert_eq!(read("/backend/docs").await.status(), 200);
    assert_eq!(read("/backend/docs/swagger-ui.css").await.status(), 200);
    assert_eq!(read("/backend/docs/").await.url().path(), "/backend/docs");
}

#[tokio::test]
async fn an_event_has_the_headers_of_cloudevents_and_no_others() {
    let stack = Stack::start().await;
    let nats = stack.backend().await;
    let mut events = testkit::nats::subscribe(&nats, "events.payment_completed").await.unwrap();
    let key = bearer(BACKEND_KEY);
    let headers = [("authorization", &*key), ("ce-id", "c1"), ("ce-source", "/pay"), ("x-other", "x")];
    call(&stack, ("POST", "/backend/events/payment_completed"), &headers, Some(&event(1))).await.expect(202);
    let message = within("the event", events.next()).await.unwrap();
    let headers = message.headers.unwrap();
    let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string().to_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["ce-id", "ce-source", "content-type"]);
    assert_eq!(message.payload, event(1).to_string());
}
