//! Admission of clients: tokens and their keys, revocations, rate limits, and the sockets of each user.

pub mod backend_keys;
pub mod forwarded;
pub mod jwks;
pub mod presence_reports;
pub mod present_users;
pub mod rate_limits;
pub mod revocations;
pub mod tokens;
pub mod user_sockets;
