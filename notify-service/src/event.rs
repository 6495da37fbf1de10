//! What other backends publish on `events.>`: a plain object, or a CloudEvent around it.

use crate::catalogue::{Catalogue, MESSAGE_CHARS, TITLE_CHARS, Text, language_tag};
use async_nats::HeaderMap;
use contract::{
    UserId, frames, limits,
    notify::{EVENTS_PREFIX, EventBody, RESERVED_TYPES},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// Bytes of an event's body.
pub const BODY_BYTES: usize = 64 * 1024;
/// Bytes of what an event is known by.
pub const EVENT_ID_BYTES: usize = 256;
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
    let kind = match envelope.kind {
        Some(kind) => kind,
        None => delivery.subject.strip_prefix(EVENTS_PREFIX).unwrap_or(delivery.subject).to_owned(),
    };
    check_type(&kind)?;
    let id = body.event_id.or(envelope.id).or_else(|| header(delivery.headers, "Nats-Msg-Id"));
    let key = match id {
        Some(id) => format!("id:{}", event_id(id)?),
        None => format!("at:{}", delivery.place),
    };
    let users = users(body.user_id, body.user_ids)?;
    let (data, parameters) = data(body.data)?;
    let own = OwnText {
        title: body.title.map(|title| own_text("title", title, TITLE_CHARS)).transpose()?,
        message: body.message.map(|message| own_text("message", message, MESSAGE_CHARS)).transpose()?,
    };
    let wanted = body.lang.as_deref().and_then(language_tag);
    let lang = catalogue.language(wanted.as_deref()).to_owned();
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
    kind: Option<String>,
    body: &'a str,
}

/// Takes a CloudEvent apart (<https://github.com/cloudevents/spec>, NATS protocol binding); a plain event is its own body.
fn envelope<'a>(delivery: &Delivery<'_>, text: &'a str) -> Result<Envelope<'a>, Unusable> {
    #[derive(Deserialize)]
    struct Structured<'a> {
        specversion: Option<String>,
        id: Option<String>,
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
                return Ok(Envelope { id: event.id, kind: event.r#type, body });
            }
            // Somewhere inside the data of a plain event.
            Ok(_) => {}
            Err(error) => return Err(not_json(text, &error, "the CloudEvent can't be read")),
        }
    }
    let id = header(delivery.headers, "ce-id");
    let kind = header(delivery.headers, "ce-type");
    Ok(Envelope { id, kind, body: text })
}

const CLOUD_EVENT: &str = "application/cloudevents";

