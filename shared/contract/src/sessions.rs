//! Revocation: ends a user's sessions before their tokens expire.

use crate::{Request, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Maximum size of [`Revoke::except_jti`].
pub const JTI_BYTES: usize = 1024;

/// Public, any backend → any gateway: closes this user's sockets and refuses all tokens issued until now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(description = "The user whose sessions end.")]
pub struct Revoke {
    /// User whose sessions end.
    pub user_id: UserId,
    /// `jti` of a token that stays valid, such as the one of the session that ends the others; 1 to 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub except_jti: Option<String>,
}

impl Request for Revoke {
    const SUBJECT: &'static str = "sessions.revoke";
    const PUBLIC: bool = true;
    type Reply = Revoked;
}

/// Reply to [`Revoke`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(description = "The moment of the revocation.")]
pub struct Revoked {
    /// Moment of revocation: tokens with an earlier or equal `iat`, or without `iat`, are refused.
    pub revoked_before: Timestamp,
}
