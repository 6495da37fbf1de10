//! Clients that resume a long conversation and receive the messages that they missed.

use super::common::{Length, measured_run, per, rate};
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

/// Maximum number of concurrent resumes. Further ones count as errors.
const MAX_IN_FLIGHT: usize = 5_000;
/// Time for which a client waits for the missed messages.
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);

/// Clients that resume.
#[derive(Debug, Clone, Args)]
pub struct Resume {
    /// Number of messages of the conversation
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..=100_000_000))]
    stored: u64,
    /// Number of latest messages that each client has missed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    missed: u64,
    /// Resumes per second
    #[arg(long, value_name = "N", default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Resume {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let resumes = Resumes::create(target, meter, self.stored, self.missed).await?;
        meter.show("warming up");
        resumes.run(self.rate, self.length.warm_up()).await?;
        let window = meter.begin();
        resumes.run(self.rate, self.length.measured()).await?;
        let measured = meter.end(window);
        let mut run = measured_run(&measured, self.length.seconds);
        run.load =
            format!("{} resumes/s after the last {} of {} messages", self.rate, resumes.missed, self.stored);
        run.verdict = resumes.verdict();
        let resumed = measured.delivered as f64;
        run.figures = vec![
            Figure::rate("resumes per second", resumed / self.length.measured().as_secs_f64(), "/s"),
            Figure::cost("CPU per resume", per(run.cpu(None), resumed), "us"),
        ];
        Ok(run)
    }
}

/// A conversation that clients resume.
struct Resumes {
    target: Target,
    meter: Rc<Meter>,
    conversation: seed::Seeded,
    missed: u64,
    number: Cell<usize>,
    in_flight: Cell<usize>,
    verdict: Cell<Verdict>,
}

impl Resumes {
    /// Stores a conversation with so many messages. Each client has missed the latest `missed` of them.
    ///
    /// # Errors
    /// If it can't be stored.
    pub async fn create(
        target: &Target,
        meter: &Rc<Meter>,
        stored: u64,
        missed: u64,
    ) -> anyhow::Result<Rc<Self>> {
        let database = target.database.as_ref().context("storing messages needs Postgres")?;
        let mut connection = PgConnection::connect(database).await.context("connect to Postgres")?;
        let shape = seed::Shape { conversations: 1, people: 100, messages: stored };
        let conversation = seed::fill(&mut connection, shape, |done| {
            meter.show(&format!("storing {stored} messages, {done} so far"));
        })
        .await?;
        connection.close().await?;
        Ok(Rc::new(Self {
            target: target.clone(),
            meter: meter.clone(),
            conversation,
            missed: missed.min(stored - 1),
            number: Cell::new(0),
            in_flight: Cell::new(0),
            verdict: Cell::default(),
        }))
    }

    /// Resumes clients for this time, each when it is due.
    ///
    /// # Errors
    /// If the resumes don't end.
    pub async fn run(self: &Rc<Self>, rate: f64, length: Duration) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(rate, length);
        while let Some(due) = schedule.next().await {
            if self.in_flight.get() >= MAX_IN_FLIGHT {
                self.meter.errors.set(self.meter.errors.get() + 1);
                continue;
            }
            self.in_flight.set(self.in_flight.get() + 1);
            self.meter.count_sent();
            let (resumes, due) = (self.clone(), self.meter.nanos(due));
            tokio::task::spawn_local(async move {
                let resumed = tokio::time::timeout(RESUME_TIMEOUT, resumes.resume(due)).await;
                resumes.in_flight.set(resumes.in_flight.get() - 1);
                if !matches!(resumed, Ok(Ok(()))) {
                    resumes.meter.errors.set(resumes.meter.errors.get() + 1);
                }
            });
        }
        let last = Instant::now();
        while self.in_flight.get() > 0 {
            ensure!(last.elapsed() < 2 * RESUME_TIMEOUT, "{} resumes did not end", self.in_flight.get());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn resume(&self, due: u64) -> anyhow::Result<()> {
        let number = self.number.get();
        self.number.set(number + 1);
        let seed::Seeded { first_conversation, first_user, last_message, messages, .. } = self.conversation;
        let user = first_user + i64::try_from(number % 100)?;
        // The ids of the messages of this conversation have no gaps.
        let after = last_message - i64::try_from(self.missed)?;
        let channel = Channel::ChatAfter(first_conversation, after);
        let mut client = self.target.open(channel, user, number).await?;
        let mut judge = Judge::from(messages - self.missed + 1);
        let mut missing = self.missed;
        client
            .receive(|frame| {
                let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else {
                    return ControlFlow::Continue(());
                };
                if let ("message", Some(seq)) = (frame.kind, frame.seq)
                    && judge.receive(seq)
                {
                    missing -= 1;
                    if missing == 0 {
                        self.meter.count_delivered();
                        self.meter.record_latency(due);
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

    /// Errors in the received messages.
    pub fn verdict(&self) -> Verdict {
        self.verdict.get()
    }
}
