//! What other backends publish on `events.>`: a plain object, or a CloudEvent around it.

use crate::catalogue::{Catalogue, MESSAGE_CHARS, TITLE_CHARS, Text};
use async_nats::HeaderMap;
use contract::{
    Lang, UserId, frames, limits,
    notify::{EventBody, REPLAY_OF_HEADER, RESERVED_TYPES},
    streams::EVENTS_PREFIX,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// Bytes of an event's body.
pub const BODY_BYTES: usize = 64 * 1024;
/// Bytes of what an event is known by.
pub const EVENT_ID_BYTES: usize = 256;
/// Bytes of a CloudEvent's source. With the id it must fit into an index of Postgres.
pub const SOURCE_BYTES: usize = 1024;
/// Bytes of a type.
pub const TYPE_BYTES: usize = 128;

/// Why an event can't be used, for the person who looks at the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl From<&str> for Unusable {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// What NATS has delivered.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Where it was published.
    pub subject: &'a str,
    /// With which headers.
    pub headers: Option<&'a HeaderMap>,
    /// The body.
    pub payload: &'a [u8],
    /// Names it, where the publisher didn't: the same for each delivery of it, and of nothing else.
    pub place: &'a str,
}

/// A notification to be, for each of its users.
#[derive(Debug)]
pub struct Notice {
    /// Its type.
    pub kind: String,
    /// What it is known by when it comes again.
    pub key: String,
    /// As published.
    pub data: Box<RawValue>,
    /// The same, for the texts.
    pub parameters: Map<String, Value>,
    /// The language of [`Notice::text`].
    pub lang: String,
    /// What it says in that language.
    pub text: Text,
    /// Whether users of other languages are told in theirs.
    pub translated: bool,
    /// What it says in every language.
    pub own: OwnText,
}

/// What the event says itself.
#[derive(Debug, Default)]
pub struct OwnText {
    /// Instead of the catalogue's.
    pub title: Option<String>,
    /// Instead of the catalogue's.
    pub message: Option<String>,
}

impl OwnText {
    /// The catalogue's text, but for what the event says itself.
    pub fn over(&self, text: Text) -> Text {
        Text {
            title: self.title.clone().unwrap_or(text.title),
            message: self.message.clone().unwrap_or(text.message),
        }
    }
}

/// Reads an event: whom it notifies, and of what.
///
/// # Errors
/// Why it can't be used.
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
    let said = if complete { Text::default() } else { catalogue_text(catalogue, &kind, &lang, &parameters)? };
    let text = own.over(said);
    let translated = wanted.is_none() && !complete;
    Ok((users, Notice { kind, key, data, parameters, lang, text, translated, own }))
}

/// The body as text that is safe to parse.
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
    // serde would take an array for the object as well.
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => Ok(text),
        _ => match serde_json::from_str::<Value>(text) {
            Ok(_) => Err("the body is not a JSON object".into()),
            Err(_) => Err("the body is not JSON".into()),
        },
    }
}

/// A CloudEvent's own part, and the plain event in it.
struct Envelope<'a> {
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    body: &'a str,
}

/// Takes a CloudEvent apart (<https://github.com/cloudevents/spec>, NATS protocol binding); a plain event is its own body.
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
    let said = header(delivery.headers, "Content-Type").is_some_and(|kind| {
        kind.get(..CLOUD_EVENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLOUD_EVENT))
    });
    // The key may be anywhere in the text; only then is a second look worth its cost.
    if said || text.contains("\"specversion\"") {
        match serde_json::from_str::<Structured<'_>>(text) {
            Ok(event) if said || event.specversion.is_some() => {
                let body = event.data.map(RawValue::get).filter(|data| data.starts_with('{'));
                let body = body.ok_or_else(|| Unusable::from("the CloudEvent has no object as \"data\""))?;
                return Ok(Envelope { id: event.id, source: event.source, kind: event.r#type, body });
            }
            // Somewhere inside the data of a plain event.
            Ok(_) => {}
            Err(error) => return Err(not_json(text, &error, "the CloudEvent can't be read")),
        }
    }
    let (id, source) = (header(delivery.headers, "ce-id"), header(delivery.headers, "ce-source"));
    Ok(Envelope { id, source, kind: None, body: text })
}

const CLOUD_EVENT: &str = "application/cloudevents";

/// A header, whatever the case of its name; `None` where it says nothing.
pub fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    let is_named = |known: &str| known.eq_ignore_ascii_case(name);
    let (_, values) = headers?.iter().find(|(known, _)| is_named(known.as_ref()))?;
    let value: &str = values.first()?.as_ref();
    (!value.trim().is_empty()).then(|| value.trim().to_owned())
}

/// The subject is what permissions apply to, so it alone says the type: an event that states another one, wherever, was
/// published in the wrong place.
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

/// A type is what may follow `events.` in a subject.
fn check_type(kind: &str) -> Result<(), Unusable> {
    let wrong = |char: char| char.is_whitespace() || char.is_control() || matches!(char, '*' | '>');
    if kind.len() > TYPE_BYTES {
        return Err(Unusable(format!("the type is longer than {TYPE_BYTES} bytes")));
    }
    if kind.split('.').any(|token| token.is_empty() || token.contains(wrong)) {
        return Err("the type holds a character that no subject may have".into());
    }
    if RESERVED_TYPES.contains(&kind) {
        return Err(Unusable(format!("the type {kind} is reserved")));
    }
    Ok(())
}

/// What the event is known by when it comes again: its `event_id`, else its source and id as a CloudEvent, else what a
/// replay says of it, else its `Nats-Msg-Id`, else its place. Each kind has a prefix of its own, so that none is taken for
/// another; a `Nats-Msg-Id` stands for an `event_id`.
fn key(
    delivery: &Delivery<'_>,
    id: Option<String>,
    cloud: Option<(Option<String>, String)>,
) -> Result<String, Unusable> {
    if let Some(id) = id {
        return Ok(format!("id:{}", event_id(id)?));
    }
    if let Some((source, id)) = cloud {
        // No CloudEvent is without a source; what is all but that keeps the key that it had before sources counted.
        let Some(source) = source.filter(|source| !source.is_empty()) else {
            return Ok(format!("id:{}", event_id(id)?));
        };
        if source.len() > SOURCE_BYTES {
            return Err(Unusable(format!("the CloudEvent's source is longer than {SOURCE_BYTES} bytes")));
        }
        no_nul("source", &source)?;
        // With its length, no other source and id make the same text.
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
    // Unlike what takes it as it is, this finds broken characters and numbers that no reader can take.
    let parameters: Map<String, Value> = serde_json::from_str(raw.get())
        .map_err(|_| Unusable::from("\"data\" holds a broken character or a number out of range"))?;
    if raw.get().contains("\\u0000")
        && parameters.iter().any(|(key, value)| key.contains('\0') || has_nul(value))
    {
        return Err("\"data\" holds a NUL character".into());
    }
    Ok((raw, parameters))
}

/// `{}`.
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
    if text.contains('\0') { Err(Unusable(format!("{name:?} holds a NUL character"))) } else { Ok(()) }
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

/// Says in words why a body isn't an event. Only bad ones are parsed twice.
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
            return Unusable(format!("{name:?} is not a text"));
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
