//! Clients that come back to a long conversation, and are sent what they missed.

use super::{Length, measured_run, per, rate};
use crate::{
    judge::{Judge, Verdict},
    meter::Meter,
    pace::Schedule,
    run::{Figure, Run},
    seed,
    target::{Channel, Frame, Target},
};
use anyhow::{Context, ensure};
use clap::Args;
use sqlx::{Connection, PgConnection};
use std::{
    cell::Cell,
    ops::ControlFlow,
    rc::Rc,
    time::{Duration, Instant},
};

/// Resumes that may be under way at once before the rest is given up.
const UNDER_WAY: usize = 5_000;
/// How long a client waits for what it missed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients that come back.
#[derive(Debug, Clone, Args)]
pub struct Resume {
    /// Messages that the conversation has
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..=100_000_000))]
    stored: u64,
    /// How many of the last ones each client has missed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    missed: u64,
    /// Clients per second
    #[arg(long, value_name = "N", default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Resume {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let returns = Returns::make(target, meter, self.stored, self.missed).await?;
        meter.say("warms up");
        returns.go(self.rate, self.length.warm_up()).await?;
        let window = meter.begin();
        returns.go(self.rate, self.length.measured()).await?;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        run.load =
            format!("{} resumes/s after the last {} of {} messages", self.rate, returns.missed, self.stored);
        run.verdict = returns.verdict();
        let resumed = measured.delivered as f64;
        run.figures = vec![
            Figure::rate("resumes per second", resumed / self.length.measured().as_secs_f64(), "/s"),
            Figure::cost("CPU per resume", per(run.cpu(None), resumed), "us"),
        ];
        Ok(run)
    }
}

/// A conversation that clients come back to.
struct Returns {
    target: Target,
    meter: Rc<Meter>,
    conversation: seed::Seeded,
    missed: u64,
    number: Cell<usize>,
    under_way: Cell<usize>,
    verdict: Cell<Verdict>,
}

impl Returns {
    /// A conversation with so many messages in it, of which each client that comes back has missed the last few.
    ///
    /// # Errors
    /// When it can't be stored.
    pub async fn make(
        target: &Target,
        meter: &Rc<Meter>,
        stored: u64,
        missed: u64,
    ) -> anyhow::Result<Rc<Self>> {
        let database = target.database.as_ref().context("messages are stored in Postgres")?;
        let mut connection = PgConnection::connect(database).await.context("connect to Postgres")?;
        let shape = seed::Shape { conversations: 1, people: 100, messages: stored };
        let conversation = seed::fill(&mut connection, shape, |done| {
            meter.say(&format!("stores {stored} messages, {done} so far"));
        })
        .await?;
        connection.close().await?;
        Ok(Rc::new(Self {
            target: target.clone(),
            meter: meter.clone(),
            conversation,
            missed: missed.min(stored - 1),
            number: Cell::new(0),
            under_way: Cell::new(0),
            verdict: Cell::default(),
        }))
    }

    /// Lets clients come back for this long, each when it is due.
    ///
    /// # Errors
    /// When they come to no end.
    pub async fn go(self: &Rc<Self>, rate: f64, length: Duration) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            if self.under_way.get() >= UNDER_WAY {
                self.meter.errors.set(self.meter.errors.get() + 1);
                continue;
            }
            self.under_way.set(self.under_way.get() + 1);
            self.meter.count_sent();
            let (returns, due) = (self.clone(), self.meter.nanos(due));
            tokio::task::spawn_local(async move {
                let resumed = tokio::time::timeout(PATIENCE, returns.resume(due)).await;
                returns.under_way.set(returns.under_way.get() - 1);
                if !matches!(resumed, Ok(Ok(()))) {
                    returns.meter.errors.set(returns.meter.errors.get() + 1);
                }
            });
        }
        let last = Instant::now();
        while self.under_way.get() > 0 {
            ensure!(last.elapsed() < 2 * PATIENCE, "{} resumes have no end", self.under_way.get());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn resume(&self, due: u64) -> anyhow::Result<()> {
        let number = self.number.get();
        self.number.set(number + 1);
        let seed::Seeded { first_conversation, first_user, last_message, messages, .. } = self.conversation;
        let user = first_user + i64::try_from(number % 100)?;
        // Messages of one conversation have ids without a hole here.
        let after = last_message - i64::try_from(self.missed)?;
        let channel = Channel::ChatAfter(first_conversation, after);
        let mut client = self.target.open(channel, user, number).await?;
        let mut judge = Judge::from(messages - self.missed + 1);
        let mut left = self.missed;
        client
            .hear(|frame| {
                let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else {
                    return ControlFlow::Continue(());
                };
                if let ("message", Some(seq)) = (frame.kind, frame.seq)
                    && judge.hear(seq)
                {
                    left -= 1;
                    if left == 0 {
                        self.meter.count_delivered();
                        self.meter.took(due);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })
            .await;
        let mut verdict = self.verdict.get();
        verdict += judge.verdict(messages + 1);
        self.verdict.set(verdict);
        client.sender().close();
        client.idle().await;
        Ok(())
    }

    /// What was wrong with what they were sent.
    pub fn verdict(&self) -> Verdict {
        self.verdict.get()
    }
}
