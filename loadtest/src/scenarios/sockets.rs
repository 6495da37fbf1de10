//! Idle sockets, and new sockets.

use super::{
    common::{Length, at_most, measured_run, per, rate, up_to},
    rooms::CONCURRENT_OPENS,
};
use crate::{
    meter::Meter,
    pace::Schedule,
    run::{Figure, Run},
    target::{Channel, Target},
    world,
};
use anyhow::{Context, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

/// Maximum number of concurrent handshakes. Further ones count as errors.
const MAX_IN_FLIGHT: usize = 5_000;
/// Timeout of the last handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between opening the sockets and measuring them.
const SETTLE: Duration = Duration::from_secs(2);
/// Number of sockets that are opened and closed first, so that one-time costs are not measured.
const WARM_UP_SOCKETS: usize = 200;

/// Idle sockets.
#[derive(Debug, Clone, Args)]
pub struct Idle {
    /// Number of sockets; 0 measures the system itself
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = up_to(15_000))]
    sockets: usize,
    /// Number of sockets of the same conversation
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most(10_000))]
    per_conversation: usize,
    /// Duration of the measurement in seconds; pings are sent every 25 s
    #[arg(long, value_name = "N", default_value_t = 50.0)]
    seconds: f64,
}

/// New sockets at a fixed rate.
#[derive(Debug, Clone, Args)]
pub struct Handshake {
    /// Sockets per second; all stay open, at most 15,000
    #[arg(long, value_name = "N", default_value_t = 1000.0, value_parser = rate)]
    rate: f64,
    /// Number of sockets of the same conversation
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_most(10_000))]
    per_conversation: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Idle {
    pub(super) fn shorten(&mut self) {
        self.sockets = self.sockets.div_ceil(10);
        self.seconds = 1.0;
    }

    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let seconds = Duration::from_secs_f64(self.seconds.clamp(0.1, 3600.0));
        let settle = SETTLE.min(seconds);
        meter.show("creating conversations");
        let first =
            Subscriptions::create(target, WARM_UP_SOCKETS.min(self.sockets), self.per_conversation).await?;
        let subscriptions = Subscriptions::create(target, self.sockets, self.per_conversation).await?;
        meter.show("opening and closing the first sockets");
        first.open_and_close(target).await?;
        tokio::time::sleep(settle).await;
        meter.show(&format!("opening {} sockets", self.sockets));
        let window = meter.begin();
        subscriptions.open(target, meter).await?;
        tokio::time::sleep(settle).await;
        let opened = meter.end(window);
        let window = meter.begin();
        tokio::time::sleep(seconds).await;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.seconds);
        run.load = format!("{} sockets, {} on each conversation", self.sockets, self.per_conversation);
        run.delivered = opened.delivered;
        let sockets = self.sockets.max(1) as f64;
        // The front process holds the sockets. A peer has one process for everything except its servers.
        let front = target.front();
        let memory = |name: &str| {
            let usage = opened.usage.iter().find(|usage| usage.name == name);
            usage.map_or(0.0, |usage| (usage.memory_after as f64 - usage.memory_before as f64) / 1024.0)
        };
        run.figures = vec![
            Figure::cost("CPU per second, all processes", run.cpu(None) * 1e3 / self.seconds, "ms"),
            Figure::cost("memory per socket", memory(front) / sockets, "KiB"),
            Figure::cost(
                "CPU per socket and second",
                per(run.cpu(Some(front)), sockets * self.seconds),
                "us",
            ),
            Figure::cost(
                "CPU per socket and second, all processes",
                per(run.cpu(None), sockets * self.seconds),
                "us",
            ),
        ];
        Ok(run)
    }
}

impl Handshake {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let seconds = self.length.warm_up().as_secs_f64() + self.length.measured().as_secs_f64();
        let sockets = self.rate * seconds;
        ensure!(sockets <= 15_000.0, "{sockets} sockets would be open at the end; the limit is 15000");
        meter.show("creating conversations");
        let subscriptions =
            Subscriptions::create(target, sockets.ceil() as usize, self.per_conversation).await?;
        let load = HandshakeLoad::new(target, meter, subscriptions);
        meter.show("warming up");
        load.run(self.rate, self.length.warm_up()).await?;
        let window = meter.begin();
        load.run(self.rate, self.length.measured()).await?;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        run.load = format!("{} handshakes/s, {} on each conversation", self.rate, self.per_conversation);
        let opened = measured.delivered as f64;
        run.figures = vec![
            Figure::rate("handshakes per second", opened / self.length.measured().as_secs_f64(), "/s"),
            Figure::cost("CPU per handshake", per(run.cpu(None), opened), "us"),
        ];
        Ok(run)
    }
}

