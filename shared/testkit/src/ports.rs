//! Free ports on loopback.

use std::{collections::HashSet, net::TcpListener, ops::Range, sync::Mutex};

use anyhow::bail;

/// A range below the ephemeral ports of Linux and macOS. A restarted server finds its port free; an ephemeral port
/// could be given to a client that tries to reach the server meanwhile.
const RANGE: Range<u16> = 15_000..32_000;

static HANDED_OUT: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Returns a port of 127.0.0.1 that is free and that this process has not returned before.
///
/// Another process may still take it first, so the caller must retry with another port if listening fails.
///
/// # Errors
/// If a thousand random ports are taken.
pub fn free_port() -> anyhow::Result<u16> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let handed_out = handed_out.get_or_insert_default();
    for _ in 0..1000 {
        let port = fastrand::u16(RANGE);
        if is_free(port) && handed_out.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port found on 127.0.0.1")
}

/// Whether a process could listen on this port of 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
