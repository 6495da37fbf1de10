//! Communication with the services over NATS: the gateway's own connection, and batches of requests.

pub mod connection;
pub mod dial;
pub mod error;
pub mod joins;
pub mod languages;
pub mod protocol;
pub mod requests;
pub mod sends;
pub mod typing_inputs;
