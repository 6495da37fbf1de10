//! Events that other backends publish on `events.>`: plain objects, or CloudEvents that contain one.
//!
//! The gateway checks an event before it publishes it for a backend, and notify-service before it notifies. A text of
//! the catalogue is not part of these checks, because only notify-service has the catalogue.

use crate::{
    UserId, frames,
    limits::{
        EVENT_BYTES, EVENT_ID_BYTES, EVENT_SOURCE_BYTES, EVENT_TYPE_BYTES, EVENT_USERS_MAX, JSON_DEPTH,
        NOTIFICATION_MESSAGE_CHARS, NOTIFICATION_TITLE_CHARS,
    },
    notify::{EventBody, RESERVED_TYPES},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// Media type of CloudEvents, without its suffix.
const CLOUD_EVENT: &str = "application/cloudevents";

/// Reason why an event is invalid, for its publisher, or for the operator who inspects the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl From<&str> for Unusable {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// A valid event.
#[derive(Debug)]
pub struct Event {
    /// Users to notify, sorted, each once; at least one.
    pub users: Vec<UserId>,
    /// Identity that the event states, if it does.
    pub identity: Option<Identity>,
    /// The `data` of the event, as published.
    pub data: Box<RawValue>,
    /// The parsed `data`, as parameters of the texts.
    pub parameters: Map<String, Value>,
    /// Title that replaces the catalogue's.
    pub title: Option<String>,
    /// Message that replaces the catalogue's.
    pub message: Option<String>,
    /// Language of the catalogue's text, as published.
    pub lang: Option<String>,
}

/// Identity of an event: two events with the same one notify a user once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An `event_id`, or the id of a CloudEvent without a source.
    Id(String),
    /// The source and id of a CloudEvent.
    CloudEvent {
        /// The source, not empty.
        source: String,
        /// The id.
        id: String,
    },
}

impl Identity {
    /// The id. For a CloudEvent, it is unique only together with the source.
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::CloudEvent { id, .. } => id,
        }
    }

    /// The idempotency key. Each kind of identity has its own prefix, so that keys of different kinds never collide.
    pub fn key(&self) -> String {
        match self {
            Self::Id(id) => format!("id:{id}"),
            // The length makes the concatenation of source and id unambiguous.
            Self::CloudEvent { source, id } => format!("ce:{}:{source}{id}", source.len()),
        }
    }
}

/// Parses an event of a type. `headers` are pairs of name and value; other headers than those of CloudEvents are
/// ignored.
///
/// # Errors
/// The reason why the event is invalid.
pub fn parse(kind: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<Event, Unusable> {
    let envelope = envelope(headers, body(payload)?)?;
    let body: EventBody =
        serde_json::from_str(envelope.body).map_err(|error| explain(envelope.body, &error))?;
    check_type(kind)?;
    check_stated(kind, headers, &envelope, body.kind.as_ref())?;
    let identity = identity(body.event_id, envelope.id.map(|id| (envelope.source, id)))?;
    let users = users(body.user_id, body.user_ids)?;
    let (data, parameters) = data(body.data)?;
    let own = |name, text: Option<String>, chars| text.map(|text| own_text(name, text, chars)).transpose();
    let title = own("title", body.title, NOTIFICATION_TITLE_CHARS)?;
    let message = own("message", body.message, NOTIFICATION_MESSAGE_CHARS)?;
    Ok(Event { users, identity, data, parameters, title, message, lang: body.lang })
}

/// Checks that a body is safe to parse, and returns it as text.
fn body(payload: &[u8]) -> Result<&str, Unusable> {
    if payload.is_empty() {
        return Err("the body is empty".into());
    }
    if payload.len() > EVENT_BYTES {
        return Err(Unusable(format!("the body has {} bytes, {EVENT_BYTES} is the limit", payload.len())));
    }
    let text = std::str::from_utf8(payload).map_err(|_| Unusable::from("the body is not UTF-8"))?;
    if frames::depth_exceeds(text, JSON_DEPTH) {
        return Err(Unusable(format!("the body is nested deeper than {JSON_DEPTH} levels")));
    }
    // serde would also accept an array as the object.
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => Ok(text),
        _ => match serde_json::from_str::<Value>(text) {
            Ok(_) => Err("the body is not a JSON object".into()),
            Err(_) => Err("the body is not JSON".into()),
        },
    }
}

