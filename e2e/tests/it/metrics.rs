use e2e::{Kind, Options, Stack, eventually};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What is said of a metric: its form, its labels without those of histograms, its meaning.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    form: String,
    labels: BTreeSet<String>,
    meaning: String,
    services: BTreeSet<String>,
}

/// The table of the operator's guide.
fn table() -> BTreeMap<String, Said> {
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
        let [name, form, labels, services, meaning] = cells[..] else { panic!("five cells: {row}") };
        let (labels, services) = (words(labels), words(services));
        let said = Said { form: form.to_owned(), labels, meaning: meaning.to_owned(), services };
        (name.trim_matches('`').to_owned(), said)
    })
    .collect()
}

/// What a process exposes.
fn exposed(text: &str) -> BTreeMap<String, Said> {
    let mut metrics: BTreeMap<String, Said> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            metrics.entry(name.to_owned()).or_default().meaning = meaning.to_owned();
        } else if let Some(form) = line.strip_prefix("# TYPE ") {
            let (name, form) = form.split_once(' ').unwrap();
            metrics.entry(name.to_owned()).or_default().form = form.to_owned();
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
async fn every_metric_is_in_the_operators_table() {
    let env = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let mut inbox = stack.socket("/ws/notifications/", 2).await;
    let mut keys = stack.socket(&format!("/ws/typing/{id}/"), 2).await;
    ada.say("hello").await;
    assert_eq!(ada.next().await["seq"], 1);
    assert_eq!(inbox.next().await["type"], "message_received");
    keys.send(json!({"is_typing": true})).await;
    let event = json!({"user_id": 2, "data": {"payment_id": 1}}).to_string();
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", event.into()).await.unwrap();
    assert_eq!(inbox.next().await["type"], "payment_completed");

    let table = table();
    for kind in Kind::ALL {
        let listed: BTreeSet<&String> = table
            .iter()
            .filter(|(_, said)| said.services.contains(kind.program()))
            .map(|(name, _)| name)
            .collect();
        let complete = async || {
            let exposed = exposed(&stack.metrics(kind, 0).await);
            listed.iter().all(|name| exposed.contains_key(*name)).then_some(())
        };
        // What is measured now and then takes a while to be there.
        if tokio::time::timeout(std::time::Duration::from_secs(10), eventually("all", complete))
            .await
            .is_err()
        {
            let exposed = exposed(&stack.metrics(kind, 0).await);
            let missing: Vec<_> = listed.iter().filter(|name| !exposed.contains_key(**name)).collect();
            panic!("{kind:?} does not expose {missing:?}");
        }
        for (name, said) in exposed(&stack.metrics(kind, 0).await) {
            let Some(row) = table.get(&name) else {
                panic!(
                    "docs/operations.md lacks | `{name}` | {} | {:?} | {kind:?} | {} |",
                    said.form, said.labels, said.meaning
                )
            };
            assert!(row.services.contains(kind.program()), "{name} of {kind:?}");
            assert_eq!((&said.form, &said.meaning), (&row.form, &row.meaning), "{name}");
            assert!(said.labels.is_subset(&row.labels), "{name}: {:?}", said.labels);
            assert_eq!(said.form == "counter", name.ends_with("_total"), "{name} is a {}", said.form);
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(plain && said.form != "summary", "{name} is a {}", said.form);
        }
    }
}
