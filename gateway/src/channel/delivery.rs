//! Measures the time from the commit of a message until every socket has written it.

use crate::channel::entry::Entry;
use contract::Timestamp;
use service::Span;
use std::sync::Arc;

/// Ends when the last frame of an entry is dropped: no socket of this gateway still has to write it.
struct Delivery {
    committed: Option<Timestamp>,
    _span: Span,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(committed) = self.committed else { return };
        let micros = Timestamp::now().unix_micros() - committed.unix_micros();
        // Postgres' clock gave the time of the commit; it may be a little ahead of ours.
        let micros = u32::try_from(micros.max(0)).unwrap_or(u32::MAX);
        metrics::histogram!("gateway_delivery_duration_seconds").record(f64::from(micros) / 1e6);
    }
}

/// Measures an entry until it is written to every socket: its frames keep the measurement alive.
pub fn until_written(entry: Entry, committed: Option<Timestamp>, span: Span) -> Entry {
    let delivery = Arc::new(Delivery { committed, _span: span });
    Entry {
        public: entry.public.with_guard(delivery.clone()),
        private: entry.private.map(|frame| frame.with_guard(delivery)),
        ..entry
    }
}
