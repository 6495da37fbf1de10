//! Keeps each part of the stack running.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::bail;
use testkit::{Child, NatsOptions, NatsServer, Postgres, PostgresOptions, Program, Signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{console::Voice, ready::Board};

/// A service may take 30 s to stop; then something is wrong with it.
const SERVICE_PATIENCE: Duration = Duration::from_secs(32);
const SERVER_PATIENCE: Duration = Duration::from_secs(15);

/// A part that ends this many times before anything was ready is not going to do better.
const TRIES: u32 = 5;

/// One part: how it is started, again and again.
pub struct Part {
    /// As on the board.
    pub kind: &'static str,
    /// Which of that kind, from 0.
    pub index: usize,
    /// Its line on the terminal, and its log.
    pub voice: Voice,
    /// What to start.
    pub recipe: Recipe,
}

/// What a service's environment has otherwise than ours: variables set, or with `None` taken out.
pub type Environment = Vec<(&'static str, Option<String>)>;

/// What a part is made of.
pub enum Recipe {
    /// Postgres, on a port and data of its own.
    Postgres(PostgresOptions),
    /// nats-server, likewise.
    Nats(NatsOptions),
    /// One of our services.
    Service(PathBuf, Environment),
}

/// A part that runs.
pub enum Running {
    /// Postgres, which takes connections.
    Postgres(Postgres),
    /// nats-server, which answers.
    Nats(NatsServer),
    /// One of our services, which may not be ready yet.
    Service(Child),
}

impl Running {
    fn child(&self) -> &Child {
        match self {
            Self::Postgres(postgres) => postgres.child(),
            Self::Nats(nats) => nats.child(),
            Self::Service(child) => child,
        }
    }

    async fn shut_down(&self) -> Option<ExitStatus> {
        match self {
            Self::Postgres(postgres) => postgres.shut_down(SERVER_PATIENCE).await,
            Self::Nats(nats) => nats.shut_down(SERVER_PATIENCE).await,
            Self::Service(child) => return child.terminate(Signal::Term, SERVICE_PATIENCE).await,
        }
        self.child().status()
    }
}

impl Part {
    /// The `index`th of `count` parts of a kind.
    pub fn new(kind: &'static str, index: usize, count: usize, recipe: Recipe) -> anyhow::Result<Self> {
        let name = if count > 1 { format!("{kind}-{}", index + 1) } else { kind.to_owned() };
        Ok(Self { kind, index, voice: Voice::new(&name)?, recipe })
    }

    /// Starts it.
    pub async fn start(&self) -> anyhow::Result<Running> {
        match &self.recipe {
            Recipe::Postgres(options) => {
                let output =
                    self.voice.output(|line| mentions(line, &["WARNING:", "ERROR:", "FATAL:", "PANIC:"]));
                let options = PostgresOptions { output: Some(output), ..options.clone() };
                Ok(Running::Postgres(Postgres::start_with(options).await?))
            }
            Recipe::Nats(options) => {
                let output = self.voice.output(|line| mentions(line, &["[WRN]", "[ERR]", "[FTL]"]));
                let options = NatsOptions { output: Some(output), ..options.clone() };
                Ok(Running::Nats(NatsServer::start_with(options).await?))
            }
            Recipe::Service(program, env) => {
                let program = Program::new(program).output(self.voice.output(|_| true));
                let program = env.iter().fold(program, |program, (key, value)| match value {
                    Some(value) => program.env(key, value),
                    None => program.env_remove(key),
                });
                Ok(Running::Service(program.spawn()?))
            }
        }
    }

    /// Starts it again whenever it ends, unless it `runs` already, until told to stop; then stops it in its own way.
    ///
    /// # Errors
    /// When it won't run, although nothing has ever been ready.
    pub async fn supervise(
        self,
        mut runs: Option<Running>,
        board: Board,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let started = match runs.take() {
                Some(running) => Ok(running),
                None => self.start().await,
            };
            let how = match started {
                Ok(running) => {
                    board.set(self.kind, self.index, Some(running.child().pid()));
                    tokio::select! {
                        status = running.child().wait() => {
                            board.set(self.kind, self.index, None);
                            describe(status)
                        }
                        () = stop.cancelled() => {
                            self.shut_down(&running).await;
                            return Ok(());
                        }
                    }
                }
                Err(error) => format!("did not start: {error:#}"),
            };
            failures = if began.elapsed() > Duration::from_secs(10) { 1 } else { failures + 1 };
            if failures >= TRIES && !board.was_ready() {
                bail!("{} {how}, {TRIES} times. The last that it said: {}", self.kind, self.voice.last());
            }
            let pause = Duration::from_millis(100 << failures.min(6));
            self.voice.note(&format!("{how}; starting it again in {:.1} s", pause.as_secs_f32()));
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Stops it in its own way; says so if that takes long or goes wrong.
    async fn shut_down(&self, running: &Running) {
        let slow = async {
            sleep(Duration::from_secs(3)).await;
            self.voice.note("takes its time to stop");
            std::future::pending().await
        };
        let status = tokio::select! {
            status = running.shut_down() => status,
            () = slow => None,
        };
        if !status.is_some_and(|status| status.success()) {
            self.voice.note(&describe(status));
        }
    }
}

fn mentions(line: &str, levels: &[&str]) -> bool {
    levels.iter().any(|level| line.contains(level))
}

fn describe(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => format!("ended ({status})"),
        None => "ended".to_owned(),
    }
}
