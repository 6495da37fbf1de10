//! Events that other backends publish on `events.>`: plain objects, or CloudEvents that contain one.

use crate::catalogue::{Catalogue, MESSAGE_CHARS, TITLE_CHARS, Text};
use async_nats::HeaderMap;
use contract::{
    Lang, UserId, frames, limits,
    notify::{EventBody, REPLAY_OF_HEADER, RESERVED_TYPES},
    streams::EVENTS_PREFIX,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// Maximum size of an event's body in bytes.
pub const BODY_BYTES: usize = 64 * 1024;
/// Maximum size of an event's id in bytes.
pub const EVENT_ID_BYTES: usize = 256;
/// Maximum size of a CloudEvent's source in bytes. Together with the id it must fit into an index of Postgres.
pub const SOURCE_BYTES: usize = 1024;
/// Maximum size of a type in bytes.
pub const TYPE_BYTES: usize = 128;

/// Reason why an event is invalid, for the operator who inspects the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl From<&str> for Unusable {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// A message as NATS delivers it.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Subject of the message.
    pub subject: &'a str,
    /// Headers of the message.
    pub headers: Option<&'a HeaderMap>,
    /// Body of the message.
    pub payload: &'a [u8],
    /// Unique identifier of the message, the same for each delivery; used if the publisher gave none.
    pub place: &'a str,
}

/// A parsed event, which becomes a notification for each of its users.
#[derive(Debug)]
pub struct Notice {
    /// Type of the event.
    pub kind: String,
    /// Idempotency key, by which a repeated event is recognised.
    pub key: String,
    /// The `data` of the event, as published.
    pub data: Box<RawValue>,
    /// The parsed `data`, as parameters of the texts.
    pub parameters: Map<String, Value>,
    /// Language of [`Notice::text`].
    pub lang: String,
    /// Title and message in that language.
    pub text: Text,
    /// Whether users of other languages get the text in their own language.
    pub translated: bool,
    /// Texts of the event itself, the same for all languages.
    pub own: OwnText,
}

/// Texts that an event brings, which override those of the catalogue.
#[derive(Debug, Default)]
pub struct OwnText {
    /// Title of the event.
    pub title: Option<String>,
    /// Message of the event.
    pub message: Option<String>,
}

impl OwnText {
    /// Returns the catalogue's text, overridden by the event's own texts.
    pub fn over(&self, text: Text) -> Text {
        Text {
            title: self.title.clone().unwrap_or(text.title),
            message: self.message.clone().unwrap_or(text.message),
        }
    }
}

/// Parses an event. Returns the users to notify and the content of the notification.
///
/// # Errors
/// The reason why the event is invalid.
pub fn parse(delivery: Delivery<'_>, catalogue: &Catalogue) -> Result<(Vec<UserId>, Notice), Unusable> {
    let text = body(delivery.payload)?;
    let envelope = envelope(&delivery, text)?;
    let body: EventBody =
        serde_json::from_str(envelope.body).map_err(|error| explain(envelope.body, &error))?;
    let kind = delivery.subject.strip_prefix(EVENTS_PREFIX).unwrap_or(delivery.subject).to_owned();
    check_type(&kind)?;
    check_stated(&kind, &delivery, &envelope, body.kind.as_ref())?;
    let key = key(&delivery, body.event_id, envelope.id.map(|id| (envelope.source, id)))?;
    let users = users(body.user_id, body.user_ids)?;
    let (data, parameters) = data(body.data)?;
    let own = OwnText {
        title: body.title.map(|title| own_text("title", title, TITLE_CHARS)).transpose()?,
        message: body.message.map(|message| own_text("message", message, MESSAGE_CHARS)).transpose()?,
    };
    let wanted = body.lang.as_deref().and_then(Lang::accepted);
    let lang = catalogue.language(wanted.as_ref().map(Lang::as_str)).to_owned();
    let complete = own.title.is_some() && own.message.is_some();
    let text = if complete { Text::default() } else { catalogue_text(catalogue, &kind, &lang, &parameters)? };
    let text = own.over(text);
    let translated = wanted.is_none() && !complete;
    Ok((users, Notice { kind, key, data, parameters, lang, text, translated, own }))
}

