//! What is documented for machines, and whether what the tests see agrees with it.
//!
//! Frames are checked against `docs/asyncapi.yaml`, answers of the HTTP API against the gateway's own
//! `/api/openapi.json`. Clients are told to ignore fields that they don't know; here, such a field is an error, so
//! that nothing comes in without being documented.

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::LazyLock};
use tokio::sync::OnceCell;

/// `docs/asyncapi.yaml`.
pub static ASYNCAPI: LazyLock<Value> = LazyLock::new(|| {
    serde_saphyr::from_str(include_str!("../../docs/asyncapi.yaml")).expect("docs/asyncapi.yaml is YAML")
});

/// Who says something on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The server: `send` in AsyncAPI.
    Server,
    /// A client, or another backend: `receive`.
    Client,
}

/// What may be said on each channel.
static CHANNELS: LazyLock<HashMap<(String, By), Validator>> = LazyLock::new(|| {
    let components = closed(&ASYNCAPI["components"]);
    let operations = ASYNCAPI["operations"].as_object().expect("operations").values();
    let mut channels = HashMap::new();
    for operation in operations {
        let by = if operation["action"] == "send" { By::Server } else { By::Client };
        channels.insert((channel_of(operation), by), any_message(operation, &components));
        if let Some(reply) = operation.get("reply") {
            channels.insert((channel_of(reply), By::Server), any_message(reply, &components));
        }
    }
    channels
});

fn channel_of(operation: &Value) -> String {
    last_segment(operation["channel"]["$ref"].as_str().expect("an operation has a channel"))
}

fn last_segment(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Accepts what one of an operation's messages is.
fn any_message(operation: &Value, components: &Value) -> Validator {
    let messages = operation["messages"].as_array().expect("an operation has messages");
    let payloads: Vec<Value> = messages
        .iter()
        .map(|message| {
            let pointer = |reference: &Value| text(&reference["$ref"]).trim_start_matches('#').to_owned();
            let in_channel = ASYNCAPI.pointer(&pointer(message)).expect("a message of the channel");
            let message = ASYNCAPI.pointer(&pointer(in_channel)).expect("a message of the components");
            message["payload"].clone()
        })
        .collect();
    validator(&json!({"anyOf": payloads, "components": components}))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn validator(schema: &Value) -> Validator {
    let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
    options.build(schema).unwrap_or_else(|error| panic!("{error}: {schema}"))
}

/// The same schemas, where an object has no other properties than those named.
fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut fields: serde_json::Map<String, Value> =
                fields.iter().map(|(name, field)| (name.clone(), closed(field))).collect();
            if fields.get("type").is_some_and(|kind| kind == "object") && fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(false.into());
            }
            Value::Object(fields)
        }
        Value::Array(items) => items.iter().map(closed).collect(),
        other => other.clone(),
    }
}

/// Checks what was said on a channel of AsyncAPI.
///
/// # Errors
/// What is wrong with it.
pub fn check(channel: &str, by: By, said: &Value) -> Result<(), String> {
    let Some(validator) = CHANNELS.get(&(channel.to_owned(), by)) else {
        return Err(format!("docs/asyncapi.yaml has nothing that the {by:?} says on {channel:?}"));
    };
    match validator.validate(said) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{said} is not in docs/asyncapi.yaml, {channel}: {error}")),
    }
}

/// The channel of AsyncAPI that a socket's address is.
pub fn channel_at(url: &str) -> Option<&'static str> {
    let path = url.split_once("/ws")?.1;
    let path = path.split('?').next().unwrap_or_default().trim_matches('/');
    match path.split('/').next()? {
        "" => Some("everything"),
        "chat" => Some("chat"),
        "notifications" => Some("notifications"),
        "typing" => Some("typing"),
        _ => None,
    }
}

/// An operation of the HTTP API: the segments of its path, and what each of its answers may be.
struct Operation {
    method: String,
    path: Vec<String>,
    answers: HashMap<u16, Option<(String, Validator)>>,
}

/// The gateway's own document. It is the same at every gateway.
static OPERATIONS: OnceCell<Vec<Operation>> = OnceCell::const_new();

async fn operations(origin: &str) -> reqwest::Result<&'static Vec<Operation>> {
    let read = async || {
        let document: Value = reqwest::get(format!("{origin}/api/openapi.json")).await?.json().await?;
        Ok(operations_of(&document))
    };
    OPERATIONS.get_or_try_init(read).await
}

fn operations_of(document: &Value) -> Vec<Operation> {
    let components = closed(&document["components"]);
    let answer = |answer: &Value| {
        let (kind, content) = answer["content"].as_object()?.iter().next()?;
        let schema = json!({"allOf": [closed(&content["schema"])], "components": components});
        Some((kind.clone(), validator(&schema)))
    };
    let paths = document["paths"].as_object().expect("paths");
    let mut operations = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations").iter() {
            let answers = operation["responses"].as_object().expect("responses").iter();
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.split('/').map(str::to_owned).collect(),
                answers: answers
                    .map(|(status, is)| (status.parse().expect("a status"), answer(is)))
                    .collect(),
            });
        }
    }
    operations
}

/// Checks an answer of a gateway. One that is killed before it has said what it documents is believed.
///
/// # Panics
/// When the answer isn't documented.
pub async fn check_answer(method: &str, url: &reqwest::Url, status: u16, kind: &str, body: &Value) {
    let origin = url.origin().ascii_serialization();
    let Ok(operations) = operations(&origin).await else { return };
    let segments: Vec<&str> = url.path().split('/').collect();
    let fits = |path: &[String]| {
        let same = |(known, segment): (&String, &&str)| known.starts_with('{') || known == segment;
        path.len() == segments.len() && path.iter().zip(&segments).all(same)
    };
    // A path of its own, such as `unread_count`, goes before one that only has room for it.
    let operation = operations
        .iter()
        .filter(|operation| operation.method == method && fits(&operation.path))
        .min_by_key(|operation| operation.path.iter().filter(|segment| segment.starts_with('{')).count());
    let wrong = |why: String| panic!("{method} {}: {why}: {status} {kind} {body}", url.path());
    let Some(operation) = operation else {
        if status >= 400 && kind != "application/problem+json" {
            wrong("what is not documented is answered with a problem".to_owned());
        }
        return;
    };
    match operation.answers.get(&status) {
        None => wrong(format!("{} is not documented", status)),
        Some(None) if body.is_null() => {}
        Some(None) => wrong("there is a body".to_owned()),
        Some(Some((documented, _))) if documented != kind => {
            wrong(format!("the documented type is {documented}"));
        }
        Some(Some((_, schema))) => {
            if let Err(error) = schema.validate(body) {
                wrong(error.to_string());
            }
        }
    }
}
