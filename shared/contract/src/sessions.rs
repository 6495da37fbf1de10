//! Ending a user's sessions before their tokens do.

use crate::{Request, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// Bytes of [`Revoke::except_jti`].
pub const JTI_BYTES: usize = 1024;

/// Public, any backend → any gateway: close this user's sockets and refuse the tokens issued until now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// Whose sessions end.
    pub user_id: UserId,
    /// The `jti` of a token that stays valid, such as the token of the session that ends the others; 1 to
    /// [`JTI_BYTES`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_jti: Option<String>,
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