/// Checks that a body is safe to parse, and returns it as text.
fn body(payload: &[u8]) -> Result<&str, Unusable> {
    if payload.is_empty() {
        return Err("the body is empty".into());
    }
    if payload.len() > BODY_BYTES {
        return Err(Unusable(format!("the body has {} bytes, {BODY_BYTES} is the limit", payload.len())));
    }
    let text = std::str::from_utf8(payload).map_err(|_| Unusable::from("the body is not UTF-8"))?;
    if frames::depth_exceeds(text, limits::JSON_DEPTH) {
        return Err(Unusable(format!("the body is nested deeper than {} levels", limits::JSON_DEPTH)));
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

/// Unwraps a CloudEvent (<https://github.com/cloudevents/spec>, NATS protocol binding). A plain event is its own body.
fn envelope<'a>(delivery: &Delivery<'_>, text: &'a str) -> Result<Envelope<'a>, Unusable> {
    #[derive(Deserialize)]
    struct Structured<'a> {
        specversion: Option<String>,
        id: Option<String>,
        source: Option<String>,
        r#type: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let declared = header(delivery.headers, "Content-Type").is_some_and(|kind| {
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
    let (id, source) = (header(delivery.headers, "ce-id"), header(delivery.headers, "ce-source"));
    Ok(Envelope { id, source, kind: None, body: text })
}

const CLOUD_EVENT: &str = "application/cloudevents";

/// The trimmed value of a header, whose name is matched without case. `None` if it is missing or blank.
pub fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    let is_named = |known: &str| known.eq_ignore_ascii_case(name);
    let (_, values) = headers?.iter().find(|(known, _)| is_named(known.as_ref()))?;
    let value: &str = values.first()?.as_ref();
    (!value.trim().is_empty()).then(|| value.trim().to_owned())
}

/// Permissions apply to subjects, so the subject alone determines the type. An event that states another type, in its
/// headers or its body, was published on the wrong subject.
fn check_stated(
    kind: &str,
    delivery: &Delivery<'_>,
    envelope: &Envelope<'_>,
    in_body: Option<&Value>,
) -> Result<(), Unusable> {
    let in_headers = delivery.headers.into_iter().flat_map(HeaderMap::iter).filter(|(name, _)| {
        let name: &str = name.as_ref();
        name.eq_ignore_ascii_case("ce-type")
    });
    let in_headers = in_headers.flat_map(|(_, values)| values).map(|value| value.as_str().trim());
    let in_body = match in_body {
        Some(Value::String(stated)) => Some(stated.clone()),
        other => other.map(Value::to_string),
    };
    let stated = in_headers.filter(|stated| !stated.is_empty()).chain(envelope.kind.as_deref());
    match stated.chain(in_body.as_deref()).find(|stated| *stated != kind) {
        Some(other) => {
            let other: String = other.chars().take(TYPE_BYTES).collect();
            Err(Unusable(format!("the event states the type {other:?}, and was published as {kind}")))
        }
        None => Ok(()),
    }
}

/// A type must be valid after `events.` in a subject.
fn check_type(kind: &str) -> Result<(), Unusable> {
    let wrong = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '*' | '>');
    if kind.len() > TYPE_BYTES {
        return Err(Unusable(format!("the type is longer than {TYPE_BYTES} bytes")));
    }
    if kind.split('.').any(|token| token.is_empty() || token.contains(wrong)) {
        return Err("the type contains a character that is not allowed in a subject".into());
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(Unusable(format!("the type {kind} is reserved")));
    }
    Ok(())
}

/// The idempotency key of an event: its `event_id`, else the source and id of a CloudEvent, else the key in the header
/// of a replay, else its `Nats-Msg-Id`, else its place. Each kind has its own prefix, so that keys of different kinds
/// never collide; a `Nats-Msg-Id` counts as an `event_id`.
fn key(
    delivery: &Delivery<'_>,
    id: Option<String>,
    cloud: Option<(Option<String>, String)>,
) -> Result<String, Unusable> {
    if let Some(id) = id {
        return Ok(format!("id:{}", event_id(id)?));
    }
    if let Some((source, id)) = cloud {
        // Valid CloudEvents have a source. Without one, the key is that of releases that ignored the source.
        let Some(source) = source.filter(|source| !source.is_empty()) else {
            return Ok(format!("id:{}", event_id(id)?));
        };
        if source.len() > SOURCE_BYTES {
            return Err(Unusable(format!("the CloudEvent's source is longer than {SOURCE_BYTES} bytes")));
        }
        no_nul("source", &source)?;
        // The length makes the concatenation of source and id unambiguous.
        return Ok(format!("ce:{}:{source}{}", source.len(), event_id(id)?));
    }
    if let Some(key) = header(delivery.headers, REPLAY_OF_HEADER)
        && let Some((kind @ ("id" | "at"), id)) = key.split_once(':')
    {
        return Ok(format!("{kind}:{}", event_id(id.to_owned())?));
    }
    match header(delivery.headers, "Nats-Msg-Id") {
        Some(id) => Ok(format!("id:{}", event_id(id)?)),
        None => Ok(format!("at:{}", delivery.place)),
    }
}

fn event_id(id: String) -> Result<String, Unusable> {
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
        count if count > limits::EVENT_USERS_MAX => {
            Err(Unusable(format!("{count} users are named, {} is the limit", limits::EVENT_USERS_MAX)))
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

fn catalogue_text(
    catalogue: &Catalogue,
    kind: &str,
    lang: &str,
    parameters: &Map<String, Value>,
) -> Result<Text, Unusable> {
    use crate::catalogue::NoText;
    catalogue.text(kind, lang, parameters).map_err(|error| match error {
        NoText::UnknownType => Unusable(format!(
            "the type {kind} has no text in the catalogue, and the event doesn't bring both \"title\" and \"message\""
        )),
        NoText::Missing(_) => Unusable(error.to_string()),
    })
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

#[cfg(test)]
mod tests;