/// The attributes of a CloudEvent, and the plain event that it contains.
struct Envelope<'a> {
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    body: &'a str,
}

/// Unwraps a CloudEvent (<https://github.com/cloudevents/spec>, bindings of NATS and HTTP). A plain event is its own
/// body.
fn envelope<'a>(headers: &[(&str, &str)], text: &'a str) -> Result<Envelope<'a>, Unusable> {
    #[derive(Deserialize)]
    struct Structured<'a> {
        specversion: Option<String>,
        id: Option<String>,
        source: Option<String>,
        r#type: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let declared = header(headers, "Content-Type").is_some_and(|kind| {
        kind.get(..CLOUD_EVENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLOUD_EVENT))
    });
    // Parsing the text a second time is worth its cost only if it contains the key.
    if declared || text.contains("\"specversion\"") {
        match serde_json::from_str::<Structured<'_>>(text) {
            Ok(event) if declared || event.specversion.is_some() => {
                let body = event.data.map(RawValue::get).filter(|data| data.starts_with('{'));
                let body = body.ok_or_else(|| Unusable::from("the CloudEvent has no object as \"data\""))?;
                return Ok(Envelope { id: event.id, source: event.source, kind: event.r#type, body });
            }
            // The key is inside the data of a plain event.
            Ok(_) => {}
            Err(error) => return Err(not_json(text, &error, "the CloudEvent can't be parsed")),
        }
    }
    let attribute = |name| header(headers, name).map(str::to_owned);
    Ok(Envelope { id: attribute("ce-id"), source: attribute("ce-source"), kind: None, body: text })
}

/// The trimmed value of a header, whose name is matched without case. `None` if it is missing or blank.
fn header<'a>(headers: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value.trim()).filter(|value| !value.is_empty())
}

/// Permissions apply to subjects, so the subject alone determines the type. An event that states another type, in its
/// headers or its body, was published on the wrong subject.
fn check_stated(
    kind: &str,
    headers: &[(&str, &str)],
    envelope: &Envelope<'_>,
    in_body: Option<&Value>,
) -> Result<(), Unusable> {
    let in_headers = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ce-type"));
    let in_headers = in_headers.map(|(_, value)| value.trim());
    let in_body = match in_body {
        Some(Value::String(stated)) => Some(stated.clone()),
        other => other.map(Value::to_string),
    };
    let stated = in_headers.filter(|stated| !stated.is_empty()).chain(envelope.kind.as_deref());
    match stated.chain(in_body.as_deref()).find(|stated| *stated != kind) {
        Some(other) => {
            let other: String = other.chars().take(EVENT_TYPE_BYTES).collect();
            Err(Unusable(format!("the event states the type {other:?}, and was published as {kind}")))
        }
        None => Ok(()),
    }
}

/// Checks that a type is valid after `events.` in a subject.
///
/// # Errors
/// The reason why it isn't.
pub fn check_type(kind: &str) -> Result<(), Unusable> {
    let wrong = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '*' | '>');
    if kind.len() > EVENT_TYPE_BYTES {
        return Err(Unusable(format!("the type is longer than {EVENT_TYPE_BYTES} bytes")));
    }
    if kind.split('.').any(|token| token.is_empty() || token.contains(wrong)) {
        return Err("the type contains a character that is not allowed in a subject".into());
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(Unusable(format!("the type {kind} is reserved")));
    }
    Ok(())
}

/// The identity of an event: its `event_id`, else the source and id of a CloudEvent.
fn identity(
    id: Option<String>,
    cloud: Option<(Option<String>, String)>,
) -> Result<Option<Identity>, Unusable> {
    if let Some(id) = id {
        return event_id(id).map(Identity::Id).map(Some);
    }
    let Some((source, id)) = cloud else { return Ok(None) };
    // Valid CloudEvents have a source. Without one, the key is that of releases that ignored the source.
    let Some(source) = source.filter(|source| !source.is_empty()) else {
        return event_id(id).map(Identity::Id).map(Some);
    };
    if source.len() > EVENT_SOURCE_BYTES {
        return Err(Unusable(format!("the CloudEvent's source is longer than {EVENT_SOURCE_BYTES} bytes")));
    }
    no_nul("source", &source)?;
    Ok(Some(Identity::CloudEvent { source, id: event_id(id)? }))
}

