//! Logs: conversations and inboxes, which are read in the same way.

use crate::Seq;
use serde::{Deserialize, Serialize};

/// A range of entries of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The newest entries, newest first.
    Newest,
    /// Entries before this id, newest first.
    Before(i64),
    /// Entries after this id, oldest first. 0 starts at the first entry.
    After(i64),
}

/// The last entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// Last `seq`; 0 if the log is empty.
    pub seq: Seq,
    /// Id of that entry; 0 if the log is empty.
    pub id: i64,
}
