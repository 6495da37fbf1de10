//! Checks that frames and responses agree with their schemas.
//!
//! Frames and NATS payloads are checked against `docs/asyncapi.yaml`, HTTP responses against the gateway's
//! `/api/openapi.json` and `/backend/openapi.json`. Clients must ignore unknown fields. Here, an unknown field is an
//! error, so that every field is documented.

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::LazyLock};
use tokio::sync::OnceCell;

/// `docs/asyncapi.yaml`.
pub static ASYNCAPI: LazyLock<Value> = LazyLock::new(|| {
    serde_saphyr::from_str(include_str!("../../docs/asyncapi.yaml")).expect("docs/asyncapi.yaml is YAML")
});

/// Sender of a message on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The server; its action in AsyncAPI is `send`.
    Server,
    /// A client or a backend; the action is `receive`.
    Client,
}

/// Schema of the messages of each channel and sender.
static CHANNELS: LazyLock<HashMap<(String, Sender), Validator>> = LazyLock::new(|| {
    let components = closed(&ASYNCAPI["components"]);
    let operations = ASYNCAPI["operations"].as_object().expect("operations").values();
    let mut channels = HashMap::new();
    for operation in operations {
        let sender = if operation["action"] == "send" { Sender::Server } else { Sender::Client };
        channels.insert((channel_of(operation), sender), any_message(operation, &components));
        if let Some(reply) = operation.get("reply") {
            channels.insert((channel_of(reply), Sender::Server), any_message(reply, &components));
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

/// Schema that accepts each message of an operation.
fn any_message(operation: &Value, components: &Value) -> Validator {
    let messages = operation["messages"].as_array().expect("an operation has messages");
    let payloads: Vec<Value> = messages
        .iter()
        .map(|message| {
            let pointer = |reference: &Value| text(&reference["$ref"]).trim_start_matches('#').to_owned();
            let in_channel = ASYNCAPI.pointer(&pointer(message)).expect("a message in the channel");
            let message = ASYNCAPI.pointer(&pointer(in_channel)).expect("a message in the components");
            message["payload"].clone()
        })
        .collect();
    validator(&json!({"anyOf": payloads, "components": components}))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string"))
}

fn validator(schema: &Value) -> Validator {
    let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
    options.build(schema).unwrap_or_else(|error| panic!("{error}: {schema}"))
}

/// Copy of these schemas in which objects have no unknown properties.
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

/// Checks a message on a channel of AsyncAPI.
///
/// # Errors
/// If the message is not documented.
pub fn check(channel: &str, sender: Sender, message: &Value) -> Result<(), String> {
    let Some(validator) = CHANNELS.get(&(channel.to_owned(), sender)) else {
        return Err(format!("docs/asyncapi.yaml has no messages of the {sender:?} on {channel:?}"));
    };
    match validator.validate(message) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{message} does not match {channel} in docs/asyncapi.yaml: {error}")),
    }
}

/// AsyncAPI channel of a socket's URL.
pub fn channel_at(url: &str) -> Option<&'static str> {
    let path = url.split_once("/ws")?.1;
    let path = path.split('?').next().unwrap_or_default().trim_matches('/');
    match path.split('/').next()? {
        "" => Some("everything"),
        "chat" => Some("chat"),
        "notifications" => Some("notifications"),
        "typing" => Some("typing"),
        "presence" => Some("presence"),
        _ => None,
    }
}

/// An operation of the HTTP API: the segments of its path, and the type and schema of each response.
struct Operation {
    method: String,
    path: Vec<String>,
    responses: HashMap<u16, Option<(String, Validator)>>,
}

/// Operations in the gateway's OpenAPI documents, which are the same at every gateway: for clients, and for backends.
static OPERATIONS: [OnceCell<Vec<Operation>>; 2] = [OnceCell::const_new(), OnceCell::const_new()];

/// The operations of one of the documents; `None` if the gateway does not serve it.
async fn operations(url: &reqwest::Url) -> Option<&'static Vec<Operation>> {
    let (index, prefix) = if url.path().starts_with("/backend/") { (1, "backend") } else { (0, "api") };
    let document = format!("{}/{prefix}/openapi.json", url.origin().ascii_serialization());
    let read = async || {
        let document: Value = reqwest::get(document).await?.error_for_status()?.json().await?;
        reqwest::Result::Ok(operations_of(&document))
    };
    OPERATIONS[index].get_or_try_init(read).await.ok()
}

fn operations_of(document: &Value) -> Vec<Operation> {
    let components = closed(&document["components"]);
    let response = |response: &Value| {
        let (kind, content) = response["content"].as_object()?.iter().next()?;
        let schema = json!({"allOf": [closed(&content["schema"])], "components": components});
        Some((kind.clone(), validator(&schema)))
    };
    let paths = document["paths"].as_object().expect("paths");
    let mut operations = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations").iter() {
            let responses = operation["responses"].as_object().expect("responses").iter();
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.split('/').map(str::to_owned).collect(),
                responses: responses
                    .map(|(status, item)| (status.parse().expect("a status"), response(item)))
                    .collect(),
            });
        }
    }
    operations
}

/// Checks a response of a gateway. Accepts it if the gateway was killed before it returned its OpenAPI document.
///
/// # Panics
/// If the response isn't documented.
pub async fn check_response(method: &str, url: &reqwest::Url, status: u16, kind: &str, body: &Value) {
    let Some(operations) = operations(url).await else { return };
    let segments: Vec<&str> = url.path().split('/').collect();
    let matches = |path: &[String]| {
        let same = |(pattern, segment): (&String, &&str)| pattern.starts_with('{') || pattern == segment;
        path.len() == segments.len() && path.iter().zip(&segments).all(same)
    };
    // A literal segment, such as `unread_count`, takes precedence over a parameter.
    let operation = operations
        .iter()
        .filter(|operation| operation.method == method && matches(&operation.path))
        .min_by_key(|operation| operation.path.iter().filter(|segment| segment.starts_with('{')).count());
    let fail = |reason: String| panic!("{method} {}: {reason}: {status} {kind} {body}", url.path());
    let Some(operation) = operation else {
        if status >= 400 && kind != "application/problem+json" {
            fail("the error is not a problem document".to_owned());
        }
        return;
    };
    match operation.responses.get(&status) {
        None => fail("the status is not documented".to_owned()),
        Some(None) if body.is_null() => {}
        Some(None) => fail("the documented response has no body".to_owned()),
        Some(Some((documented, _))) if documented != kind => {
            fail(format!("the documented type is {documented}"));
        }
        Some(Some((_, schema))) => {
            if let Err(error) = schema.validate(body) {
                fail(error.to_string());
            }
        }
    }
}
