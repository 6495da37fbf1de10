use e2e::{Kind, Options, Socket, Stack, eventually, token, within};
use futures_util::future::join_all;
use serde_json::json;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// A client's address, in `X-Forwarded-For`.
const ADDRESS: &str = "203.0.113.77";
const TEXT: &str = "Tout le monde peut-il lire ceci ?";

#[tokio::test]
async fn logs_contain_no_token_text_or_address() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = lines.clone();
    let options = Options {
        counts: [1; 4],
        env: vec![
            ("RUST_LOG", "debug".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("TRUSTED_PROXIES", "127.0.0.0/8".to_owned()),
            ("HANDSHAKE_RATE", "1".to_owned()),
            ("HANDSHAKE_BURST", "3".to_owned()),
        ],
        on_line: Arc::new(move |name, line| kept.lock().unwrap().push(format!("{name} {line}"))),
        ..Options::default()
    };
    let mut stack = Stack::with(options).await;
    let id = stack.conversation(&[1, 2]).await;
    let url = format!("ws://{}/ws/chat/{id}/?token={}", stack.host(0), token(1));
    let forwarded = [("x-forwarded-for", ADDRESS)];

    // Successful commands, and errors of clients.
    let mut ada = Socket::try_open(&url, &forwarded).await.unwrap();
    ada.send(json!({"message": TEXT, "client_id": "c1"})).await;
    assert_eq!(ada.next().await["content"], TEXT);
    ada.send(json!({"message": TEXT, "client_id": "c1"})).await;
    assert_eq!(ada.next().await["seq"], 1);
    ada.send(json!({"message": TEXT.repeat(300)})).await;
    assert_eq!(ada.next().await["code"], "message_too_long");
    ada.send_text(format!("{{\"message\": \"{TEXT}")).await;
    assert_eq!(ada.next().await["code"], "invalid_json");
    ada.send(json!({"type": "auth", "token": format!("{}x", token(1))})).await;
    assert_eq!(ada.next().await["code"], "unauthorized");
    let forged = format!("{}x", token(2));
    let wrong = format!("ws://{}/ws/chat/{id}/?token={forged}", stack.host(0));
    assert_eq!(Socket::try_open(&wrong, &forwarded).await.unwrap().closed().await, Some(4401));
    let path = format!("/api/conversations/{id}/messages");
    stack.post(&path, 2, json!({"message": TEXT})).await.expect(201);
    assert_eq!(ada.next().await["seq"], 2);
    stack.post(&path, 2, json!({"message": TEXT, "client_id": ""})).await.expect(400);
    // Three at once are allowed.
    let opened = join_all((0..10).map(|_| Socket::try_open(&url, &forwarded))).await;
    assert_eq!(opened.into_iter().find_map(Result::err).unwrap(), 429);
    let event = json!({"user_id": 2, "title": TEXT, "message": TEXT}).to_string();
    let backend = stack.backend().await;
    for event in [event, format!("{{\"message\": \"{TEXT}")] {
        backend.publish("events.announced", event.into()).await.unwrap();
    }
    let dead = async || stack.metrics(Kind::Notify, 0).await.contains("deadletters_total 1").then_some(());
    eventually("a dead letter", dead).await;

    // Failures of services.
    stack.kill(Kind::Chat, 0).await;
    ada.send(json!({"message": TEXT, "client_id": "c2"})).await;
    assert_eq!(ada.next().await["code"], "unavailable");
    stack.nats.kill().await;
    stack.nats.restart().await.unwrap();
    stack.restart(Kind::Chat, 0);
    stack.ready().await;
    ada.send(json!({"message": TEXT, "client_id": "c2"})).await;
    assert_eq!(ada.next().await["seq"], 3);
    for (kind, index) in stack.services() {
        stack.terminate(kind, index).await;
    }

    let lines = lines.lock().unwrap();
    for name in ["gateway", "chat-service", "notify-service", "typing-service"] {
        assert!(
            lines.iter().any(|line| line.starts_with(name) && line.contains("DEBUG")),
            "{name} has no debug lines"
        );
    }
    for line in lines.iter() {
        let (_, json) = line.split_once(' ').unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "not JSON: {line}");
        for secret in [TEXT, "peut-il lire", ADDRESS, &token(1)[40..], &forged[40..]] {
            assert!(!line.contains(secret), "{secret} in: {line}");
        }
    }
}

#[tokio::test]
async fn the_log_filter_can_be_changed_while_a_service_runs() {
    let (sender, mut lines) = mpsc::channel(1000);
    let options = Options {
        counts: [1, 0, 0, 0],
        env: vec![("RUST_LOG", "info".to_owned())],
        on_line: Arc::new(move |_, line| drop(sender.try_send(line.to_owned()))),
        ..Options::default()
    };
    let stack = Stack::with(options).await;
    let url = format!("http://{}/log", stack.admin(Kind::Gateway, 0));
    let get = async || stack.http().get(&url).send().await.unwrap().text().await.unwrap();
    let put = async |body: String| {
        let response = stack.http().put(&url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get().await, "info\n");

    // Debug lines of the service appear with the new filter.
    assert_eq!(put("warn,service=info,gateway=debug".to_owned()).await.0, 200);
    let filter = get().await;
    for part in ["gateway=debug", "service=info", "warn"] {
        assert!(filter.contains(part), "{filter}");
    }
    let mut refused = Socket::open(&format!("ws://{}/ws/notifications/?token=x", stack.host(0))).await;
    assert_eq!(refused.closed().await, Some(4401));
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains("DEBUG")) {
        seen.push(within("a debug line", lines.recv()).await.unwrap());
    }
    assert!(seen.iter().any(|line| line.contains("the log filter was changed")), "{seen:?}");

    // A refused filter changes nothing.
    for (body, reason) in [("gateway=loud", "expected one of"), ("", "empty"), (" \n", "empty")] {
        let (status, text) = put(body.to_owned()).await;
        assert!(
            status == 400 && text.contains(reason) && text.contains("info,gateway=debug"),
            "{status} {text}"
        );
    }
    assert_eq!(put("info,".repeat(1000)).await.0, 413);
    assert_eq!(get().await, filter);
    assert_eq!(put("error".to_owned()).await, (200, "error\n".to_owned()));
}
