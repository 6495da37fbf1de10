//! Kinds of messages: the one that `docs/kinds.md` adds, and the verdicts on data, compared with those of Python.

use crate::{
    snippets::{KINDS, Kind},
    tools::{self, Tool},
};
use e2e::{Options, Stack, eventually, within};
use serde_json::{Map, Value, json};
use std::{collections::HashMap, fs};
use testkit::Signal;

/// Values for each built-in kind.
const VALUES: usize = 500;

async fn send(backend: &async_nats::Client, body: &Value) -> Result<Value, String> {
    let sent = backend.request("chat.messages.send", body.to_string().into());
    let reply = within("a reply", sent).await.unwrap();
    match reply.headers.and_then(|headers| headers.get("Nats-Service-Error").map(ToString::to_string)) {
        Some(error) => Err(error),
        None => Ok(serde_json::from_slice(&reply.payload).unwrap()),
    }
}

#[tokio::test]
async fn the_kind_of_the_guide_is_added_as_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let env = vec![("KINDS_DIR", folder.path().to_string_lossy().into_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    fs::write(folder.path().join("review.json"), KINDS.snippet("review.json")).unwrap();
    stack.signal(e2e::Kind::Chat, 0, Signal::Hup);
    let has_it = async || {
        let kinds = stack.get("/api/kinds", 456).await;
        kinds["kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] == "review").then_some(())
    };
    eventually("the kind", has_it).await;
    let conversation = stack.conversation(&[456, 457]).await;
    let sends =
        KINDS.blocks().into_iter().filter(|block| block.kind == Kind::Frame("sendMessage receive".into()));
    let mut sends = sends.filter(|block| block.body.contains("\"review\""));
    let mut body: Value = serde_json::from_str(&sends.next().unwrap().body).unwrap();
    body["conversation_id"] = conversation.into();
    let sent = send(&stack.backend().await, &body).await.unwrap();
    assert_eq!(sent["content"], "Avis sur Vélo : 5/5");
}

/// Values that fit some property of a built-in kind, or nearly.
fn scalars() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(""),
        json!("x"),
        json!("x".repeat(100)),
        json!("é".repeat(101)),
        json!("x".repeat(200)),
        json!("x".repeat(201)),
        json!([]),
        json!({}),
        json!(["x"]),
        json!({"a": 1}),
    ];
    let numbers = [
        "0",
        "1",
        "-1",
        "1.0",
        "1.5",
        "-0.0",
        "90",
        "90.0001",
        "-90",
        "-180",
        "180",
        "181",
        "1e2",
        "100000000000",
        "100000000001",
        "48.8583701",
        "9007199254740993",
        "1e300",
    ];
    values.extend(numbers.iter().map(|number| serde_json::from_str(number).unwrap()));
    let words = [
        "EUR",
        "CHF",
        "USD",
        "eur",
        "open",
        "accepted",
        "declined",
        "withdrawn",
        "expired",
        "placed",
        "paid",
        "shipped",
        "delivered",
        "cancelled",
        "refunded",
        "proposed",
        "Open",
    ];
    let times = [
        "2026-12-01T14:30:00Z",
        "2026-12-01T14:30:00.123+01:00",
        "2026-12-01",
        "14:30:00Z",
        "2026-12-01T14:30:00",
        "2026-13-01T14:30:00Z",
        "2026-02-30T14:30:00Z",
        "2026-12-01T25:30:00Z",
        "yesterday",
    ];
    values.extend(words.iter().chain(&times).map(|word| json!(word)));
    values
}

/// A value that fits this property, if one of the scalars does.
fn fitting(property: &Value) -> Value {
    let validator = jsonschema_of(property);
    let all: Vec<Value> = scalars().into_iter().filter(|value| validator.is_valid(value)).collect();
    all[fastrand::usize(..all.len())].clone()
}

fn jsonschema_of(schema: &Value) -> jsonschema::Validator {
    jsonschema::draft202012::options().should_validate_formats(true).build(schema).unwrap()
}

/// An object with fitting properties, of which some are then missing, replaced or unknown.
fn value(schema: &Value) -> Value {
    let mut object = Map::new();
    for (name, property) in schema["properties"].as_object().unwrap() {
        let is_required = schema["required"].as_array().unwrap().iter().any(|required| required == name);
        if is_required || fastrand::bool() {
            object.insert(name.clone(), fitting(property));
        }
    }
    let names: Vec<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    let scalars = scalars();
    for _ in 0..fastrand::usize(..3) {
        let name = names[fastrand::usize(..names.len())].clone();
        match fastrand::u8(..8) {
            0 => drop(object.remove(&name)),
            1 => drop(object.insert("unknown".to_owned(), json!(1))),
            _ => drop(object.insert(name, scalars[fastrand::usize(..scalars.len())].clone())),
        }
    }
    Value::Object(object)
}

const PYTHON: &str = "
import json, sys
from jsonschema import Draft202012Validator, FormatChecker
with open(sys.argv[1]) as file:
    cases = json.load(file)
formats = FormatChecker(['date-time'])
for schema, values in cases:
    validator = Draft202012Validator(schema, format_checker=formats)
    print(json.dumps([validator.is_valid(value) for value in values]))
";

#[tokio::test]
async fn python_gives_the_same_verdict_on_the_data_of_each_built_in_kind() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the verdicts of Python's jsonschema", &reason),
    };
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[1, 2]).await;
    let kinds = stack.get("/api/kinds", 1).await;
    let kinds: HashMap<String, Value> = kinds["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (kind["kind"].as_str().unwrap().to_owned(), kind["schema"].clone()))
        .collect();
    assert_eq!(kinds.len(), 4);
    let backend = stack.backend().await;
    let (mut cases, mut verdicts) = (Vec::new(), Vec::new());
    for (kind, schema) in &kinds {
        let values: Vec<Value> = (0..VALUES).map(|_| value(schema)).collect();
        let mut ours = Vec::with_capacity(VALUES);
        for data in &values {
            let body = json!({"conversation_id": conversation, "sender_id": 1, "kind": kind, "data": data});
            ours.push(match send(&backend, &body).await {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.starts_with("invalid_message: "), "{body}: {error}");
                    false
                }
            });
        }
        for verdict in [true, false] {
            let share = ours.iter().filter(|ours| **ours == verdict).count();
            assert!(share > VALUES / 10, "{kind}: only {share} are {verdict}");
        }
        cases.push(json!([schema, values]));
        verdicts.push((kind, values, ours));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cases.json"), Value::Array(cases).to_string()).unwrap();
    let tool = Tool::new(python, folder.path()).args(["-c", PYTHON, "cases.json"]);
    let output = tool.output(&[]).await.unwrap();
    for (line, (kind, values, ours)) in output.lines().zip(verdicts) {
        let theirs: Vec<bool> = serde_json::from_str(line).unwrap();
        for ((value, ours), theirs) in values.iter().zip(ours).zip(theirs) {
            assert_eq!(ours, theirs, "{kind}: {value}");
        }
    }
    assert_eq!(output.lines().count(), 4);
}
