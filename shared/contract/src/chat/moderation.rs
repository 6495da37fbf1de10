//! Blocks between users, and reports to moderators.

use super::{Message, Participant};
use crate::log::Range;
use crate::streams::REPORTED_SUBJECT;
use crate::{Event, MessageId, Page, Request, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// gateway → chat-service: blocks or unblocks a user. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBlock {
    /// User who blocks.
    pub user_id: UserId,
    /// User who is blocked or unblocked.
    pub blocked_id: UserId,
    /// True to block, false to unblock.
    pub blocked: bool,
}

impl Request for SetBlock {
    const SUBJECT: &'static str = "chat.blocks.set";
    type Reply = ();
}

/// gateway → chat-service: lists the users blocked by a user. The ids in the range are user ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListBlocks {
    /// User whose blocks are listed.
    pub user_id: UserId,
    /// Range of blocked users.
    pub range: Range,
    /// Maximum number of users.
    pub limit: u16,
}

impl Request for ListBlocks {
    const SUBJECT: &'static str = "chat.blocks.list";
    type Reply = Page<Participant>;
}

/// gateway → chat-service: reports either a message or a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeReport {
    /// User who reports.
    pub reporter_id: UserId,
    /// Reported message, which the reporter must be able to see.
    #[serde(default)]
    pub message_id: Option<MessageId>,
    /// Reported user.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// Reason of the report: 1 to [`crate::limits::REASON_CHARS`] characters.
    pub reason: String,
}

impl Request for MakeReport {
    const SUBJECT: &'static str = "chat.reports.make";
    type Reply = Reported;
}

/// Reply to [`MakeReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reported {
    /// Id of the report.
    pub report_id: i64,
    /// User who reported.
    pub reporter_id: UserId,
    /// Reported user: the sender of the message, or the user named in the report.
    pub user_id: UserId,
    /// Message at the time of the report.
    #[schema(required)]
    pub message: Option<Message>,
    /// Reason given by the reporter.
    pub reason: String,
    /// Time of the report.
    pub created_at: Timestamp,
}

/// chat-service → backends, on the stream `EVENTS_OUT`: a report for the backend that moderates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportMade {
    /// The same each time that the event is published.
    pub event_id: String,
    /// Time of the report.
    pub occurred_at: Timestamp,
    /// The report.
    #[serde(flatten)]
    pub reported: Reported,
}

impl<'de> Deserialize<'de> for ReportMade {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not flattened: that could not keep the text of `data`.
        let text = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let reported: Reported = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        Ok(reported.into())
    }
}

impl From<Reported> for ReportMade {
    fn from(reported: Reported) -> Self {
        let event_id = format!("report-{}", reported.report_id);
        Self { event_id, occurred_at: reported.created_at, reported }
    }
}

impl Event for ReportMade {
    const PATTERN: &'static str = REPORTED_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}
