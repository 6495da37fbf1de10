//! The rules that the harness checks.

use std::fmt;

/// A rule of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Everything that was acknowledged is stored.
    Lost,
    /// Nothing is stored, delivered or notified twice.
    Twice,
    /// No `seq` is missing.
    Gap,
    /// `seq` and ids grow together.
    Order,
    /// All sockets receive the same data, as it is in the history.
    Same,
    /// A client that resumes receives everything.
    Behind,
    /// On each socket, `change` grows. An acknowledged change is stored, and a repeat changes nothing.
    Change,
    /// A deleted text is shown nowhere.
    Deleted,
    /// Nothing has the name or a text of an erased user, and each erasure ends.
    Erased,
    /// Markers only move forward, and never beyond the delivered entries. They never stop directly before a
    /// deleted message.
    Marker,
    /// Unread counts are exact.
    Unread,
    /// Every event becomes one notification for each of its users, or one dead letter.
    Event,
    /// Everything that is committed is published.
    Outbox,
    /// Each message has its event for backends, and each such event reaches the webhook with its id.
    Told,
    /// Users are reminded of what they have not read: once, in time, and as they wish.
    Reminded,
    /// Exactly the users with an open socket are present.
    Present,
    /// Senders receive a reply in time.
    Answer,
    /// No permitted request is refused, and no user receives data of others.
    Refused,
    /// Processes neither panic nor exit by themselves, and they stop on request.
    Process,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// A violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Violated rule.
    pub rule: Rule,
    /// Description of the violation.
    pub what: String,
    /// Evidence: frames, rows.
    pub evidence: Vec<String>,
}

impl Fault {
    /// Creates a fault without evidence.
    pub fn new(rule: Rule, what: impl Into<String>) -> Self {
        Self { rule, what: what.into(), evidence: Vec::new() }
    }

    /// Adds evidence.
    #[must_use]
    pub fn with(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }
}
