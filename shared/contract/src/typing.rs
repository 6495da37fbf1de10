//! Typing indicators: soft state, never stored.

use crate::{ConversationId, Event, Request, Timestamp, UserId};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};
use std::{fmt, time::Duration};

/// Maximum difference between the clocks of two machines. A smaller age counts as zero.
const CLOCK_SKEW: Duration = Duration::from_secs(1);

/// Age of a typing input, by the wall clock of the machine on which it happened; zero if that time is not set.
///
/// A typing input is useful for a few seconds only, and may have waited anywhere on its way. The clocks of the machines
/// must agree within a second: a smaller difference counts as zero, a larger one in full.
pub fn age(at_ms: Option<i64>, now: Timestamp) -> Duration {
    let millis = at_ms.map_or(0, |at| now.unix_millis().saturating_sub(at));
    let age = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    if age < CLOCK_SKEW { Duration::ZERO } else { age }
}

/// A user's typing action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypingAction {
    /// Typed.
    Typing,
    /// Stopped.
    Stopped,
    /// Closed the last typing socket of this conversation at this gateway.
    Left,
}

/// One typing input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingInput {
    /// Conversation of the input.
    pub conversation_id: ConversationId,
    /// Typing user.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
    /// Gateway that received the input. A user's typing ends once all of the user's gateways report `left`.
    pub gateway: String,
    /// Action of the user.
    #[serde(rename = "keyboard")]
    pub action: TypingAction,
    /// Time of the action, by the gateway's clock, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

/// gateway → one replica of typing-service: inputs collected within a short time, in order; at most
/// [`crate::limits::TYPING_INPUTS`]. The JSON is an array, or a single input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypingInputs(pub Vec<TypingInput>);

impl Serialize for TypingInputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            inputs => inputs.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TypingInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SingleOrArray;

        impl<'de> de::Visitor<'de> for SingleOrArray {
            type Value = Vec<TypingInput>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a typing input or an array of typing inputs")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, one: A) -> Result<Self::Value, A::Error> {
                TypingInput::deserialize(MapAccessDeserializer::new(one)).map(|one| vec![one])
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, inputs: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(inputs))
            }
        }

        deserializer.deserialize_any(SingleOrArray).map(Self)
    }
}

impl Event for TypingInputs {
    const PATTERN: &'static str = "typing.input";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// typing-service → gateways and its other replicas. With `type`, it is the protocol's frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "typing")]
pub struct TypingEvent {
    /// Conversation of the event.
    pub conversation_id: ConversationId,
    /// Typing user.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
    /// True while the user is typing.
    pub is_typing: bool,
    /// Gateway that received the input. For the other replicas, never shown to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Time of the underlying input, by the publisher's clock, in milliseconds since 1970; never shown to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

/// chat-service → gateways: in a conversation of two, one user has blocked or unblocked the other. The blocked user's
/// typing is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingBlock {
    /// Conversation of two.
    pub conversation_id: ConversationId,
    /// User who blocks.
    pub user_id: UserId,
    /// True after a block, false after an unblock.
    pub blocked: bool,
}

impl TypingBlock {
    /// Prefix of its subjects.
    pub const PREFIX: &'static str = "typing.block.";
}

impl Event for TypingBlock {
    const PATTERN: &'static str = "typing.block.*";

    fn subject(&self) -> String {
        format!("{}{}", Self::PREFIX, self.conversation_id)
    }
}

/// Subject to which a gateway subscribes for a conversation: [`TypingEvent`] and [`TypingBlock`].
pub fn channel_subject(conversation: ConversationId) -> String {
    format!("typing.*.{conversation}")
}

impl Event for TypingEvent {
    const PATTERN: &'static str = "typing.event.*";

    fn subject(&self) -> String {
        format!("typing.event.{}", self.conversation_id)
    }
}

/// gateway → any replica of typing-service: requests the users who are typing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoTypes {
    /// Conversation of the request.
    pub conversation_id: ConversationId,
}

impl Request for WhoTypes {
    const SUBJECT: &'static str = "typing.who";
    /// One event, with `is_typing`, for each typing user.
    type Reply = Vec<TypingEvent>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(user: i64) -> TypingInput {
        TypingInput {
            conversation_id: ConversationId::new(1).unwrap(),
            user_id: UserId::new(user).unwrap(),
            username: "ada".to_owned(),
            gateway: "g1".to_owned(),
            action: TypingAction::Typing,
            at_ms: None,
        }
    }

    #[test]
    fn a_small_age_counts_as_zero_and_a_larger_one_in_full() {
        let now = Timestamp::from_unix(1_000).unwrap();
        for (at_ms, expected_ms) in [
            (None, 0),
            (Some(1_000_000), 0),
            (Some(999_001), 0),
            (Some(999_000), 1_000),
            (Some(994_000), 6_000),
            (Some(1_060_000), 0),
            (Some(i64::MAX), 0),
        ] {
            assert_eq!(age(at_ms, now), Duration::from_millis(expected_ms), "{at_ms:?}");
        }
        assert!(age(Some(i64::MIN), now) > Duration::from_secs(60));
    }

    #[test]
    fn inputs_are_an_array_or_a_single_input() {
        let one = r#"{"conversation_id":1,"user_id":7,"username":"ada","gateway":"g1","keyboard":"typing"}"#;
        assert_eq!(serde_json::to_string(&TypingInputs(vec![input(7)])).unwrap(), one);
        for (json, users) in [
            (one.to_owned(), vec![7]),
            (format!("[{one}]"), vec![7]),
            (format!("[{one},{}]", one.replace('7', "8")), vec![7, 8]),
            ("[]".to_owned(), vec![]),
        ] {
            let inputs: Vec<TypingInput> = users.into_iter().map(input).collect();
            assert_eq!(serde_json::from_str::<TypingInputs>(&json).unwrap().0, inputs, "{json}");
            let again = serde_json::to_string(&TypingInputs(inputs.clone())).unwrap();
            assert_eq!(serde_json::from_str::<TypingInputs>(&again).unwrap().0, inputs);
        }
        for wrong in ["", "x", "null", "7", "{}", "[[[[", "[null]"] {
            assert!(serde_json::from_str::<TypingInputs>(wrong).is_err(), "{wrong}");
        }
    }
}
