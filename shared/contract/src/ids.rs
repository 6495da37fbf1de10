//! Identifiers. Every value is valid: positive and within 63 bits.

use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type},
};

/// The error for a text or number that is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id must be a whole number from 1 to 9223372036854775807")]
pub struct InvalidId;

macro_rules! id {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Creates an id.
            ///
            /// # Errors
            /// If the number is not positive.
            pub const fn new(id: i64) -> Result<Self, InvalidId> {
                if id > 0 { Ok(Self(id)) } else { Err(InvalidId) }
            }

            /// Number of the id.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // `parse` alone accepts a leading `+`.
                if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(InvalidId);
                }
                text.parse().map_err(|_| InvalidId).and_then(Self::new)
            }
        }

        impl TryFrom<i64> for $name {
            type Error = InvalidId;

            fn try_from(id: i64) -> Result<Self, InvalidId> {
                Self::new(id)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(i64::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                id_schema(concat!($($doc),*))
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }
    };
}

id! {
    /// A user of the marketplace, as named in the token.
    UserId
}
id! {
    /// A conversation.
    ConversationId
}
id! {
    /// A message: unique across all conversations, growing with `seq` within one.
    MessageId
}
id! {
    /// A notification: unique across all inboxes, growing with `seq` within one.
    NotificationId
}

fn id_schema(description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(1))
        .description(Some(description.trim()))
        .into()
}

/// Position of an entry in its log (a conversation or an inbox): 1, 2, 3, … without a gap; 0 is before the first.
pub type Seq = i64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_positive_numbers_are_ids(number: i64) {
            prop_assert_eq!(UserId::new(number).is_ok(), number > 0);
            prop_assert_eq!(number.to_string().parse::<UserId>().is_ok(), number > 0);
        }

        #[test]
        fn parsing_any_text_never_panics(text: String) {
            let _ = text.parse::<ConversationId>();
        }
    }

    #[test]
    fn text_that_could_forge_a_subject_is_not_an_id() {
        for text in ["", "+1", "-1", "0", "1.2", "*", ">", "1 ", "９", "9223372036854775808"] {
            assert_eq!(text.parse::<ConversationId>(), Err(InvalidId), "{text:?}");
        }
    }
}
