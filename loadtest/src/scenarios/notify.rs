//! Events of a backend, each for one user, who sees it on a socket.

use super::{
    Length, at_most, measured_run, per, rate,
    rooms::{OPENING, Pace},
};
use crate::{
    judge::{Judge, Verdict},
    meter::Meter,
    pace::Schedule,
    run::{Figure, Run},
    target::{Channel, Frame, Stamp, Target},
    world,
};
use anyhow::{Context, ensure};
use async_nats::jetstream;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// After this long without anything new, what has not come does not come.
const SILENCE: Duration = Duration::from_secs(20);

/// Events of a backend.
#[derive(Debug, Clone, Args)]
pub struct Notify {
    /// How many users there are, each with a socket
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_most(10_000))]
    users: usize,
    /// Events per second; without, as fast as JetStream takes them
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Events that are sent and not yet acknowledged, at most
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_most(10_000))]
    in_flight: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Notify {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        meter.say(&format!("opens {} sockets", self.users));
        let inboxes = Inboxes::open(target, meter, self.users, self.in_flight).await?;
        let pace = self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, burst: false });
        meter.say("warms up");
        inboxes.go(pace, self.length.warm_up()).await?;
        let (window, began) = (meter.begin(), Instant::now());
        inboxes.go(pace, self.length.measured()).await?;
        let took = began.elapsed().as_secs_f64();
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        let rate =
            self.rate.map_or("as fast as they are taken".to_owned(), |rate| format!("{rate} events/s"));
        run.load = format!("{} users, {rate}", self.users);
        run.verdict = inboxes.verdict();
        run.figures = vec![
            Figure::rate("events per second", measured.delivered as f64 / took, "/s"),
            Figure::cost("CPU per event", per(run.cpu(None), measured.sent as f64), "us"),
        ];
        Ok(run)
    }
}

/// A backend, and the users whom it tells.
struct Inboxes {
    meter: Rc<Meter>,
    jetstream: jetstream::Context,
    first_user: i64,
    users: Vec<Rc<User>>,
    next: Cell<usize>,
    under_way: Arc<Semaphore>,
    failed: Rc<Cell<u64>>,
}

struct User {
    sent: Cell<u64>,
    judge: RefCell<Judge>,
    inbox: RefCell<Judge>,
}

impl Inboxes {
    /// Lets the users in. At most `under_way` events are sent and not yet acknowledged.
    ///
    /// # Errors
    /// When one is refused, or there is no NATS.
    pub async fn open(
        target: &Target,
        meter: &Rc<Meter>,
        count: usize,
        under_way: usize,
    ) -> anyhow::Result<Self> {
        let nats = target.nats.as_ref().context("events are published over NATS")?;
        let jetstream = jetstream::new(async_nats::connect(nats).await.context("connect to NATS")?);
        let first_user = world::new_users();
        let users = stream::iter((first_user..).take(count).enumerate())
            .map(async |(number, user)| {
                let mut client =
                    target.open(Channel::Notifications, user, number).await.context("open a socket")?;
                let user = Rc::new(User {
                    sent: Cell::new(0),
                    judge: RefCell::default(),
                    inbox: RefCell::new(Judge::from(1)),
                });
                let (hearing, meter) = (user.clone(), meter.clone());
                tokio::task::spawn_local(async move {
                    client
                        .hear(|frame| {
                            hearing.heard(frame, &meter);
                            ControlFlow::Continue(())
                        })
                        .await;
                    meter.closed.set(meter.closed.get() + 1);
                });
                anyhow::Ok(user)
            })
            .buffered(OPENING)
            .try_collect()
            .await?;
        Ok(Self {
            meter: meter.clone(),
            jetstream,
            first_user,
            users,
            next: Cell::new(0),
            under_way: Arc::new(Semaphore::new(under_way)),
            failed: Rc::default(),
        })
    }

    /// Publishes for this long, and waits until all is seen, or nothing more is.
    ///
    /// # Errors
    /// When JetStream refuses.
    pub async fn go(&self, pace: Pace, length: Duration) -> anyhow::Result<()> {
        match pace {
            Pace::Open { rate, .. } => {
                let mut schedule = Schedule::new(rate, length);
                while let Some(due) = schedule.next().await {
                    self.publish(self.meter.nanos(due)).await?;
                }
            }
            Pace::Closed => {
                let end = Instant::now() + length;
                while Instant::now() < end {
                    self.publish(self.meter.now()).await?;
                }
            }
        }
        self.arrived().await;
        ensure!(self.failed.get() == 0, "JetStream refused {} events", self.failed.get());
        Ok(())
    }

    async fn publish(&self, due: u64) -> anyhow::Result<()> {
        let place = self.next.get() % self.users.len();
        self.next.set(self.next.get() + 1);
        let user = &self.users[place];
        let stamp = Stamp { sender: 0, number: user.sent.get(), due };
        user.sent.set(stamp.number + 1);
        let user_id = self.first_user + i64::try_from(place)?;
        let event = json!({
            "event_id": format!("{user_id}-{}", stamp.number),
            "user_id": user_id,
            "data": {"payment_id": 789, "stamp": stamp.text(0)},
        });
        let permit = self.under_way.clone().acquire_owned().await?;
        let sent = self.jetstream.publish("events.payment_completed", event.to_string().into()).await?;
        self.meter.count_sent();
        let failed = self.failed.clone();
        tokio::task::spawn_local(async move {
            if sent.await.is_err() {
                failed.set(failed.get() + 1);
            }
            drop(permit);
        });
        Ok(())
    }

    async fn arrived(&self) {
        let (mut seen, mut at) = (self.meter.delivered.get(), Instant::now());
        while self.meter.delivered.get() < self.meter.sent.get() && at.elapsed() < SILENCE {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if seen != self.meter.delivered.get() {
                (seen, at) = (self.meter.delivered.get(), Instant::now());
            }
        }
    }

    /// What was wrong with what the users saw. Their inboxes number what comes.
    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        for user in &self.users {
            let verdict = user.judge.borrow().verdict(user.sent.get());
            let inbox = user.inbox.borrow().verdict(0);
            all += Verdict { out_of_order: inbox.out_of_order, ..verdict };
        }
        all
    }
}

impl User {
    fn heard(&self, frame: &[u8], meter: &Meter) {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else { return };
        let Some(stamp) = frame.data.and_then(|data| data.stamp).and_then(Stamp::of) else { return };
        if self.judge.borrow_mut().hear(stamp.number) {
            meter.count_delivered();
            meter.took(stamp.due);
        }
        if let Some(seq) = frame.seq {
            self.inbox.borrow_mut().hear(seq);
        }
    }
}
