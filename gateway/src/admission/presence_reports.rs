//! Reports of the users who are present at this gateway, published in batches. Services follow them.

use crate::admission::present_users::{Batch, PresentUsers};
use async_nats::{Message, Subscriber};
use contract::{
    Event, Timestamp,
    presence::{ALIVE_EVERY, Alive, Delta, Hello, Snapshot},
};
use futures_util::StreamExt;
use service::Bus;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// Minimum interval between two batches. Users do not notice such a delay.
const INTERVAL: Duration = Duration::from_millis(25);

/// The task that reports.
pub struct Reports {
    bus: Bus,
    gateway: String,
    epoch: i64,
    present: Arc<PresentUsers>,
    requests: Subscriber,
    hellos: Subscriber,
    /// The time before which no batch is published.
    next: Instant,
}

impl Reports {
    /// Subscribes to the requests of services to the gateway with this id.
    ///
    /// # Errors
    /// If the NATS client is closed.
    pub async fn new(bus: Bus, gateway: String, present: Arc<PresentUsers>) -> anyhow::Result<Self> {
        let requests = bus.subscribe(format!("{}{gateway}", Snapshot::PREFIX)).await?;
        let hellos = bus.subscribe(Hello::PATTERN.to_owned()).await?;
        let epoch = Timestamp::now().unix();
        Ok(Self { bus, gateway, epoch, present, requests, hellos, next: Instant::now() })
    }

    /// Publishes batches and signs of life, and answers requests, until the token is cancelled.
    pub async fn run(mut self, ended: CancellationToken) {
        let mut alive = interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                () = self.present.changed() => {}
                () = due => self.batch().await,
                _ = alive.tick() => self.alive().await,
                Some(_) = self.hellos.next() => self.alive().await,
                Some(request) = self.requests.next() => self.answer(&request).await,
                () = ended.cancelled() => return,
            }
        }
    }

    /// Waits for the next batch. Never ready while NATS is disconnected: the changes wait until the next sign of life
    /// after that.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.present.due().filter(|_| self.bus.is_connected());
        let due = due.map(|due| due.max(self.next));
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        }
    }

    async fn batch(&mut self) {
        self.next = Instant::now() + INTERVAL;
        let Some(Batch { n, on, off }) = self.present.take(Instant::now()) else { return };
        let delta = Delta { gateway: self.gateway.clone(), epoch: self.epoch, n, on, off };
        metrics::counter!("gateway_presence_batches_total").increment(1);
        if let Err(error) = self.bus.publish(&delta).await {
            tracing::debug!(error = format!("{error:#}"), "a batch of presence is lost; its number shows it");
        }
    }

    async fn alive(&self) {
        let (n, users) = self.present.published();
        let is_connected = self.bus.is_connected();
        if !is_connected {
            self.present.forget(Instant::now());
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats, and these stay small")]
        {
            metrics::gauge!("gateway_present_users").set(users as f64);
            metrics::gauge!("gateway_presence_waiting").set(self.present.waiting() as f64);
        }
        if !is_connected {
            return; // It would be published too late.
        }
        let alive = Alive { gateway: self.gateway.clone(), epoch: self.epoch, n, users };
        if let Err(error) = self.bus.publish(&alive).await {
            tracing::debug!(error = format!("{error:#}"), "a sign of life is lost; the next one follows");
        }
    }

    async fn answer(&self, request: &Message) {
        let (Some(reply), Ok(Snapshot { after })) =
            (request.reply.clone(), serde_json::from_slice(&request.payload))
        else {
            return tracing::debug!("an invalid request for a snapshot");
        };
        metrics::counter!("gateway_presence_snapshots_total").increment(1);
        let page = serde_json::to_vec(&self.present.page(self.epoch, after));
        let Ok(page) = page.inspect_err(|error| tracing::error!(%error, "encode a snapshot")) else { return };
        if let Err(error) = self.bus.client().publish(reply, page.into()).await {
            tracing::debug!(%error, "answer a request for a snapshot");
        }
    }
}