/// Checks an `event_id`.
///
/// # Errors
/// If it is empty, too long, or contains a NUL character.
pub fn event_id(id: String) -> Result<String, Unusable> {
    if id.is_empty() {
        return Err("\"event_id\" is empty".into());
    }
    if id.len() > EVENT_ID_BYTES {
        return Err(Unusable(format!("\"event_id\" is longer than {EVENT_ID_BYTES} bytes")));
    }
    no_nul("event_id", &id)?;
    Ok(id)
}

fn users(one: Option<UserId>, several: Option<Vec<UserId>>) -> Result<Vec<UserId>, Unusable> {
    let mut users: Vec<UserId> = one.into_iter().chain(several.into_iter().flatten()).collect();
    users.sort_unstable();
    users.dedup();
    match users.len() {
        0 => Err("no user is named: \"user_id\" or \"user_ids\" is missing".into()),
        count if count > EVENT_USERS_MAX => {
            Err(Unusable(format!("{count} users are named, {EVENT_USERS_MAX} is the limit")))
        }
        _ => Ok(users),
    }
}

fn data(raw: Option<Box<RawValue>>) -> Result<(Box<RawValue>, Map<String, Value>), Unusable> {
    let Some(raw) = raw else {
        return Ok((empty_object(), Map::new()));
    };
    if !raw.get().starts_with('{') {
        return Err("\"data\" is not an object".into());
    }
    // Unlike `RawValue`, this detects invalid characters and numbers out of range.
    let parameters: Map<String, Value> = serde_json::from_str(raw.get())
        .map_err(|_| Unusable::from("\"data\" contains an invalid character or a number out of range"))?;
    if raw.get().contains("\\u0000")
        && parameters.iter().any(|(key, value)| key.contains('\0') || has_nul(value))
    {
        return Err("\"data\" contains a NUL character".into());
    }
    Ok((raw, parameters))
}

/// The JSON object `{}`.
pub fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("this is JSON")
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn own_text(name: &str, text: String, chars: usize) -> Result<String, Unusable> {
    no_nul(name, &text)?;
    if text.trim().is_empty() {
        return Err(Unusable(format!("{name:?} is empty")));
    }
    if text.chars().count() > chars {
        return Err(Unusable(format!("{name:?} is longer than {chars} characters")));
    }
    Ok(text)
}

fn no_nul(name: &str, text: &str) -> Result<(), Unusable> {
    if text.contains('\0') { Err(Unusable(format!("{name:?} contains a NUL character"))) } else { Ok(()) }
}

/// Explains why a body isn't an event. Only invalid bodies are parsed twice.
fn explain(text: &str, error: &serde_json::Error) -> Unusable {
    let Ok(Value::Object(body)) = serde_json::from_str(text) else {
        return not_json(text, error, "the body is not an event");
    };
    let is_id = |value: &Value| value.as_i64().is_some_and(|id| id > 0);
    let given = |name: &str| body.get(name).filter(|value| !value.is_null());
    if given("user_id").is_some_and(|value| !is_id(value)) {
        return "\"user_id\" is not a whole number from 1 to 9223372036854775807".into();
    }
    if given("user_ids").is_some_and(|value| value.as_array().is_none_or(|ids| !ids.iter().all(is_id))) {
        return "\"user_ids\" is not an array of whole numbers from 1 to 9223372036854775807".into();
    }
    for name in ["event_id", "title", "message", "lang"] {
        if given(name).is_some_and(|value| !value.is_string()) {
            return Unusable(format!("{name:?} is not a string"));
        }
    }
    not_json(text, error, "the body is not an event")
}

fn not_json(text: &str, error: &serde_json::Error, otherwise: &str) -> Unusable {
    match serde_json::from_str::<Value>(text) {
        Err(error) => Unusable(format!("the body is not JSON: {error}")),
        Ok(_) => Unusable(format!("{otherwise}: {error}")),
    }
}
