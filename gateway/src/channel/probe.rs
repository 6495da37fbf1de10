//! Whether this gateway does its job: what is published on a channel comes to the outbox of who is on it.

use crate::{
    channel::{
        hub::Hub,
        log_channel::{self, Membership, Part},
        ordering::View,
    },
    topic::LogKey,
    websocket::outbox::Outbox,
};
use anyhow::{Context, ensure};
use contract::{UserId, log::Head};
use service::Bus;
use std::{future::poll_fn, sync::Arc, time::Duration};

/// How long it may take to come back.
const FLIGHT: Duration = Duration::from_secs(2);
/// Canaries that may come late, all at once.
const LATE: usize = 4096;

/// A member of a channel of this gateway's own, as a socket is of a conversation's.
pub struct Probe {
    bus: Bus,
    key: LogKey,
    outbox: Arc<Outbox>,
    _place: Membership,
}

impl Probe {
    /// Takes its place.
    ///
    /// # Errors
    /// When it has none.
    pub async fn new(hub: &Hub) -> anyhow::Result<Self> {
        let key = LogKey::Canary(fastrand::u64(..));
        let outbox = Arc::new(Outbox::new(LATE, LATE * 64));
        outbox.set_understands_extensions(); // Or it would not be told of what is no entry.
        let view = View { user_id: UserId::new(1)?, outbox: outbox.clone(), envelope: None };
        let (head, empty) = (Head::default(), Vec::new());
        let part = Part { entries: vec![], more: false, head, markers: empty, inbox: None };
        let place = log_channel::join(&hub.channel(key), hub.bus(), view, part, None).await;
        let place = place.map_err(|refusal| anyhow::anyhow!("put the canary on its channel: {refusal}"))?;
        Ok(Self { bus: hub.bus().clone(), key, outbox, _place: place })
    }

    /// Flies: out to NATS, and back through the channel to the outbox.
    ///
    /// # Errors
    /// When it does not come back in time.
    pub async fn check(&self) -> anyhow::Result<()> {
        ensure!(self.bus.is_connected(), "NATS is away");
        let song = format!("{:016x}", fastrand::u64(..));
        let flight = async {
            self.bus.publish_bytes(self.key.subject(), song.clone().into(), None).await?;
            loop {
                let (frames, closed) = poll_fn(|context| self.outbox.poll_take(context)).await;
                if frames.iter().any(|frame| frame.payload() == song.as_bytes()) {
                    return Ok(());
                }
                ensure!(closed.is_none(), "too many canaries came late");
            }
        };
        tokio::time::timeout(FLIGHT, flight).await.context("the canary did not come back in 2 s")?
    }
}
