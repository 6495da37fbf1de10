//! The servers that other tests stand on: they start, die, come back with their data, and are gone afterwards.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail as a test does")]

mod child;
mod nats;
mod postgres;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

/// Waits until `fact` holds; fails after half a minute, saying what was awaited.
async fn eventually(what: &str, fact: impl Fn() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether anybody listens at `url`.
fn answers(url: &str) -> bool {
    let address = url.rsplit_once('@').or(url.split_once("//")).unwrap().1;
    TcpStream::connect(address.split('/').next().unwrap()).is_ok()
}

/// What the system says a process does, as one letter: `T` is stopped.
#[cfg(target_os = "linux")]
fn state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    status.rsplit_once(") ").unwrap().1[..1].to_owned()
}
