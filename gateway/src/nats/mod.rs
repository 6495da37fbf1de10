//! Communication with the services over NATS: the connection for events, and batches of requests.

pub mod connection;
pub mod dial;
pub mod error;
pub mod joins;
pub mod languages;
pub mod protocol;
pub mod sends;
pub mod typing_inputs;
