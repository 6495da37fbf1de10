//! The readiness probe of a gateway: a subscriber of its own subject. What it publishes must come back to its outbox
//! the way that events reach sockets: through NATS, the gateway's own connection, and the hub.

use crate::{
    topic::Subscriber,
    websocket::{Frame, outbox::Outbox},
};
use anyhow::{Context, ensure};
use service::Bus;
use std::{future::poll_fn, time::Duration};

/// How long a probe may take to come back.
const FLIGHT: Duration = Duration::from_secs(2);
/// Number of late probes that the outbox holds.
const LATE: usize = 4096;

/// A subscriber of a subject that belongs to this gateway.
pub struct Probe {
    id: u64,
    outbox: Outbox,
}

impl Probe {
    /// A probe with a random subject. It is not subscribed yet.
    pub fn new() -> Self {
        Self { id: fastrand::u64(..), outbox: Outbox::new(LATE, LATE * 64) }
    }

    /// The probe's name for NATS.
    pub const fn subscriber(&self) -> Subscriber {
        Subscriber::Probe(self.id)
    }

    /// Takes a message of its subject.
    pub fn take(&self, payload: &[u8]) {
        self.outbox.push(Frame::text(&String::from_utf8_lossy(payload)));
    }

    /// Publishes a random payload and waits for it.
    ///
    /// # Errors
    /// If NATS is not connected or the payload does not come back in time.
    pub async fn check(&self, bus: &Bus) -> anyhow::Result<()> {
        ensure!(bus.is_connected(), "NATS is not connected");
        let payload = format!("{:016x}", fastrand::u64(..));
        let flight = async {
            bus.publish_bytes(self.subscriber().subject(), payload.clone().into(), None).await?;
            loop {
                let (frames, closed) = poll_fn(|context| self.outbox.poll_take(context)).await;
                if frames.iter().any(|frame| frame.payload() == payload.as_bytes()) {
                    return Ok(());
                }
                ensure!(closed.is_none(), "too many probes came back late");
            }
        };
        tokio::time::timeout(FLIGHT, flight).await.context("a probe did not come back within 2 s")?
    }
}