/// Sockets to open: the channel and user of each.
pub struct Subscriptions(Vec<(Channel, i64)>);

impl Subscriptions {
    /// Creates conversations for so many sockets, `each` per conversation. A user has one socket, unless a conversation
    /// has more sockets than users.
    ///
    /// # Errors
    /// If the system fails.
    pub async fn create(target: &Target, sockets: usize, each: usize) -> anyhow::Result<Self> {
        let people = each.clamp(2, contract::limits::PARTICIPANTS_MAX);
        let conversations = world::conversations(target, sockets.div_ceil(each), people).await?;
        let of = |conversation: world::Conversation| {
            let users = conversation.users;
            (0..each).map(move |index| (Channel::Chat(conversation.id), users[index % users.len()]))
        };
        Ok(Self(conversations.into_iter().flat_map(of).take(sockets).collect()))
    }

    /// Opens all sockets, a few at a time, and closes them again.
    ///
    /// # Errors
    /// If one is refused.
    async fn open_and_close(&self, target: &Target) -> anyhow::Result<()> {
        let sockets = stream::iter(self.0.iter().enumerate()).map(async |(number, (channel, user))| {
            let client = target.open(*channel, *user, number).await.context("open a socket")?;
            client.sender().close();
            client.idle().await;
            anyhow::Ok(())
        });
        sockets.buffer_unordered(CONCURRENT_OPENS).try_collect().await
    }

    /// Opens all sockets, a few at a time, and keeps them open.
    ///
    /// # Errors
    /// If one is refused.
    pub async fn open(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<()> {
        let opening = stream::iter(self.0.iter().enumerate())
            .map(async |(number, (channel, user))| {
                let due = meter.now();
                let client = target.open(*channel, *user, number).await.context("open a socket")?;
                meter.count_delivered();
                meter.record_latency(due);
                anyhow::Ok(client)
            })
            .buffer_unordered(CONCURRENT_OPENS);
        opening
            .try_for_each(async |client| {
                let meter = meter.clone();
                tokio::task::spawn_local(async move {
                    client.idle().await;
                    meter.closed.set(meter.closed.get() + 1);
                });
                Ok(())
            })
            .await
    }
}

/// Opens sockets at a fixed rate, and keeps them open.
pub struct HandshakeLoad {
    target: Target,
    meter: Rc<Meter>,
    subscriptions: Subscriptions,
    next: Cell<usize>,
    in_flight: Cell<usize>,
}

impl HandshakeLoad {
    /// Creates the load from these subscriptions.
    pub fn new(target: &Target, meter: &Rc<Meter>, subscriptions: Subscriptions) -> Rc<Self> {
        let (target, meter) = (target.clone(), meter.clone());
        Rc::new(Self { target, meter, subscriptions, next: Cell::new(0), in_flight: Cell::new(0) })
    }

    /// Opens sockets for this time, each when it is due, and waits for the last handshakes.
    ///
    /// # Errors
    /// If the last handshakes don't end.
    pub async fn run(self: &Rc<Self>, rate: f64, length: Duration) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            let number = self.next.get();
            if self.in_flight.get() >= MAX_IN_FLIGHT || number >= self.subscriptions.0.len() {
                self.meter.errors.set(self.meter.errors.get() + 1);
                continue;
            }
            self.next.set(number + 1);
            self.in_flight.set(self.in_flight.get() + 1);
            self.meter.count_sent();
            tokio::task::spawn_local(self.clone().open(number, self.meter.nanos(due)));
        }
        let last = Instant::now();
        while self.in_flight.get() > 0 {
            ensure!(last.elapsed() < HANDSHAKE_TIMEOUT, "{} handshakes did not end", self.in_flight.get());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn open(self: Rc<Self>, number: usize, due: u64) {
        let (channel, user) = self.subscriptions.0[number];
        let opened = self.target.open(channel, user, number).await;
        self.in_flight.set(self.in_flight.get() - 1);
        match opened {
            Ok(client) => {
                self.meter.count_delivered();
                self.meter.record_latency(due);
                client.idle().await;
                self.meter.closed.set(self.meter.closed.get() + 1);
            }
            Err(_) => self.meter.errors.set(self.meter.errors.get() + 1),
        }
    }
}
