//! The attributes of a type that concern its reminders: `.remind`, `.default` and `.mandatory`.

use crate::steps::is_name;
use anyhow::{Context, bail, ensure};
use fluent_bundle::{FluentResource, concurrent::FluentBundle};
use std::collections::BTreeSet;

/// The type of notifications of unread messages.
pub const MESSAGE_RECEIVED: &str = "message_received";
/// The word for no step.
const NONE: &str = "none";

/// How a type's reminders are sent, and what users may set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The steps of its reminders; `None`: all for messages, none for other types.
    remind: Option<BTreeSet<String>>,
    /// The steps that are on without a setting of the user; `None`: all.
    default: Option<BTreeSet<String>>,
    /// Whether it ignores the user's settings.
    pub mandatory: bool,
}

impl Policy {
    /// The policy of a type without attributes.
    pub const fn unknown() -> Self {
        Self { remind: None, default: None, mandatory: false }
    }

    /// Whether a type has reminders of a step.
    pub fn reminds(&self, id: &str, step: &str) -> bool {
        self.remind.as_ref().map_or(id == MESSAGE_RECEIVED, |steps| steps.contains(step))
    }

    /// Whether they are on without a setting of the user.
    pub fn is_on(&self, step: &str) -> bool {
        self.default.as_ref().is_none_or(|steps| steps.contains(step))
    }

    /// The same with what another language says beyond it.
    pub fn or(self, other: Self) -> Self {
        Self {
            remind: self.remind.or(other.remind),
            default: self.default.or(other.default),
            mandatory: self.mandatory || other.mandatory,
        }
    }

    /// Whether the type has a default of its own.
    pub const fn has_default(&self) -> bool {
        self.default.is_some()
    }
}

/// Reads the policy of a type in one language.
///
/// # Errors
/// If an attribute is not valid.
pub fn policy(bundle: &FluentBundle<FluentResource>, id: &str) -> anyhow::Result<Policy> {
    let attribute = |name: &str| {
        let pattern = bundle.get_message(id)?.get_attribute(name)?.value();
        let mut errors = Vec::new();
        Some(bundle.format_pattern(pattern, None, &mut errors).into_owned())
    };
    let steps = |name: &str| attribute(name).map(|text| steps(&text).with_context(|| format!(".{name}")));
    let mandatory = match attribute("mandatory").as_deref() {
        None | Some("no") => false,
        Some("yes") => true,
        Some(_) => bail!(".mandatory must be yes or no"),
    };
    Ok(Policy { remind: steps("remind").transpose()?, default: steps("default").transpose()?, mandatory })
}

/// A list of steps such as `push, mail`, or `none`. Steps that are not configured are ignored.
fn steps(text: &str) -> anyhow::Result<BTreeSet<String>> {
    if text.trim() == NONE {
        return Ok(BTreeSet::new());
    }
    let steps = text.split(',').map(str::trim);
    steps
        .map(|step| {
            ensure!(is_name(step), "must be steps such as \"push, mail\", or {NONE}, not {text:?}");
            Ok(step.to_owned())
        })
        .collect()
}
