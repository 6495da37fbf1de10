//! Pairs of users, of whom one types and the other receives the events.

use super::{
    common::{Length, at_most, measured_run, per, rate},
    rooms::CONCURRENT_OPENS,
};
use crate::{
    judge::Verdict,
    meter::Meter,
    pace::Schedule,
    run::{Figure, Run},
    target::{Channel, Frame, Sender, Target},
    world,
};
use anyhow::Context;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::ControlFlow,
    rc::Rc,
    time::{Duration, Instant},
};

/// Maximum time until a typing event is received.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Pairs of users, of whom one types.
#[derive(Debug, Clone, Args)]
pub struct Typing {
    /// Number of pairs
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_most(5_000))]
    pairs: usize,
    /// Total number of starts and stops per second
    #[arg(long, value_name = "N", default_value_t = 2000.0, value_parser = rate)]
    rate: f64,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Typing {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        meter.show(&format!("opening {} sockets", 2 * self.pairs));
        let pairs = Pairs::open(target, meter, self.pairs).await?;
        meter.show("warming up");
        pairs.run(self.rate, self.length.warm_up()).await;
        let window = meter.begin();
        pairs.run(self.rate, self.length.measured()).await;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        run.load = format!("{} pairs, {} events/s", self.pairs, self.rate);
        run.verdict = pairs.verdict();
        run.figures = vec![
            Figure::rate(
                "events per second",
                measured.delivered as f64 / self.length.measured().as_secs_f64(),
                "/s",
            ),
            Figure::cost("CPU per event", per(run.cpu(None), measured.sent as f64), "us"),
        ];
        Ok(run)
    }
}

/// All pairs.
struct Pairs {
    meter: Rc<Meter>,
    pairs: Vec<Rc<Pair>>,
    next: Cell<usize>,
}

struct Pair {
    is_typing: Cell<bool>,
    sender: Sender,
    /// Events that the other user has not received yet, and when they were due.
    pending: RefCell<VecDeque<(bool, u64)>>,
    verdict: Cell<Verdict>,
}

impl Pairs {
    /// Opens all sockets.
    ///
    /// If one of them is refused.
    /// When one is refused.
    pub async fn open(target: &Target, meter: &Rc<Meter>, count: usize) -> anyhow::Result<Self> {
        let conversations = world::conversations(target, count, 2).await?;
        let pairs = stream::iter(conversations.iter().enumerate())
            .map(async |(number, conversation)| {
                let channel = Channel::Typing(conversation.id);
                let open = async |user| target.open(channel, user, number).await.context("open a socket");
                let mut watcher = open(conversation.users[1]).await?;
                let typist = open(conversation.users[0]).await?;
                let pair = Rc::new(Pair {
                    is_typing: Cell::new(false),
                    sender: typist.sender(),
                    pending: RefCell::default(),
                    verdict: Cell::default(),
                });
                tokio::task::spawn_local(count_close(meter.clone(), async move {
                    typist.idle().await;
                }));
                let (watched, counts) = (pair.clone(), meter.clone());
                let receiving = async move {
                    watcher
                        .receive(|frame| {
                            watched.on_frame(frame, &counts);
                            ControlFlow::Continue(())
                        })
                        .await;
                };
                tokio::task::spawn_local(count_close(meter.clone(), receiving));
                anyhow::Ok(pair)
            })
            .buffered(CONCURRENT_OPENS)
            .try_collect()
            .await?;
        Ok(Self { meter: meter.clone(), pairs, next: Cell::new(0) })
    }

    /// Types for this time: a user starts or stops typing whenever an event is due.
    pub async fn run(&self, rate: f64, length: Duration) {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            let pair = &self.pairs[self.next.get() % self.pairs.len()];
            self.next.set(self.next.get() + 1);
            pair.is_typing.set(!pair.is_typing.get());
            pair.pending.borrow_mut().push_back((pair.is_typing.get(), self.meter.nanos(due)));
            pair.sender.typing(pair.is_typing.get());
            self.meter.count_sent();
        }
        let last = Instant::now();
        while last.elapsed() < DELIVERY_TIMEOUT
            && self.pairs.iter().any(|pair| !pair.pending.borrow().is_empty())
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lost and repeated events.
    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        for pair in &self.pairs {
            all += pair.verdict.get();
            all.lost += u64::try_from(pair.pending.borrow().len()).unwrap_or(u64::MAX);
        }
        all
    }
}

impl Pair {
    fn on_frame(&self, frame: &[u8], meter: &Meter) {
        let Ok(Frame { kind: "typing", is_typing: Some(types), .. }) = serde_json::from_slice(frame) else {
            return;
        };
        let mut pending = self.pending.borrow_mut();
        let mut verdict = self.verdict.get();
        // Starts and stops alternate, so an unexpected one means that the events before it were lost.
        while let Some((sent, due)) = pending.pop_front() {
            if sent == types {
                meter.count_delivered();
                meter.record_latency(due);
                self.verdict.set(verdict);
                return;
            }
            verdict.lost += 1;
        }
        verdict.repeated += 1;
        self.verdict.set(verdict);
    }
}

async fn count_close(meter: Rc<Meter>, socket: impl Future<Output = ()>) {
    socket.await;
    meter.closed.set(meter.closed.get() + 1);
}
