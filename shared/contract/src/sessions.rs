//! Ending a user's sessions before their tokens do.

use crate::{Request, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// Public, any backend → any gateway: close this user's sockets and refuse the tokens issued until now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Whose sessions end.
    pub user_id: UserId,
}

impl Request for Revoke {
    const SUBJECT: &'static str = "sessions.revoke";
    const PUBLIC: bool = true;
    type Reply = Revoked;
}

/// The answer to [`Revoke`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Tokens with an `iat` up to this moment, or none, are refused.
    pub revoked_before: Timestamp,
}
