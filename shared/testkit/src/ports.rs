//! Free ports on loopback.

use std::{collections::HashSet, net::TcpListener, ops::Range, sync::Mutex};

use anyhow::bail;

/// Below where Linux and macOS take the ports of outgoing connections from. A server that is restarted finds its
/// port free again: from that range, a client that tries to reach it meanwhile could be given that very port.
const RANGE: Range<u16> = 15_000..32_000;

static HANDED_OUT: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port of 127.0.0.1 that nobody listens on, and that this process has not been given before.
///
/// Another process may still take it first, so whoever listens on it tries again with another when that fails.
///
/// # Errors
/// When a thousand ports in a row are taken.
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

/// Whether `port` of 127.0.0.1 can be listened on now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
