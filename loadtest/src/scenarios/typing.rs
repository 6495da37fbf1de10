//! Pairs of which one types and the other sees it.

use super::{Length, at_most, measured_run, per, rate, rooms::OPENING};
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

/// How long what was typed may take to be seen.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pairs of which one types.
#[derive(Debug, Clone, Args)]
pub struct Typing {
    /// How many pairs
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_most(5_000))]
    pairs: usize,
    /// Beginnings and ends per second over all
    #[arg(long, value_name = "N", default_value_t = 2000.0, value_parser = rate)]
    rate: f64,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Typing {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        meter.say(&format!("opens {} sockets", 2 * self.pairs));
        let pairs = Pairs::open(target, meter, self.pairs).await?;
        meter.say("warms up");
        pairs.go(self.rate, self.length.warm_up()).await;
        let window = meter.begin();
        pairs.go(self.rate, self.length.measured()).await;
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

/// Everyone.
struct Pairs {
    meter: Rc<Meter>,
    pairs: Vec<Rc<Pair>>,
    next: Cell<usize>,
}

struct Pair {
    types: Cell<bool>,
    sender: Sender,
    /// What the other has not seen yet, and when it was due.
    unseen: RefCell<VecDeque<(bool, u64)>>,
    verdict: Cell<Verdict>,
}

impl Pairs {
    /// Lets them all in.
    ///
    /// # Errors
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
                    types: Cell::new(false),
                    sender: typist.sender(),
                    unseen: RefCell::default(),
                    verdict: Cell::default(),
                });
                tokio::task::spawn_local(count_close(meter.clone(), async move {
                    typist.idle().await;
                }));
                let (seeing, sees) = (pair.clone(), meter.clone());
                let watching = async move {
                    watcher
                        .hear(|frame| {
                            seeing.seen(frame, &sees);
                            ControlFlow::Continue(())
                        })
                        .await;
                };
                tokio::task::spawn_local(count_close(meter.clone(), watching));
                anyhow::Ok(pair)
            })
            .buffered(OPENING)
            .try_collect()
            .await?;
        Ok(Self { meter: meter.clone(), pairs, next: Cell::new(0) })
    }

    /// Types for this long: someone begins or ends each time that it is due.
    pub async fn go(&self, rate: f64, length: Duration) {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            let pair = &self.pairs[self.next.get() % self.pairs.len()];
            self.next.set(self.next.get() + 1);
            pair.types.set(!pair.types.get());
            pair.unseen.borrow_mut().push_back((pair.types.get(), self.meter.nanos(due)));
            pair.sender.typing(pair.types.get());
            self.meter.count_sent();
        }
        let last = Instant::now();
        while last.elapsed() < PATIENCE && self.pairs.iter().any(|pair| !pair.unseen.borrow().is_empty()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What was never seen, or seen again.
    pub fn verdict(&self) -> Verdict {
        let mut all = Verdict::default();
        for pair in &self.pairs {
            all += pair.verdict.get();
            all.lost += u64::try_from(pair.unseen.borrow().len()).unwrap_or(u64::MAX);
        }
        all
    }
}

impl Pair {
    fn seen(&self, frame: &[u8], meter: &Meter) {
        let Ok(Frame { kind: "typing", is_typing: Some(types), .. }) = serde_json::from_slice(frame) else {
            return;
        };
        let mut unseen = self.unseen.borrow_mut();
        let mut verdict = self.verdict.get();
        // One begins and ends in turn, so what is seen out of turn follows what was lost.
        while let Some((typed, due)) = unseen.pop_front() {
            if typed == types {
                meter.count_delivered();
                meter.took(due);
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
