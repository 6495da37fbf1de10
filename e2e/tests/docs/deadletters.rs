//! Tests of `cargo xtask deadletters`.

use crate::{
    notifications, payments,
    tools::{self, Tool},
};
use e2e::{Options, Stack, eventually};
use serde_json::{Value, json};
use std::{fs, path::Path};
use testkit::Signal;

struct Operator {
    stack: Stack,
    jetstream: async_nats::jetstream::Context,
}

impl Operator {
    async fn start(options: Options) -> Self {
        let stack = Stack::with(options).await;
        let jetstream = async_nats::jetstream::new(stack.backend().await);
        Self { stack, jetstream }
    }

    async fn publish(&self, kind: &str, headers: &[(&str, &str)], body: &str) {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let subject = format!("events.{kind}");
        let sent = self.jetstream.publish_with_headers(subject, map, body.to_owned().into()).await.unwrap();
        assert!(!sent.await.unwrap().duplicate);
    }

    /// Runs the tool and returns its output.
    ///
    /// # Errors
    /// If it fails.
    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let url = self.stack.nats_urls("operator").join(",");
        let tool = Tool::new(tools::target().join("xtask"), Path::new("/")).arg("deadletters");
        let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(*argument));
        tool.arg(format!("--nats-url={url}")).output(&[]).await
    }

    /// Waits until there are `count` dead letters and returns them.
    async fn list(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} dead letters"), || async {
            let output = self.run(&["list", "--json"]).await.unwrap();
            let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.len() == count).then_some(lines)
        })
        .await
    }
}

/// A webhook that was given up: the tool lists its dead letter, and a replay is a new delivery with the same id.
#[tokio::test]
async fn the_dead_letter_of_a_webhook_is_replayed_to_its_endpoint() {
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (sender, mut received) = tokio::sync::mpsc::channel(100);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let is_gone = gone.clone();
    let answer = async move |headers: axum::http::HeaderMap, body: String| {
        sender.send((headers["webhook-id"].clone(), body)).await.unwrap();
        let is_gone = is_gone.load(std::sync::atomic::Ordering::SeqCst);
        if is_gone { axum::http::StatusCode::GONE } else { axum::http::StatusCode::NO_CONTENT }
    };
    let router = axum::Router::new().route("/", axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let env =
        vec![("WEBHOOK_URL", url), ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned())];
    let operator = Operator::start(Options { env, ..Options::default() }).await;
    operator.stack.post("/api/reports", 1, json!({"user_id": 2, "reason": "rude"})).await.expect(201);
    let first = received.recv().await.unwrap();
    let letters = operator.list(1).await;
    assert_eq!(
        (&letters[0]["type"], &letters[0]["reason"]),
        (&json!("webhook.default"), &json!("the last answer was 410"))
    );
    gone.store(false, std::sync::atomic::Ordering::SeqCst);
    operator.run(&["replay", "--type", "webhook.default"]).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), first);
    operator.list(0).await;
}

fn seq(line: &Value) -> String {
    line["seq"].to_string()
}

