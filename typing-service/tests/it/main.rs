//! Black-box tests of typing-service: its rules with a simulated clock, and replicas on a real nats-server.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

mod replicas;
mod rules;
mod simulation;
