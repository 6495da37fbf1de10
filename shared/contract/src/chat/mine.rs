//! A participant's own settings of a conversation: muted, archived, pinned. Nobody else sees them.

use crate::{ConversationId, Request, Timestamp, UserId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer};
use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// The end of a mute. In JSON, a time (RFC 3339) or `"forever"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MutedUntil {
    /// The mute ends at this time.
    At(Timestamp),
    /// The mute does not end by itself.
    Forever,
}

const FOREVER: &str = "forever";

impl Serialize for MutedUntil {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(at) => at.serialize(to),
            Self::Forever => to.serialize_str(FOREVER),
        }
    }
}

impl<'de> Deserialize<'de> for MutedUntil {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        if text == FOREVER {
            return Ok(Self::Forever);
        }
        let at: Result<_, serde::de::value::Error> = Timestamp::deserialize(text.into_deserializer());
        at.map(Self::At)
            .map_err(|_| serde::de::Error::custom("the end of a mute is a time (RFC 3339) or \"forever\""))
    }
}

impl PartialSchema for MutedUntil {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The end of the mute: a time (RFC 3339), or `forever`."))
            .examples(["2025-12-09T18:00:00.000000Z", FOREVER])
            .into()
    }
}

impl ToSchema for MutedUntil {}

/// Changes of a participant's settings. What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(description = "Changes of the caller's settings. What is absent stays.")]
pub struct MineChanges {
    /// End of the mute; `null`, or a time in the past, ends it now.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<MutedUntil>)]
    pub muted_until: Option<Option<MutedUntil>>,
    /// Whether the conversation is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// Whether the conversation is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
}

/// Tells null from an absent field.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// gateway → chat-service: changes a participant's own settings of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMine {
    /// The participant.
    pub user_id: UserId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The changes.
    pub changes: MineChanges,
}

impl Request for SetMine {
    const SUBJECT: &'static str = "chat.conversations.mine";
    type Reply = ();
}

/// A participant's settings of a conversation, all of them: what is absent is not set. The JSON is the protocol's
/// frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "mine")]
pub struct Mine {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// End of the mute, if it is muted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<MutedUntil>,
    /// Whether it is archived.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// Whether it is pinned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_ends_a_mute_and_an_absent_field_changes_nothing() {
        let changes = |json: &str| serde_json::from_str::<MineChanges>(json);
        assert_eq!(changes("{}").unwrap(), MineChanges::default());
        assert_eq!(changes(r#"{"muted_until":null}"#).unwrap().muted_until, Some(None));
        for (text, end) in [
            (r#"{"muted_until":"forever"}"#, MutedUntil::Forever),
            (
                r#"{"muted_until":"2025-12-09T10:30:00.000000Z"}"#,
                MutedUntil::At(Timestamp::from_unix(1_765_276_200).unwrap()),
            ),
        ] {
            let parsed = changes(text).unwrap();
            assert_eq!(parsed.muted_until, Some(Some(end)));
            assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
        }
        for wrong in [r#"{"muted_until":"tomorrow"}"#, r#"{"muted_until":1}"#, r#"{"archived":"yes"}"#] {
            assert!(changes(wrong).is_err(), "{wrong}");
        }
    }
}
