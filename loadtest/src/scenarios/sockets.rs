//! Sockets that only are there, and sockets that come.

use super::{Length, at_most, measured_run, per, rate, rooms::OPENING};
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

/// Handshakes that may be under way at once before the rest is given up.
const UNDER_WAY: usize = 5_000;
/// How long those under way may take at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long sockets are left alone before it is looked what they cost.
const SETTLE: Duration = Duration::from_secs(2);
/// Sockets that come and go first, so that what the first one costs is not counted as any one's.
const FIRST: usize = 200;

/// Sockets on which nothing happens.
#[derive(Debug, Clone, Args)]
pub struct Idle {
    /// How many sockets
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_most(15_000))]
    sockets: usize,
    /// How many of them are on the same conversation
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most(10_000))]
    per_conversation: usize,
    /// Seconds that are measured; pings come every 25 s
    #[arg(long, value_name = "N", default_value_t = 50.0)]
    seconds: f64,
}

/// Sockets that come at a rate.
#[derive(Debug, Clone, Args)]
pub struct Handshake {
    /// Sockets per second; all stay open, 15,000 at most
    #[arg(long, value_name = "N", default_value_t = 1000.0, value_parser = rate)]
    rate: f64,
    /// How many of them are on the same conversation
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_most(10_000))]
    per_conversation: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Idle {
    pub(super) fn hurry(&mut self) {
        self.sockets = self.sockets.div_ceil(10);
        self.seconds = 1.0;
    }

    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let seconds = Duration::from_secs_f64(self.seconds.clamp(0.1, 3600.0));
        let settle = SETTLE.min(seconds);
        meter.say("makes conversations");
        let first = Places::make(target, FIRST.min(self.sockets), self.per_conversation).await?;
        let places = Places::make(target, self.sockets, self.per_conversation).await?;
        meter.say("opens and closes the first sockets");
        first.visit(target).await?;
        tokio::time::sleep(settle).await;
        meter.say(&format!("opens {} sockets", self.sockets));
        let window = meter.begin();
        places.open(target, meter).await?;
        tokio::time::sleep(settle).await;
        let opened = meter.end(window);
        let window = meter.begin();
        tokio::time::sleep(seconds).await;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.seconds);
        run.load = format!("{} sockets, {} on each conversation", self.sockets, self.per_conversation);
        run.delivered = opened.delivered;
        let sockets = self.sockets as f64;
        // Where clients connect is what holds sockets; a peer has one process for everything but its servers.
        let front = target.front();
        let memory = |name: &str| {
            let usage = opened.usage.iter().find(|usage| usage.name == name);
            usage.map_or(0.0, |usage| (usage.memory_after as f64 - usage.memory_before as f64) / 1024.0)
        };
        run.figures = vec![
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
        ensure!(sockets <= 15_000.0, "{sockets} sockets would be open at the end, which is too many");
        meter.say("makes conversations");
        let places = Places::make(target, sockets.ceil() as usize, self.per_conversation).await?;
        let arrivals = Arrivals::new(target, meter, places);
        meter.say("warms up");
        arrivals.go(self.rate, self.length.warm_up()).await?;
        let window = meter.begin();
        arrivals.go(self.rate, self.length.measured()).await?;
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

/// Sockets on conversations, each to be opened.
pub struct Places(Vec<(Channel, i64)>);

impl Places {
    /// Makes conversations for so many sockets, so many in each, of users who have one socket unless a conversation has
    /// more than people.
    ///
    /// # Errors
    /// When the system doesn't.
    pub async fn make(target: &Target, sockets: usize, each: usize) -> anyhow::Result<Self> {
        let people = each.clamp(2, contract::limits::PARTICIPANTS_MAX);
        let conversations = world::conversations(target, sockets.div_ceil(each), people).await?;
        let of = |conversation: world::Conversation| {
            let users = conversation.users;
            (0..each).map(move |place| (Channel::Chat(conversation.id), users[place % users.len()]))
        };
        Ok(Self(conversations.into_iter().flat_map(of).take(sockets).collect()))
    }

    /// Opens them all, a few at a time, and closes them again.
    ///
    /// # Errors
    /// When one is refused.
    async fn visit(&self, target: &Target) -> anyhow::Result<()> {
        let visits = stream::iter(self.0.iter().enumerate()).map(async |(number, (channel, user))| {
            let client = target.open(*channel, *user, number).await.context("open a socket")?;
            client.sender().close();
            client.idle().await;
            anyhow::Ok(())
        });
        visits.buffer_unordered(OPENING).try_collect().await
    }

    /// Opens them all, a few at a time; they stay open.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn open(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<()> {
        let opening = stream::iter(self.0.iter().enumerate())
            .map(async |(number, (channel, user))| {
                let due = meter.now();
                let client = target.open(*channel, *user, number).await.context("open a socket")?;
                meter.count_delivered();
                meter.took(due);
                anyhow::Ok(client)
            })
            .buffer_unordered(OPENING);
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

/// Sockets that come at a rate, and stay.
pub struct Arrivals {
    target: Target,
    meter: Rc<Meter>,
    places: Places,
    next: Cell<usize>,
    under_way: Cell<usize>,
}

impl Arrivals {
    /// Those of these places.
    pub fn new(target: &Target, meter: &Rc<Meter>, places: Places) -> Rc<Self> {
        let (target, meter) = (target.clone(), meter.clone());
        Rc::new(Self { target, meter, places, next: Cell::new(0), under_way: Cell::new(0) })
    }

    /// Opens sockets for this long, each when it is due, then waits for those under way.
    ///
    /// # Errors
    /// When those under way come to no end.
    pub async fn go(self: &Rc<Self>, rate: f64, length: Duration) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            let number = self.next.get();
            if self.under_way.get() >= UNDER_WAY || number >= self.places.0.len() {
                self.meter.errors.set(self.meter.errors.get() + 1);
                continue;
            }
            self.next.set(number + 1);
            self.under_way.set(self.under_way.get() + 1);
            self.meter.count_sent();
            tokio::task::spawn_local(self.clone().arrive(number, self.meter.nanos(due)));
        }
        let last = Instant::now();
        while self.under_way.get() > 0 {
            ensure!(last.elapsed() < PATIENCE, "{} handshakes have no end", self.under_way.get());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn arrive(self: Rc<Self>, number: usize, due: u64) {
        let (channel, user) = self.places.0[number];
        let opened = self.target.open(channel, user, number).await;
        self.under_way.set(self.under_way.get() - 1);
        match opened {
            Ok(client) => {
                self.meter.count_delivered();
                self.meter.took(due);
                client.idle().await;
                self.meter.closed.set(self.meter.closed.get() + 1);
            }
            Err(_) => self.meter.errors.set(self.meter.errors.get() + 1),
        }
    }
}