#[tokio::test]
async fn after_a_fix_of_the_catalogue_dead_letters_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = |text: &str| fs::write(folder.path().join("fr.ftl"), text).unwrap();
    let variable = ("CATALOGUE_DIR", folder.path().to_string_lossy().into_owned());
    let operator = Operator::start(Options { env: vec![variable], ..Options::default() }).await;
    assert_eq!(operator.run(&["list"]).await.unwrap(), "There are no dead letters.\n");

    // An event without an id, one with an id, one with a Nats-Msg-Id, and one that stays unusable.
    operator.publish("offer_made", &[], r#"{"user_id":1,"data":{"payment_id":1}}"#).await;
    operator
        .publish(
            "offer_made",
            &[("X-Trace", "t1")],
            r#"{"user_id":1,"event_id":"e2","data":{"payment_id":2}}"#,
        )
        .await;
    operator
        .publish("offer_made", &[("Nats-Msg-Id", "m3")], r#"{"user_id":1,"data":{"payment_id":3}}"#)
        .await;
    operator.publish("payment_completed", &[], "{\"user_id\":\"\u{1b}[2J\"}").await;
    let letters = operator.list(4).await;
    let table = operator.run(&["list"]).await.unwrap();
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.starts_with("SEQ  TIME") && table.contains("offer_made"), "{table}");
    assert!(table.contains("the type offer_made has no text in the catalogue"), "{table}");
    assert_eq!(operator.run(&["list", "--type", "payment_completed"]).await.unwrap().lines().count(), 2);

    let find =
        |kind: &str, nth: usize| seq(letters.iter().filter(|line| line["type"] == kind).nth(nth).unwrap());
    let bad = find("payment_completed", 0);
    let shown = operator.run(&["show", &bad]).await.unwrap();
    assert!(shown.contains("subject   events.payment_completed") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(operator.run(&["show", &bad, "--body"]).await.unwrap(), "{\"user_id\":\"\u{1b}[2J\"}");
    let traced = letters.iter().filter(|line| line["type"] == "offer_made").map(seq);
    let mut all = String::new();
    for seq in traced {
        all += &operator.run(&["show", &seq]).await.unwrap();
    }
    assert!(all.contains("header    X-Trace: t1") && all.contains("header    Nats-Msg-Id: m3"), "{all}");

    // An event that is still unusable becomes a new dead letter, which replaces the old one.
    let output = operator.run(&["replay", &bad]).await.unwrap();
    assert!(
        output.contains("replayed on events.payment_completed, as ")
            && output.ends_with("1 replayed, 0 left as they were\n")
    );
    let again = operator.list(4).await;
    assert!(again.iter().all(|line| seq(line) != bad));

    // Adds the type. Its events are replayed and create one notification each.
    catalogue("offer_made = Offre\n    .message = Une offre\n");
    operator.stack.signal(e2e::Kind::Notify, 0, Signal::Hup);
    eventually("the new type", || async {
        operator.publish("offer_made", &[], r#"{"user_id":2}"#).await;
        let page = operator.stack.get("/api/notifications", 2).await;
        (!page["items"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    let output = operator.run(&["replay", "--type", "offer_made"]).await.unwrap();
    assert!(output.contains(" replayed, 0 left as they were"), "{output}");
    let mut shown = payments(&notifications(&operator.stack, 1, 3).await);
    shown.sort_unstable();
    assert_eq!(shown, [1, 2, 3]);
    // Publishing them again creates no notification, within JetStream's deduplication window or after it.
    operator.publish("offer_made", &[], r#"{"user_id":1,"event_id":"e2"}"#).await;
    operator.publish("offer_made", &[], r#"{"user_id":1,"event_id":"m3"}"#).await;
    operator.publish("payment_completed", &[], r#"{"user_id":1,"data":{"payment_id":4}}"#).await;
    assert_eq!(*payments(&notifications(&operator.stack, 1, 4).await).last().unwrap(), 4);

    let output = operator.run(&["drop", "--all"]).await.unwrap();
    assert_eq!(output.lines().last(), Some("1 dropped, 0 left as they were"));
    operator.list(0).await;
    let error = operator.run(&["drop", "99"]).await.unwrap_err();
    assert!(error.contains("99: ") && error.contains("0 dropped, 1 left"), "{error}");
}

#[tokio::test]
async fn a_second_replay_keeps_the_identity_of_the_first_event() {
    let mut operator = Operator::start(Options::default()).await;
    operator
        .publish("unheard_of", &[("Nats-Msg-Id", "m1")], r#"{"user_id":1,"data":{"payment_id":1}}"#)
        .await;
    let first = seq(&operator.list(1).await[0]);
    operator.run(&["replay", &first]).await.unwrap();
    let second = eventually("a new dead letter", || async {
        let lines = operator.list(1).await;
        (seq(&lines[0]) != first).then_some(lines)
    })
    .await;
    let shown = operator.run(&["show", &seq(&second[0])]).await.unwrap();
    assert!(shown.contains("header    Replay-Of: id:m1"), "{shown}");
    // Without a stream, the replay fails and the dead letter is kept. (notify-service would create the stream again.)
    operator.stack.kill(e2e::Kind::Notify, 0).await;
    operator.jetstream.delete_stream("EVENTS").await.unwrap();
    let error = operator.run(&["replay", "--all"]).await.unwrap_err();
    assert!(error.contains("it stays a dead letter"), "{error}");
    operator.list(1).await;
}

#[tokio::test]
async fn unreadable_headers_are_removed_from_a_replay_only_on_request() {
    let operator = Operator::start(Options::default()).await;
    let body = json!({"user_id": 1, "data": {"payment_id": 5}}).to_string();
    let headers = b"NATS/1.0\r\nX-Name: Ren\xe9\r\n\r\n";
    let nats = &operator.stack.nats;
    let sent = nats.publish_raw(Some("operator"), "events.payment_completed", headers, body.as_bytes());
    e2e::within("JetStream", sent).await.unwrap();
    let seq = seq(&operator.list(1).await[0]);
    assert!(operator.run(&["show", &seq]).await.unwrap().contains("in base64: TkFUUy8xLjAN"));
    let error = operator.run(&["replay", &seq]).await.unwrap_err();
    assert!(error.contains("--without-unreadable-headers"), "{error}");
    operator.run(&["replay", &seq, "--without-unreadable-headers"]).await.unwrap();
    assert_eq!(payments(&notifications(&operator.stack, 1, 1).await), [5]);
    operator.list(0).await;
}

#[tokio::test]
async fn a_truncated_dead_letter_is_replayed_only_on_request() {
    let operator = Operator::start(Options::default()).await;
    let large = "x".repeat(65_400);
    operator.publish("unheard_of", &[("X-Large", &large), ("X-Trace", "t1")], r#"{"user_id":1}"#).await;
    let line = &operator.list(1).await[0];
    assert_eq!(line["truncated"], "headers");
    let shown = operator.run(&["show", &seq(line)]).await.unwrap();
    assert!(shown.contains("cut       headers") && shown.contains("header    X-Trace: t1"), "{shown}");
    assert!(operator.run(&["list"]).await.unwrap().contains("(cut: headers)"));
    let error = operator.run(&["replay", "--all"]).await.unwrap_err();
    assert!(error.contains("--without-truncated-headers"), "{error}");
    operator.list(1).await;
    let output = operator.run(&["replay", "--all", "--without-truncated-headers"]).await.unwrap();
    assert!(output.contains("1 replayed"), "{output}");
}
