//! The ways to the services: the connection for events, and requests that travel in batches.

pub mod connection;
pub mod dial;
pub mod error;
pub mod joins;
pub mod languages;
pub mod protocol;
pub mod sends;
pub mod typing_inputs;
