//! `cargo xtask deadletters`, as an operator uses it.

use crate::{
    notifications, payments,
    tools::{self, Tool},
};
use e2e::{Options, Stack, eventually};
use serde_json::{Value, json};
use std::{fs, path::Path};
use testkit::Signal;

struct Desk {
    stack: Stack,
    jetstream: async_nats::jetstream::Context,
}

impl Desk {
    async fn open(options: Options) -> Self {
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

    /// What the tool says; an error if it ends with one.
    async fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let url = self.stack.nats_urls("operator").join(",");
        let tool = Tool::new(tools::target().join("xtask"), Path::new("/")).arg("deadletters");
        let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(*argument));
        tool.arg(format!("--nats-url={url}")).output(&[]).await
    }

    /// The dead letters, once there are so many.
    async fn list(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} dead letters"), || async {
            let said = self.ask(&["list", "--json"]).await.unwrap();
            let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.len() == count).then_some(lines)
        })
        .await
    }
}

fn seq(line: &Value) -> String {
    line["seq"].to_string()
}

#[tokio::test]
async fn an_operator_mends_the_catalogue_and_replays() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = |text: &str| fs::write(folder.path().join("fr.ftl"), text).unwrap();
    let variable = ("CATALOGUE_DIR", folder.path().to_string_lossy().into_owned());
    let desk = Desk::open(Options { env: vec![variable], ..Options::default() }).await;
    assert_eq!(desk.ask(&["list"]).await.unwrap(), "There are no dead letters.\n");

    // One without an id, one with, one whose id is its Nats-Msg-Id, and one that nothing mends.
    desk.publish("offer_made", &[], r#"{"user_id":1,"data":{"payment_id":1}}"#).await;
    desk.publish(
        "offer_made",
        &[("X-Trace", "t1")],
        r#"{"user_id":1,"event_id":"e2","data":{"payment_id":2}}"#,
    )
    .await;
    desk.publish("offer_made", &[("Nats-Msg-Id", "m3")], r#"{"user_id":1,"data":{"payment_id":3}}"#).await;
    desk.publish("payment_completed", &[], "{\"user_id\":\"\u{1b}[2J\"}").await;
    let letters = desk.list(4).await;
    let table = desk.ask(&["list"]).await.unwrap();
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(table.starts_with("SEQ  TIME") && table.contains("offer_made"), "{table}");
    assert!(table.contains("the type offer_made has no text in the catalogue"), "{table}");
    assert_eq!(desk.ask(&["list", "--type", "payment_completed"]).await.unwrap().lines().count(), 2);

    let find =
        |kind: &str, nth: usize| seq(letters.iter().filter(|line| line["type"] == kind).nth(nth).unwrap());
    let bad = find("payment_completed", 0);
    let shown = desk.ask(&["show", &bad]).await.unwrap();
    assert!(shown.contains("subject   events.payment_completed") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(desk.ask(&["show", &bad, "--body"]).await.unwrap(), "{\"user_id\":\"\u{1b}[2J\"}");
    let traced = letters.iter().filter(|line| line["type"] == "offer_made").map(seq);
    let mut all = String::new();
    for seq in traced {
        all += &desk.ask(&["show", &seq]).await.unwrap();
    }
    assert!(all.contains("header    X-Trace: t1") && all.contains("header    Nats-Msg-Id: m3"), "{all}");

    // What is still bad becomes a new dead letter, the old one is gone.
    let said = desk.ask(&["replay", &bad]).await.unwrap();
    assert!(
        said.contains("replayed on events.payment_completed, as ")
            && said.ends_with("1 replayed, 0 left as they were\n")
    );
    let again = desk.list(4).await;
    assert!(again.iter().all(|line| seq(line) != bad));

    // The type is added; its events are replayed twice, and notify once.
    catalogue("offer_made = Offre\n    .message = Une offre\n");
    desk.stack.signal(e2e::Kind::Notify, 0, Signal::Hup);
    eventually("the new type", || async {
        desk.publish("offer_made", &[], r#"{"user_id":2}"#).await;
        let page = desk.stack.get("/api/notifications", 2).await;
        (!page["items"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    let said = desk.ask(&["replay", "--type", "offer_made"]).await.unwrap();
    assert!(said.contains(" replayed, 0 left as they were"), "{said}");
    let mut shown = payments(&notifications(&desk.stack, 1, 3).await);
    shown.sort_unstable();
    assert_eq!(shown, [1, 2, 3]);
    // Whoever publishes them again, within JetStream's window or not, notifies nobody.
    desk.publish("offer_made", &[], r#"{"user_id":1,"event_id":"e2"}"#).await;
    desk.publish("offer_made", &[], r#"{"user_id":1,"event_id":"m3"}"#).await;
    desk.publish("payment_completed", &[], r#"{"user_id":1,"data":{"payment_id":4}}"#).await;
    assert_eq!(*payments(&notifications(&desk.stack, 1, 4).await).last().unwrap(), 4);

    let said = desk.ask(&["drop", "--all"]).await.unwrap();
    assert_eq!(said.lines().last(), Some("1 dropped, 0 left as they were"));
    desk.list(0).await;
    let error = desk.ask(&["drop", "99"]).await.unwrap_err();
    assert!(error.contains("99: ") && error.contains("0 dropped, 1 left"), "{error}");
}

#[tokio::test]
async fn a_replay_of_what_was_replayed_is_still_the_first_event() {
    let mut desk = Desk::open(Options::default()).await;
    desk.publish("unheard_of", &[("Nats-Msg-Id", "m1")], r#"{"user_id":1,"data":{"payment_id":1}}"#).await;
    let first = seq(&desk.list(1).await[0]);
    desk.ask(&["replay", &first]).await.unwrap();
    let second = eventually("a new dead letter", || async {
        let lines = desk.list(1).await;
        (seq(&lines[0]) != first).then_some(lines)
    })
    .await;
    let shown = desk.ask(&["show", &seq(&second[0])]).await.unwrap();
    assert!(shown.contains("header    Replay-Of: id:m1"), "{shown}");
    // Gone where nothing listens, it stays. (notify-service would make the stream again.)
    desk.stack.kill(e2e::Kind::Notify, 0).await;
    desk.jetstream.delete_stream("EVENTS").await.unwrap();
    let error = desk.ask(&["replay", "--all"]).await.unwrap_err();
    assert!(error.contains("it stays a dead letter"), "{error}");
    desk.list(1).await;
}

#[tokio::test]
async fn what_has_unreadable_headers_is_replayed_without_them_only_when_told() {
    let desk = Desk::open(Options::default()).await;
    let body = json!({"user_id": 1, "data": {"payment_id": 5}}).to_string();
    let headers = b"NATS/1.0\r\nX-Name: Ren\xe9\r\n\r\n";
    let nats = &desk.stack.nats;
    let sent = nats.publish_raw(Some("operator"), "events.payment_completed", headers, body.as_bytes());
    e2e::within("JetStream", sent).await.unwrap();
    let seq = seq(&desk.list(1).await[0]);
    assert!(desk.ask(&["show", &seq]).await.unwrap().contains("in base64: TkFUUy8xLjAN"));
    let error = desk.ask(&["replay", &seq]).await.unwrap_err();
    assert!(error.contains("--without-unreadable-headers"), "{error}");
    desk.ask(&["replay", &seq, "--without-unreadable-headers"]).await.unwrap();
    assert_eq!(payments(&notifications(&desk.stack, 1, 1).await), [5]);
    desk.list(0).await;
}

#[tokio::test]
async fn what_was_cut_is_shown_and_not_replayed_as_if_it_were_whole() {
    let desk = Desk::open(Options::default()).await;
    let large = "x".repeat(65_400);
    desk.publish("unheard_of", &[("X-Large", &large), ("X-Trace", "t1")], r#"{"user_id":1}"#).await;
    let line = &desk.list(1).await[0];
    assert_eq!(line["truncated"], "headers");
    let shown = desk.ask(&["show", &seq(line)]).await.unwrap();
    assert!(shown.contains("cut       headers") && shown.contains("header    X-Trace: t1"), "{shown}");
    assert!(desk.ask(&["list"]).await.unwrap().contains("(cut: headers)"));
    let error = desk.ask(&["replay", "--all"]).await.unwrap_err();
    assert!(error.contains("--without-truncated-headers"), "{error}");
    desk.list(1).await;
    let said = desk.ask(&["replay", "--all", "--without-truncated-headers"]).await.unwrap();
    assert!(said.contains("1 replayed"), "{said}");
}
