//! Tests of the servers: they start, are killed, restart with their data, and are removed afterwards.

#![allow(clippy::unwrap_used, reason = "a test helper may panic like a test")]

mod child;
mod nats;
mod postgres;

use std::net::TcpStream;

/// Whether a server accepts connections at `url`.
fn answers(url: &str) -> bool {
    let address = url.rsplit_once('@').or(url.split_once("//")).unwrap().1;
    TcpStream::connect(address.split('/').next().unwrap()).is_ok()
}

/// State of a process as one letter: `T` is stopped.
#[cfg(target_os = "linux")]
fn state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    status.rsplit_once(") ").unwrap().1[..1].to_owned()
}
