//! typing-service from outside: its rules with a clock of the test's, then replicas on a real nats-server.

#![allow(clippy::unwrap_used, reason = "in a test, that is how to fail")]

mod replicas;
mod rules;
