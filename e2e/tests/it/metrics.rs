use e2e::{Kind, Options, Stack, eventually};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Description of a metric. The labels exclude `le` of histograms.
#[derive(Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
    services: BTreeSet<String>,
}

/// Metrics in the table of `docs/operations.md`.
fn table() -> BTreeMap<String, Metric> {
    let guide = include_str!("../../../docs/operations.md");
    let (_, section) = guide.split_once("\n## Metrics\n").expect("a section of metrics");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let words = |text: &str| -> BTreeSet<String> {
        text.split(',')
            .map(|word| word.trim().trim_matches('`').to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, services, meaning] = cells[..] else { panic!("five cells: {row}") };
        let (labels, services) = (words(labels), words(services));
        let metric = Metric { kind: kind.to_owned(), labels, meaning: meaning.to_owned(), services };
        (name.trim_matches('`').to_owned(), metric)
    })
    .collect()
}

/// Metrics in the text of `/metrics`.
fn exposed(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            metrics.entry(name.to_owned()).or_default().meaning = meaning.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
            name.clone_into(&mut family);
        } else {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            metrics.entry(family.clone()).or_default().labels.extend(names.filter(|name| name != "le"));
        }
    }
    metrics
}

#[tokio::test]
async fn every_metric_is_in_the_table_of_the_operators_guide() {
    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()),
        ("REMINDERS", "push:5s/5s".to_owned()),
        ("WEBHOOK_URL", "http://127.0.0.1:1/".to_owned()),
        ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    stack.call_as_backend("GET", "/backend/whoami", None).await.expect(200);
    stack.post("/api/reports", 1, json!({"user_id": 2, "reason": "rude"})).await.expect(201);
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut inbox = stack.socket("/ws/notifications/", 2).await;
    let mut typist = stack.socket(&format!("/ws/typing/{id}/"), 2).await;
    ada.say("hello").await;
    assert_eq!(ada.next().await["seq"], 1);
    assert_eq!(inbox.next().await["type"], "message_received");
    typist.send(json!({"is_typing": true})).await;
    let event = json!({"user_id": 2, "data": {"payment_id": 1}}).to_string();
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", event.into()).await.unwrap();
    assert_eq!(inbox.next().await["type"], "payment_completed");

    let table = table();
    for kind in Kind::ALL {
        let listed: BTreeSet<&String> = table
            .iter()
            .filter(|(_, metric)| metric.services.contains(kind.program()))
            .map(|(name, _)| name)
            .collect();
        let complete = async || {
            let exposed = exposed(&stack.metrics(kind, 0).await);
            listed.iter().all(|name| exposed.contains_key(*name)).then_some(())
        };
        // Metrics that are measured periodically appear after a while.
        if tokio::time::timeout(std::time::Duration::from_secs(50), eventually("all", complete))
            .await
            .is_err()
        {
            let exposed = exposed(&stack.metrics(kind, 0).await);
            let missing: Vec<_> = listed.iter().filter(|name| !exposed.contains_key(**name)).collect();
            panic!("{kind:?} does not expose {missing:?}");
        }
        for (name, metric) in exposed(&stack.metrics(kind, 0).await) {
            // The former name of a metric in the table.
            if let Some(renamed) = metric.meaning.strip_prefix("Deprecated: renamed to ") {
                assert!(table.contains_key(renamed.trim_end_matches('.')), "{name}: {renamed}");
                continue;
            }
            let Some(row) = table.get(&name) else {
                panic!(
                    "docs/operations.md lacks | `{name}` | {} | {:?} | {kind:?} | {} |",
                    metric.kind, metric.labels, metric.meaning
                )
            };
            assert!(row.services.contains(kind.program()), "{name} of {kind:?}");
            assert_eq!((&metric.kind, &metric.meaning), (&row.kind, &row.meaning), "{name}");
            assert!(metric.labels.is_subset(&row.labels), "{name}: {:?}", metric.labels);
            assert_eq!(metric.kind == "counter", name.ends_with("_total"), "{name} is a {}", metric.kind);
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(plain && metric.kind != "summary", "{name} is a {}", metric.kind);
        }
    }
}
