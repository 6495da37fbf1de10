//! The load generator: puts a load on a real stack (or on a peer), and says what it cost and whether all came.
//!
//! It is one thread with one runtime, as it shares the processors with what it measures, and counts its own CPU, too.
//! A message carries when it was due, so a system that falls behind shows it in every message that waits.

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
