use e2e::{Answer, Kind, Options, Socket, Stack, eventually, token};
use serde_json::{Value, json};

#[tokio::test]
async fn conversations_are_created_once_and_listed_by_activity() {
    let stack = Stack::start().await;
    let wanted = json!({"participant_ids": [2], "listing_id": 12, "title": "Vélo"});
    let made = stack.post("/api/conversations", 1, wanted.clone()).await.expect(201);
    assert_eq!(
        made["participants"],
        json!([{"user_id": 1, "username": "name-1"}, {"user_id": 2, "username": "user-2"}])
    );
    assert_eq!(
        (&made["listing_id"], &made["title"], &made["unread_count"]),
        (&json!(12), &json!("Vélo"), &json!(0))
    );
    assert_eq!(made["last_message"], Value::Null);
    let again = stack
        .post("/api/conversations", 2, json!({"participant_ids": [1, 2], "listing_id": 12}))
        .await
        .expect(200);
    assert_eq!(again["conversation_id"], made["conversation_id"]);
    let other = stack.conversation(&[1, 3]).await;
    let id = made["conversation_id"].as_i64().unwrap();
    stack
        .post(&format!("/api/conversations/{id}/messages"), 2, json!({"message": "Bonjour"}))
        .await
        .expect(201);
    let listed = stack.get("/api/conversations", 1).await;
    let ids: Vec<i64> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["conversation_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [id, other]);
    assert_eq!(listed["items"][0]["last_message"]["content"], "Bonjour");
    assert_eq!(listed["items"][0]["unread_count"], 1);
    assert_eq!(listed["next"], Value::Null);
    let page = stack.get("/api/conversations?limit=1", 1).await;
    let rest = stack.get(&format!("/api/conversations?limit=1&before={}", page["next"]), 1).await;
    assert_eq!(rest["items"][0]["conversation_id"], other);
    assert_eq!(stack.get(&format!("/api/conversations/{id}"), 1).await["title"], "Vélo");
    let counted = json!({"conversations": 1, "messages": 1, "notifications": 1});
    eventually("the notification to be counted", async || {
        (stack.get("/api/unread", 1).await == counted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_are_paged_in_both_directions() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/api/conversations/{id}/messages");
    for text in ["a", "b", "c", "d", "e"] {
        stack.post(&path, 1, json!({"message": text})).await.expect(201);
    }
    let texts = |page: &Value| -> String {
        page["items"].as_array().unwrap().iter().map(|item| item["content"].as_str().unwrap()).collect()
    };
    let newest = stack.get(&format!("{path}?limit=2"), 2).await;
    assert_eq!(texts(&newest), "ed");
    let older = stack.get(&format!("{path}?limit=2&before={}", newest["next"]), 2).await;
    assert_eq!(texts(&older), "cb");
    let oldest = stack.get(&format!("{path}?limit=2&before={}", older["next"]), 2).await;
    assert_eq!((texts(&oldest).as_str(), &oldest["next"]), ("a", &Value::Null));
    let forward = stack.get(&format!("{path}?limit=3&after=0"), 2).await;
    assert_eq!(texts(&forward), "abc");
    assert_eq!(texts(&stack.get(&format!("{path}?after={}", forward["next"]), 2).await), "de");
}

#[tokio::test]
async fn every_error_is_a_problem_with_a_code() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let host = format!("http://{}", stack.host(0));
    let call = |method: &str, path: &str| {
        stack.http().request(method.parse().unwrap(), format!("{host}{path}")).bearer_auth(token(1))
    };
    Answer::of(call("GET", "/nothing")).await.expect_problem(404, "not_found");
    Answer::of(call("GET", "/api/conversations/x")).await.expect_problem(404, "not_found");
    Answer::of(call("PATCH", "/api/conversations")).await.expect_problem(405, "method_not_allowed");
    Answer::of(call("GET", &format!("/ws/chat/{id}/"))).await.expect_problem(426, "upgrade_required");
    let post = || call("POST", "/api/conversations");
    Answer::of(post().body("{}")).await.expect_problem(415, "unsupported_media_type");
    let json = "application/json";
    Answer::of(post().header("content-type", json).body("{")).await.expect_problem(400, "invalid_json");
    Answer::of(post().header("content-type", json).body("[]")).await.expect_problem(400, "invalid_message");
    let large = "x".repeat(70_000);
    Answer::of(post().header("content-type", json).body(large))
        .await
        .expect_problem(413, "payload_too_large");
    let alone = json!({"participant_ids": [1]});
    stack.post("/api/conversations", 1, alone).await.expect_problem(400, "invalid_request");
    let crowd = json!({"participant_ids": (1..=101).collect::<Vec<_>>()});
    stack.post("/api/conversations", 1, crowd).await.expect_problem(400, "invalid_request");
    for query in ["limit=0", "limit=201", "limit=x", "before=-1", "before=1&after=2"] {
        let path = format!("/api/conversations/{id}/messages?{query}");
        stack.call("GET", &path, 1, None).await.expect_problem(400, "invalid_request");
    }
    let bare = Answer::of(stack.http().get(format!("{host}/api/conversations"))).await;
    bare.expect_problem(401, "unauthorized");
    let messages = format!("/api/conversations/{id}/messages");
    stack.post(&messages, 1, json!({"message": " "})).await.expect_problem(400, "invalid_message");
    stack
        .post(&messages, 1, json!({"message": "x".repeat(4001)}))
        .await
        .expect_problem(422, "message_too_long");
}

#[tokio::test]
async fn strangers_get_the_same_answer_whether_or_not_a_conversation_exists() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    for path in ["", "/messages", "/messages?after=0"] {
        let real = stack.call("GET", &format!("/api/conversations/{id}{path}"), 3, None).await;
        let none = stack.call("GET", &format!("/api/conversations/999999{path}"), 3, None).await;
        real.expect_problem(403, "forbidden");
        assert_eq!(real.body, none.body);
    }
    for (path, body) in [("messages", json!({"message": "x"})), ("read", json!({"message_id": 1}))] {
        let real = stack.post(&format!("/api/conversations/{id}/{path}"), 3, body.clone()).await;
        let none = stack.post(&format!("/api/conversations/999999/{path}"), 3, body).await;
        real.expect_problem(403, "forbidden");
        assert_eq!(real.body, none.body);
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let stack = Stack::start().await;
    let url = format!("ws://{}/ws/notifications/?token={}", stack.host(0), token(1));
    let foreign = Socket::try_open(&url, &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign.err().map(|status| status.as_u16()), Some(403));
    let own = format!("http://{}", stack.host(0));
    assert!(Socket::try_open(&url, &[("origin", &own)]).await.is_ok());
    let call = stack
        .http()
        .get(format!("{own}/api/unread"))
        .bearer_auth(token(1))
        .header("origin", "https://evil.example");
    Answer::of(call).await.expect_problem(403, "origin_not_allowed");
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_read_the_responses() {
    let env = vec![("ALLOWED_ORIGINS", "https://shop.example".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let url = format!("http://{}/api/unread", stack.host(0));
    let send = async |method: &str, origin: &str| {
        let call = stack.http().request(method.parse().unwrap(), &url).header("origin", origin);
        // A browser sends a preflight request first, without the token.
        let call = match method {
            "OPTIONS" => call.header("access-control-request-method", "GET"),
            _ => call.bearer_auth(token(1)),
        };
        let answer = call.send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let names = ["allow-origin", "allow-headers", "allow-credentials"];
        let values = names.map(|name| header(&format!("access-control-{name}")));
        (answer.status().as_u16(), values, header("vary"))
    };
    let shop = || Some("https://shop.example".to_owned());
    let vary = || Some("Origin".to_owned());
    let allowed = Some("authorization, content-type".to_owned());
    let (origin, evil) = ("https://shop.example", "https://evil.example");
    assert_eq!(send("OPTIONS", origin).await, (204, [shop(), allowed, None], vary()));
    assert_eq!(send("GET", origin).await, (200, [shop(), None, None], vary()));
    for method in ["OPTIONS", "GET"] {
        assert_eq!(send(method, evil).await, (403, [None, None, None], None));
    }
}

#[tokio::test]
async fn pages_have_a_strict_content_security_policy() {
    let stack = Stack::start().await;
    let docs = ["/api/docs", "/api/docs/swagger-ui-bundle.js", "/api/openapi.json"];
    for path in ["/demo/", "/demo/app.js"].into_iter().chain(docs) {
        let page = stack.http().get(format!("http://{}{path}", stack.host(0))).send().await.unwrap();
        assert_eq!(page.status(), 200, "{path}");
        let header = |name: &str| page.headers()[name].to_str().unwrap();
        let policy: Vec<&str> = header("content-security-policy").split("; ").collect();
        for rule in ["default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(&rule), "{path}: {rule}");
        }
        let others = (header("x-content-type-options"), header("referrer-policy"));
        assert_eq!(others, ("nosniff", "no-referrer"), "{path}");
    }
}

#[tokio::test]
async fn a_token_may_be_in_a_header_or_a_subprotocol() {
    let stack = Stack::start().await;
    let url = format!("ws://{}/ws/notifications/", stack.host(0));
    let header = format!("Bearer {}", token(1));
    let mut socket = Socket::try_open(&url, &[("authorization", &header)]).await.expect("a socket");
    socket.expect_silence().await;
    let protocols = format!("bearer, {}", token(1));
    let mut socket =
        Socket::try_open(&url, &[("sec-websocket-protocol", &protocols)]).await.expect("a socket");
    socket.expect_silence().await;
}

#[tokio::test]
async fn a_cookie_is_accepted_only_from_pages_of_allowed_origins() {
    let env = vec![
        ("TOKEN_COOKIE", "access_token".to_owned()),
        ("ALLOWED_ORIGINS", "https://shop.example".to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let url = format!("ws://{}/ws/notifications/", stack.host(0));
    let cookie = format!("theme=dark; access_token={}", token(1));
    let open =
        async |origin: &str| Socket::try_open(&url, &[("cookie", cookie.as_str()), ("origin", origin)]).await;
    open("https://shop.example").await.expect("a socket").expect_silence().await;
    let foreign = open("https://evil.example").await;
    assert_eq!(foreign.err().map(|status| status.as_u16()), Some(403));
    let mut anyone = Socket::try_open(&url, &[("cookie", &cookie)]).await.expect("a socket");
    assert_eq!(anyone.closed().await, Some(4401), "without an Origin header");
    // HTTP calls do not accept the cookie, because the browser sends it with requests of any page.
    let call = stack.http().get(format!("http://{}/api/unread", stack.host(0))).header("cookie", &cookie);
    Answer::of(call.header("origin", "https://shop.example")).await.expect_problem(401, "unauthorized");
    // If all origins were allowed, any page could use its visitors' cookies. Such a gateway doesn't start.
    let env = vec![("TOKEN_COOKIE", "access_token".to_owned()), ("ALLOWED_ORIGINS", "*".to_owned())];
    let mut open =
        Stack::start_without_waiting(Options { counts: [1, 0, 0, 0], env, ..Options::default() }).await;
    assert_eq!(open.wait_for_exit(Kind::Gateway, 0).await, Some(1));
}

#[tokio::test]
async fn backends_create_conversations_and_send_messages_over_nats() {
    let stack = Stack::start().await;
    let backend = stack.backend().await;
    let request = async |subject: &'static str, body: Value| {
        backend.request(subject, body.to_string().into()).await.unwrap()
    };
    let people = json!({"participants": [{"user_id": 456, "username": "john_doe"}, {"user_id": 457}], "listing_id": 3});
    let made = request("chat.conversations.create", people).await;
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert_eq!(made["participants"][0]["username"], "john_doe");
    let id = made["conversation_id"].as_i64().unwrap();
    let mut mary = stack.socket(&format!("/ws/chat/{id}/"), 457).await;
    let sent =
        request("chat.messages.send", json!({"conversation_id": id, "sender_id": 456, "message": "Bonjour"}))
            .await;
    let sent: Value = serde_json::from_slice(&sent.payload).unwrap();
    assert_eq!(sent["sender_username"], "john_doe");
    assert_eq!(mary.next().await["message_id"], sent["message_id"]);
    // Errors are in the headers of the NATS service API.
    for (body, code, text) in [
        (json!({"conversation_id": id, "sender_id": 9, "message": "x"}), "403", "forbidden"),
        (json!({"conversation_id": id, "sender_id": 456, "message": " "}), "400", "invalid_message"),
        (
            json!({"conversation_id": id, "sender_id": 456, "message": "x", "client_id": "\u{1}x"}),
            "400",
            "invalid_message",
        ),
        (json!({"sender_id": 456}), "400", "invalid_request"),
    ] {
        let headers = request("chat.messages.send", body).await.headers.expect("headers");
        assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), code);
        assert!(headers.get("Nats-Service-Error").unwrap().as_str().starts_with(text), "{headers:?}");
    }
}
