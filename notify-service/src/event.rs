//! The notification of an event that another backend has published.

use crate::catalogue::{Catalogue, Text};
use async_nats::HeaderMap;
pub use contract::event::Unusable;
use contract::{
    Lang, UserId,
    event::{self, Identity},
    notify::REPLAY_OF_HEADER,
    streams::EVENTS_PREFIX,
};
use serde_json::{Map, Value, value::RawValue};

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
    let kind = delivery.subject.strip_prefix(EVENTS_PREFIX).unwrap_or(delivery.subject).to_owned();
    let headers: Vec<(&str, &str)> = delivery
        .headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())))
        .collect();
    let event = event::parse(&kind, &headers, delivery.payload)?;
    let key = key(&delivery, event.identity)?;
    let own = OwnText { title: event.title, message: event.message };
    let wanted = event.lang.as_deref().and_then(Lang::accepted);
    let lang = catalogue.language(wanted.as_ref().map(Lang::as_str)).to_owned();
    let complete = own.title.is_some() && own.message.is_some();
    let parameters = event.parameters;
    let text = if complete { Text::default() } else { catalogue_text(catalogue, &kind, &lang, &parameters)? };
    let text = own.over(text);
    let translated = wanted.is_none() && !complete;
    Ok((event.users, Notice { kind, key, data: event.data, parameters, lang, text, translated, own }))
}

/// The trimmed value of a header, whose name is matched without case. `None` if it is missing or blank.
fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    let is_named = |known: &str| known.eq_ignore_ascii_case(name);
    let (_, values) = headers?.iter().find(|(known, _)| is_named(known.as_ref()))?;
    let value: &str = values.first()?.as_ref();
    (!value.trim().is_empty()).then(|| value.trim().to_owned())
}

/// The idempotency key of an event: that of its identity, else the key in the header of a replay, else its
/// `Nats-Msg-Id`, which counts as an `event_id`, else its place.
fn key(delivery: &Delivery<'_>, identity: Option<Identity>) -> Result<String, Unusable> {
    if let Some(identity) = identity {
        return Ok(identity.key());
    }
    if let Some(key) = header(delivery.headers, REPLAY_OF_HEADER)
        && let Some((kind @ ("id" | "at"), id)) = key.split_once(':')
    {
        return Ok(format!("{kind}:{}", event::event_id(id.to_owned())?));
    }
    match header(delivery.headers, "Nats-Msg-Id") {
        Some(id) => Ok(format!("id:{}", event::event_id(id)?)),
        None => Ok(format!("at:{}", delivery.place)),
    }
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

#[cfg(test)]
mod tests;
