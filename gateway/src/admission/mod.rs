//! Who is let in: tokens and their keys, revocations, rates, and the sockets of each user.

pub mod forwarded;
pub mod jwks;
pub mod rate_limits;
pub mod revocations;
pub mod tokens;
pub mod user_sockets;
