//! Kinds of messages: the data that a message of a kind carries, and the request for their schemas.

use crate::{Request, limits};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The data of a message: the text of a JSON object, passed on as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Data(Box<RawValue>);

impl Data {
    /// Wraps a JSON text, which [`crate::frames::message_data`] or the service has checked.
    pub const fn new(json: Box<RawValue>) -> Self {
        Self(json)
    }

    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Data {}

/// Whether this can be the name of a kind: `[a-z][a-z0-9_.]{0,63}`.
pub fn is_kind_name(name: &str) -> bool {
    name.len() <= limits::KIND_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
}

/// gateway → chat-service: requests all kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListKinds {}

impl Request for ListKinds {
    const SUBJECT: &'static str = "chat.kinds.list";
    type Reply = Kinds;
}

/// All kinds of messages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Kinds {
    /// The kinds, sorted by name.
    pub kinds: Vec<Kind>,
}

/// A kind of messages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Kind {
    /// Name of the kind.
    pub kind: String,
    /// JSON Schema (2020-12) of the data. `x-vyzio` says who may send the kind, and has its texts.
    #[schema(value_type = Object)]
    pub schema: Box<RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["offer", "a", "a1_b.c", &"a".repeat(64)] {
            assert!(is_kind_name(name), "{name}");
        }
        for name in ["", "Offer", "1a", "_a", ".a", "a-b", "a b", "é", &"a".repeat(65)] {
            assert!(!is_kind_name(name), "{name}");
        }
    }
}