/// A header, whatever the case of its name; `None` where it says nothing.
pub fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    let is_named = |known: &str| known.eq_ignore_ascii_case(name);
    let (_, values) = headers?.iter().find(|(known, _)| is_named(known.as_ref()))?;
    let value: &str = values.first()?.as_ref();
    (!value.trim().is_empty()).then(|| value.trim().to_owned())
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Read = Result<(Vec<UserId>, Notice), Unusable>;

    fn read_as(subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Read {
        let catalogue = Catalogue::load(None).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let headers = (!headers.is_empty()).then_some(&map);
        parse(Delivery { subject, headers, payload, place: "EVENTS:1:2" }, &catalogue)
    }

    fn read(body: &str) -> Read {
        read_as("events.payment_completed", &[], body.as_bytes())
    }

    fn reason(read: Read) -> String {
        read.expect_err("was taken").0
    }

    fn ids(users: &[UserId]) -> Vec<i64> {
        users.iter().map(|user| user.get()).collect()
    }

    #[test]
    fn the_plain_event_of_the_contract_is_read() {
        let (users, notice) = read(r#"{"user_id":456,"data":{"payment_id":789}}"#).unwrap();
        assert_eq!(ids(&users), [456]);
        assert_eq!((notice.kind.as_str(), notice.key.as_str()), ("payment_completed", "at:EVENTS:1:2"));
        assert_eq!(notice.text.title, "Paiement confirmé");
        assert_eq!(notice.data.get(), r#"{"payment_id":789}"#);
        assert!(notice.translated);
    }

    #[test]
    fn users_count_once_and_data_may_be_missing() {
        let (users, notice) = read(r#"{"user_id":3,"user_ids":[2,3,2],"data":null,"title":null}"#).unwrap();
        assert_eq!(ids(&users), [2, 3]);
        assert_eq!(notice.data.get(), "{}");
    }

    #[test]
    fn an_event_may_bring_its_own_text_and_language() {
        let (_, notice) = read(r#"{"user_id":1,"lang":"en-GB"}"#).unwrap();
        assert_eq!((notice.text.title.as_str(), notice.translated), ("Payment confirmed", false));
        let (_, notice) = read(r#"{"user_id":1,"lang":"xx","title":"Yo"}"#).unwrap();
        assert_eq!(
            (notice.text.title.as_str(), notice.text.message.as_str()),
            ("Yo", "Votre paiement a été traité")
        );
        let own = br#"{"user_id":1,"title":"T","message":"M"}"#;
        let (_, notice) = read_as("events.brand-new.type", &[], own).unwrap();
        assert_eq!((notice.kind.as_str(), notice.text.message.as_str()), ("brand-new.type", "M"));
    }

    #[test]
    fn an_event_is_known_by_its_id_else_its_header_else_its_place() {
        let key = |headers: &[(&str, &str)], body: &str| {
            read_as("events.payment_completed", headers, body.as_bytes()).unwrap().1.key
        };
        let header = [("nats-msg-id", "m1")];
        assert_eq!(key(&header, r#"{"user_id":1,"event_id":"e1"}"#), "id:e1");
        assert_eq!(key(&header, r#"{"user_id":1}"#), "id:m1");
        assert_eq!(key(&[], r#"{"user_id":1}"#), "at:EVENTS:1:2");
    }

    #[test]
    fn cloud_events_are_read_in_both_forms() {
        let structured = br#"{"specversion":"1.0","id":"c1","source":"/pay","type":"listing_published","data":{"user_id":7,"data":{"x":1}}}"#;
        for headers in [&[][..], &[("content-type", "application/cloudevents+json; charset=utf-8")][..]] {
            let (users, notice) = read_as("events.payment_completed", headers, structured).unwrap();
            assert_eq!((ids(&users), notice.kind.as_str()), (vec![7], "listing_published"));
            assert_eq!((notice.key.as_str(), notice.data.get()), ("id:c1", r#"{"x":1}"#));
        }
        let headers = [("CE-Id", "c2"), ("ce-type", "listing_published"), ("ce-specversion", "1.0")];
        let (_, notice) = read_as("events.any", &headers, br#"{"user_id":7}"#).unwrap();
        assert_eq!((notice.kind.as_str(), notice.key.as_str()), ("listing_published", "id:c2"));
        // A word in the data makes no CloudEvent.
        let (_, notice) = read(r#"{"user_id":7,"data":{"specversion":"1.0"}}"#).unwrap();
        assert_eq!(notice.kind, "payment_completed");
        let no_data = br#"{"specversion":"1.0","id":"c1","type":"a","data":"eA=="}"#;
        assert_eq!(reason(read_as("events.a", &[], no_data)), "the CloudEvent has no object as \"data\"");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let many = |count: i64| serde_json::json!({"user_ids": (1..=count).collect::<Vec<_>>()}).to_string();
        assert_eq!(read(&many(1_000)).unwrap().0.len(), 1_000);
        let deep = format!(r#"{{"user_id":1,"data":{{"a":{}{}}}}}"#, "[".repeat(40), "]".repeat(40));
        let large = format!(r#"{{"user_id":1,"data":{{"a":"{}"}}}}"#, "x".repeat(900 * 1024));
        let text = |name: &str, value: &str| format!(r#"{{"user_id":1,"{name}":"{value}"}}"#);
        for (body, expected) in [
            ("", "the body is empty"),
            ("hello", "the body is not JSON"),
            ("[456]", "the body is not a JSON object"),
            ("456", "the body is not a JSON object"),
            ("{\"user_id\":1", "the body is not JSON: "),
            ("{}", "no user is named"),
            (r#"{"user_ids":[]}"#, "no user is named"),
            (r#"{"user_id":"456"}"#, "\"user_id\" is not a whole number"),
            (r#"{"user_id":-1}"#, "\"user_id\" is not a whole number"),
            (r#"{"user_id":0}"#, "\"user_id\" is not a whole number"),
            (r#"{"user_id":1.5}"#, "\"user_id\" is not a whole number"),
            (r#"{"user_id":9223372036854775808}"#, "\"user_id\" is not a whole number"),
            (r#"{"user_ids":[1,"2"]}"#, "\"user_ids\" is not an array of whole numbers"),
            (r#"{"user_ids":7}"#, "\"user_ids\" is not an array of whole numbers"),
            (&many(1_500), "1500 users are named, 1000 is the limit"),
            (r#"{"user_id":1,"data":[1]}"#, "\"data\" is not an object"),
            (r#"{"user_id":1,"data":"x"}"#, "\"data\" is not an object"),
            (r#"{"user_id":1,"data":{"a":["\u0000"]}}"#, "\"data\" holds a NUL character"),
            (r#"{"user_id":1,"data":{"a\u0000":1}}"#, "\"data\" holds a NUL character"),
            (r#"{"user_id":1,"data":{"a":"\ud800"}}"#, "\"data\" holds a broken character"),
            (r#"{"user_id":1,"data":{"a":1e999}}"#, "\"data\" holds a broken character or a number"),
            (&text("title", "\\u0000"), "\"title\" holds a NUL character"),
            (&text("title", " "), "\"title\" is empty"),
            (&text("title", &"é".repeat(201)), "\"title\" is longer than 200 characters"),
            (&text("message", &"é".repeat(2_001)), "\"message\" is longer than 2000 characters"),
            (&text("event_id", &"é".repeat(129)), "\"event_id\" is longer than 256 bytes"),
            (&text("event_id", ""), "\"event_id\" is empty"),
            (r#"{"user_id":1,"event_id":5}"#, "\"event_id\" is not a text"),
            (r#"{"user_id":1,"user_id":2}"#, "the body is not an event: duplicate field"),
            (&deep, "the body is nested deeper than 32 levels"),
            (&large, "the body has 921"),
        ] {
            let reason = reason(read(body));
            assert!(reason.starts_with(expected), "{body:.60} said {reason:?}");
        }
        assert_eq!(
            reason(read_as("events.payment_completed", &[], b"{\"a\":\"\xff\"}")),
            "the body is not UTF-8"
        );
        assert!(read(r#"{"user_id":1,"data":{"a":"\\u0000"}}"#).is_ok(), "an escaped backslash is no NUL");
    }

    #[test]
    fn a_type_must_be_known_or_bring_its_text_and_fit_a_subject() {
        let one = br#"{"user_id":1,"title":"T"}"#;
        assert!(reason(read_as("events.unknown", &[], one)).starts_with("the type unknown has no text"));
        assert!(
            reason(read_as("events.message_received", &[], br#"{"user_id":1}"#))
                .contains("\"sender_username\"")
        );
        let both = br#"{"user_id":1,"title":"T","message":"M"}"#;
        assert_eq!(reason(read_as("events.read_all", &[], both)), "the type read_all is reserved");
        for kind in ["a b", "a..b", ".a", "a.", "*", "a.>", "a\u{7f}"] {
            let reason = reason(read_as("events.a", &[("ce-type", kind)], both));
            assert!(reason.contains("no subject may have"), "{kind:?} said {reason:?}");
        }
        let long = "a".repeat(TYPE_BYTES + 1);
        assert!(reason(read_as(&format!("events.{long}"), &[], both)).starts_with("the type is longer"));
    }

    proptest! {
        #[test]
        fn no_body_panics(payload: Vec<u8>, subject: String) {
            let _ = read_as(&subject, &[], &payload);
        }

        #[test]
        fn no_object_panics(
            user in "-?[0-9]{1,20}|\"1\"|null", data in "\\{[^\\\\]{0,8}\\}|\\[\\]|\"\\\\u0000\"|1", id in "\\PC{0,9}",
        ) {
            let body = format!(r#"{{"user_id":{user},"data":{data},"event_id":{}}}"#, serde_json::json!(id));
            let _ = read(&body);
            let wrapped = format!(r#"{{"specversion":"1.0","id":{},"data":{body}}}"#, serde_json::json!(id));
            let _ = read(&wrapped);
        }
    }
}
