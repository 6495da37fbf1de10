//! The load generator: puts load on a real stack (or on a peer), and measures its cost and whether everything arrives.
//!
//! It runs on one thread, because it shares the processors with the measured system, and it also measures its own CPU.
//! Each message carries the time at which it was due, so that a system that falls behind shows the delay of every
//! message.

pub mod comparison;
pub mod goals;
pub mod judge;
pub mod link;
pub mod meter;
pub mod pace;
pub mod peers;
pub mod processes;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod seed;
pub mod system;
pub mod target;
pub mod world;
