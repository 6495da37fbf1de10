//! Logs: conversations and inboxes, which are read in the same way.

use crate::Seq;
use serde::{Deserialize, Serialize};

/// Which part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// The newest, newest first.
    Newest,
    /// Those before this id, newest first.
    Before(i64),
    /// Those after this id, oldest first; 0: from the first.
    After(i64),
}

/// The end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The last `seq`; 0 when the log is empty.
    pub seq: Seq,
    /// The id of that entry; 0 when the log is empty.
    pub id: i64,
}
