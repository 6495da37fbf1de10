//! Events of a backend, each for one user, who receives it on a socket.

use super::{
    common::{Length, at_most, measured_run, per, rate},
    rooms::{CONCURRENT_OPENS, Pace},
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

/// Time without any delivery after which the missing events count as lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Events of a backend.
#[derive(Debug, Clone, Args)]
pub struct Notify {
    /// Number of users, each with one socket
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_most(10_000))]
    users: usize,
    /// Events per second; by default as fast as JetStream accepts them
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Maximum number of events without an ack
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_most(10_000))]
    in_flight: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Notify {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        meter.show(&format!("opening {} sockets", self.users));
        let inboxes = Inboxes::open(target, meter, self.users, self.in_flight).await?;
        let pace = self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, burst: false });
        meter.show("warming up");
        inboxes.run(pace, self.length.warm_up()).await?;
        let (window, began) = (meter.begin(), Instant::now());
        inboxes.run(pace, self.length.measured()).await?;
        let took = began.elapsed().as_secs_f64();
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        let rate = self.rate.map_or("as fast as possible".to_owned(), |rate| format!("{rate} events/s"));
        run.load = format!("{} users, {rate}", self.users);
        run.verdict = inboxes.verdict();
        run.figures = vec![
            Figure::rate("events per second", measured.delivered as f64 / took, "/s"),
            Figure::cost("CPU per event", per(run.cpu(None), measured.sent as f64), "us"),
        ];
        Ok(run)
    }
}

/// A backend, and the users that it notifies.
struct Inboxes {
    meter: Rc<Meter>,
    jetstream: jetstream::Context,
    first_user: i64,
    users: Vec<Rc<User>>,
    next: Cell<usize>,
    in_flight: Arc<Semaphore>,
    failed: Rc<Cell<u64>>,
}

struct User {
    sent: Cell<u64>,
    judge: RefCell<Judge>,
    inbox: RefCell<Judge>,
}

impl Inboxes {
    /// Opens the users' sockets. At most `in_flight` events are published and not yet acknowledged.
    ///
    /// # Errors
    /// If one is refused, or there is no NATS.
    pub async fn open(
        target: &Target,
        meter: &Rc<Meter>,
        count: usize,
        in_flight: usize,
    ) -> anyhow::Result<Self> {
        let nats = target.nats.as_ref().context("publishing events needs NATS")?;
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
                let (receiver, meter) = (user.clone(), meter.clone());
                tokio::task::spawn_local(async move {
                    client
                        .receive(|frame| {
                            receiver.on_frame(frame, &meter);
                            ControlFlow::Continue(())
                        })
                        .await;
                    meter.closed.set(meter.closed.get() + 1);
                });
                anyhow::Ok(user)
            })
            .buffered(CONCURRENT_OPENS)
            .try_collect()
            .await?;
        Ok(Self {
            meter: meter.clone(),
            jetstream,
            first_user,
            users,
            next: Cell::new(0),
            in_flight: Arc::new(Semaphore::new(in_flight)),
            failed: Rc::default(),
        })
    }

    /// Publishes for this time, and then waits until all events have arrived or no more arrive.
    ///
    /// # Errors
    /// If JetStream refuses an event.
    pub async fn run(&self, pace: Pace, length: Duration) -> anyhow::Result<()> {
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
        self.wait_delivered().await;
        ensure!(self.failed.get() == 0, "JetStream refused {} events", self.failed.get());
        Ok(())
    }

    async fn publish(&self, due: u64) -> anyhow::Result<()> {
        let index = self.next.get() % self.users.len();
        self.next.set(self.next.get() + 1);
        let user = &self.users[index];
        let stamp = Stamp { sender: 0, number: user.sent.get(), due };
        user.sent.set(stamp.number + 1);
        let user_id = self.first_user + i64::try_from(index)?;
        let event = json!({
            "event_id": format!("{user_id}-{}", stamp.number),
            "user_id": user_id,
            "data": {"payment_id": 789, "stamp": stamp.text(0)},
        });
        let permit = self.in_flight.clone().acquire_owned().await?;
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

    async fn wait_delivered(&self) {
        let (mut seen, mut at) = (self.meter.delivered.get(), Instant::now());
        while self.meter.delivered.get() < self.meter.sent.get() && at.elapsed() < DELIVERY_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if seen != self.meter.delivered.get() {
                (seen, at) = (self.meter.delivered.get(), Instant::now());
            }
        }
    }

    /// Errors in the received events. Each inbox numbers its events.
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
    fn on_frame(&self, frame: &[u8], meter: &Meter) {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else { return };
        let Some(stamp) = frame.data.and_then(|data| data.stamp).and_then(Stamp::of) else { return };
        if self.judge.borrow_mut().receive(stamp.number) {
            meter.count_delivered();
            meter.record_latency(stamp.due);
        }
        if let Some(seq) = frame.seq {
            self.inbox.borrow_mut().receive(seq);
        }
    }
}
