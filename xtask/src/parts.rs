//! Starts and supervises each part of the stack.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::bail;
use testkit::{Child, NatsOptions, NatsServer, Postgres, PostgresOptions, Program, Signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{console::PartOutput, ready::StackState};

/// A service may take up to 30 s to stop.
const SERVICE_STOP_TIMEOUT: Duration = Duration::from_secs(32);
const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Number of failures of a part, before the stack was ever ready, after which the stack gives up.
const TRIES: u32 = 5;

/// A part of the stack, which can be started repeatedly.
pub struct Part {
    /// Kind of the part, as in [`StackState`].
    pub kind: &'static str,
    /// Index within the kind, from 0.
    pub index: usize,
    /// Terminal and log output of the part.
    pub output: PartOutput,
    /// How to start the part.
    pub recipe: Recipe,
}

/// Differences of a service's environment from ours: variables to set, or to remove with `None`.
pub type Environment = Vec<(&'static str, Option<String>)>;

/// How to start a part.
pub enum Recipe {
    /// Postgres with these options.
    Postgres(PostgresOptions),
    /// nats-server with these options.
    Nats(NatsOptions),
    /// One of our services: its program and environment.
    Service(PathBuf, Environment),
}

/// A running part.
pub enum Running {
    /// A Postgres that accepts connections.
    Postgres(Postgres),
    /// A nats-server that is ready.
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
            Self::Postgres(postgres) => postgres.shut_down(SERVER_STOP_TIMEOUT).await,
            Self::Nats(nats) => nats.shut_down(SERVER_STOP_TIMEOUT).await,
            Self::Service(child) => return child.terminate(Signal::Term, SERVICE_STOP_TIMEOUT).await,
        }
        self.child().status()
    }
}

impl Part {
    /// Creates part number `index` of `count` parts of a kind.
    pub fn new(kind: &'static str, index: usize, count: usize, recipe: Recipe) -> anyhow::Result<Self> {
        let name = if count > 1 { format!("{kind}-{}", index + 1) } else { kind.to_owned() };
        Ok(Self { kind, index, output: PartOutput::new(&name)?, recipe })
    }

    pub async fn start(&self) -> anyhow::Result<Running> {
        match &self.recipe {
            Recipe::Postgres(options) => {
                let output =
                    self.output.output(|line| mentions(line, &["WARNING:", "ERROR:", "FATAL:", "PANIC:"]));
                let options = PostgresOptions { output: Some(output), ..options.clone() };
                Ok(Running::Postgres(Postgres::start_with(options).await?))
            }
            Recipe::Nats(options) => {
                let output = self.output.output(|line| mentions(line, &["[WRN]", "[ERR]", "[FTL]"]));
                let options = NatsOptions { output: Some(output), ..options.clone() };
                Ok(Running::Nats(NatsServer::start_with(options).await?))
            }
            Recipe::Service(program, env) => {
                let program = Program::new(program).output(self.output.output(|_| true));
                let program = env.iter().fold(program, |program, (key, value)| match value {
                    Some(value) => program.env(key, value),
                    None => program.env_remove(key),
                });
                Ok(Running::Service(program.spawn()?))
            }
        }
    }

    /// Supervises the part until `stop` is cancelled, and then shuts it down. Restarts it whenever it ends, starting
    /// with `running` if that is given.
    ///
    /// # Errors
    /// If the part keeps failing, and the stack has never been ready.
    pub async fn supervise(
        self,
        mut running: Option<Running>,
        state: StackState,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut failures = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let started = match running.take() {
                Some(part) => Ok(part),
                None => self.start().await,
            };
            let outcome = match started {
                Ok(running) => {
                    state.set(self.kind, self.index, Some(running.child().pid()));
                    tokio::select! {
                        status = running.child().wait() => {
                            state.set(self.kind, self.index, None);
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
            if failures >= TRIES && !state.was_ready() {
                bail!("{} {outcome}, {TRIES} times. Last line of output: {}", self.kind, self.output.last());
            }
            let pause = Duration::from_millis(100 << failures.min(6));
            self.output.note(&format!("{outcome}; restarting in {:.1} s", pause.as_secs_f32()));
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Shuts the part down. Prints a note if that is slow or fails.
    async fn shut_down(&self, running: &Running) {
        let slow = async {
            sleep(Duration::from_secs(3)).await;
            self.output.note("is slow to stop");
            std::future::pending().await
        };
        let status = tokio::select! {
            status = running.shut_down() => status,
            () = slow => None,
        };
        if !status.is_some_and(|status| status.success()) {
            self.output.note(&describe(status));
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
