//! What can be found wrong.

use std::fmt;

/// A rule of the contract that the harness watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// What was acknowledged is stored.
    Lost,
    /// Nothing is stored, told or notified twice.
    Twice,
    /// No `seq` is missing.
    Hole,
    /// `seq` and ids grow together.
    Order,
    /// Every socket is told the same as the history says.
    Same,
    /// Whoever resumes is told everything.
    Behind,
    /// Markers move forward only, never beyond what was told.
    Marker,
    /// Unread counts are exact.
    Unread,
    /// Every event becomes one notification for each of its users, or one dead letter.
    Event,
    /// What is committed is told.
    Outbox,
    /// Senders get their answer in time.
    Answer,
    /// Nobody is refused what is theirs, and nobody is told what is not.
    Refused,
    /// Processes neither panic nor end by themselves, and stop when they are asked to.
    Process,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which rule was broken.
    pub rule: Rule,
    /// How.
    pub what: String,
    /// What shows it: frames, rows.
    pub evidence: Vec<String>,
}

impl Fault {
    /// A fault without evidence beyond what it says.
    pub fn new(rule: Rule, what: impl Into<String>) -> Self {
        Self { rule, what: what.into(), evidence: Vec::new() }
    }

    /// With what shows it.
    #[must_use]
    pub fn with(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }
}
