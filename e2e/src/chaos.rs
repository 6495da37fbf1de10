//! The fault harness: clients chat while parts of the stack are killed, frozen and disconnected. At the end, everything
//! that clients received and that was promised to them is compared with the stored data.
//!
//! As far as a real system allows, a seed determines the whole run: the conversations, the behaviour of the clients,
//! and the faults. The frames of a socket are checked one by one ([`watch`]) and compared with those of other sockets
//! ([`ledger`]). [`judge`], [`changes`] and [`inbox`] check the stored data at the end. These modules are pure, so that
//! tests can prove that they detect errors.

mod backend;
pub mod changes;
mod connection;
pub mod erasures;
mod events_out;
pub mod faults;
mod final_state;
pub mod frame;
pub mod inbox;
pub mod judge;
pub mod ledger;
mod page;
mod people;
mod presence;
mod receive;
mod reminders;
pub mod report;
pub mod rules;
mod settle;
pub mod stored;
pub mod view;
pub mod watch;
mod webhooks;
pub mod world;

pub use faults::Part;
pub use report::Report;
pub use world::Counters;

use crate::{OnLine, Options, Stack};
use anyhow::Context;
use backend::Backend;
use contract::streams::REMINDER_SUBJECT;
use erasures::Eraser;
use faults::FaultInjector;
use people::People;
use reminders::Wishes;
use rules::{Fault, Rule};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use world::{Phase, World};

/// The file of the kind `note`.
const NOTE: &str = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["text"],
    "properties": {"text": {"type": "string"}}}"#;

/// Options of a run.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// Seed of all random choices.
    pub seed: u64,
    /// Duration of the chat.
    pub length: Duration,
    /// Parts that may fail.
    pub parts: Vec<Part>,
    /// Number of replicas of each service, in the order of [`crate::Kind`].
    pub counts: [usize; 4],
    /// Number of nats-servers; several form a cluster.
    pub servers: usize,
    pub clients: usize,
    /// Folder of the services' programs; by default the folder of the running test.
    pub programs: Option<PathBuf>,
    /// Folder of another release's programs: see [`Options::other_release`].
    pub other_release: Option<PathBuf>,
    /// Folder for the services' logs.
    pub logs: Option<PathBuf>,
}

impl Default for Chaos {
    fn default() -> Self {
        Self {
            seed: 1,
            length: Duration::from_secs(60),
            parts: Part::ALL.map(|(part, _)| part).to_vec(),
            counts: [2; 4],
            servers: 1,
            clients: 30,
            programs: None,
            other_release: None,
            logs: None,
        }
    }
}

impl Chaos {
    /// Runs the harness. `counters` can be read meanwhile.
    ///
    /// # Errors
    /// If the stack can't be started, or the stored data can't be read at the end.
    pub async fn run(self, counters: Arc<Counters>) -> anyhow::Result<Report> {
        let panics: Arc<OnceLock<Arc<World>>> = Arc::default();
        // A kind whose data repeat the text. An earlier release has no kinds.
        let kinds = tempfile::tempdir().context("create a folder")?;
        std::fs::write(kinds.path().join("note.json"), NOTE).context("write a kind")?;
        let mut env = vec![("KINDS_DIR", kinds.path().to_string_lossy().into_owned())];
        let receiver = webhooks::Receiver::start(self.seed).await?;
        if self.other_release.is_none() {
            env.extend(receiver.env());
            env.push(("REMINDERS", reminders::STEPS.to_owned()));
        }
        let options = Options {
            env,
            counts: self.counts,
            servers: self.servers,
            own_postgres: true,
            proxied: true,
            programs: self.programs.clone(),
            other_release: self.other_release.clone(),
            on_line: self.log_output(panics.clone())?,
            ..Options::default()
        };
        let mut stack = Stack::with(options).await;
        let hosts = (0..self.counts[0]).map(|gateway| stack.host(gateway)).collect();
        let people = People::new(self.seed, self.clients);
        let conversations = open(&stack, &people).await;
        let wishes = match self.other_release {
            None => Some(Wishes::set(&stack, &people.users, &conversations).await?),
            Some(_) => None,
        };
        let world = World::new(hosts, counters, wishes.is_some());
        panics.set(world.clone()).ok();

        let mut running = self.start(&world, &stack, &people, &conversations).await?;
        let plan = faults::plan(self.seed, self.length, &self.parts, self.counts, self.servers);
        let faults = FaultInjector::new(&mut stack, world.clone()).run(&plan, self.length).await;
        let chatted = world.began.elapsed();

        world.set_phase(Phase::Settling);
        stack.ready().await;
        let began = Instant::now();
        settle::wait(&stack, &world, wishes).await?;
        let settled = began.elapsed();
        world.set_phase(Phase::Over);
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended.map_err(anyhow::Error::from)
                && !error.to_string().contains("cancelled")
            {
                return Err(error.context("a client"));
            }
        }
        let state = final_state::read(&stack, &people.users, &conversations).await?;
        let found = judge::judge(&world.ledger(), &world.deliveries(), &world.views(), &state);
        found.into_iter().for_each(|fault| world.violation(fault));
        let erased = world.ledger().erased.clone();
        let mut found = Vec::new();
        let events = events_out::read(&stack).await?;
        erasures::judge(&erasures::left(&stack, &erased, &events).await?, &mut found);
        if let Some(wishes) = wishes {
            let accepted = receiver.accepted();
            let published = events.iter().map(|event| event.id.as_str()).collect();
            let messages = state.messages.iter().map(|row| row.message_id);
            webhooks::judge(&accepted, &published, messages, &mut found);
            let mut database =
                PgConnection::connect(&stack.database.url()).await.context("connect to Postgres")?;
            let reminders = events.iter().filter(|event| event.subject == REMINDER_SUBJECT).count();
            world.counters.reminders.store(reminders as u64, Ordering::Relaxed);
            let rows = reminders::read(&mut database).await?;
            reminders::judge(&events, &rows, wishes, &world.ledger(), &mut found);
            presence::judge(&presence::wrong(&stack, &people.users).await?, &mut found);
        }
        found.into_iter().for_each(|fault| world.violation(fault));
        stop(&mut stack, &world).await;
        Ok(Report {
            seed: self.seed,
            chatted,
            settled,
            faults,
            counters: world.counters.clone(),
            stored: (state.messages.len(), state.notifications.len()),
            notes: world.notes(),
            violations: world.violations(),
            again: self.command(),
        })
    }

    /// Starts all clients.
    async fn start(
        &self,
        world: &Arc<World>,
        stack: &Stack,
        people: &People,
        conversations: &[(i64, Vec<i64>)],
    ) -> anyhow::Result<JoinSet<()>> {
        let ids: Vec<i64> = conversations.iter().map(|(id, _)| *id).collect();
        let mut running = JoinSet::new();
        for page in people.pages(world, self.seed, &ids, self.clients) {
            running.spawn(page.run());
        }
        for number in 0..2 {
            let (conversations, users) = (conversations.to_vec(), people.users.clone());
            let backend = Backend::new(world.clone(), self.seed, number, stack, conversations, users).await?;
            running.spawn(backend.run());
        }
        running.spawn(Eraser::new(world.clone(), self.seed, stack).await?.run());
        let lag = world.clone();
        running.spawn(async move {
            tokio::select! {
                () = lag.watch_lag() => {}
                () = lag.until(Phase::Over) => {}
            }
        });
        Ok(running)
    }

    /// Writes the services' output to a file, and detects panics in it.
    fn log_output(&self, world: Arc<OnceLock<Arc<World>>>) -> anyhow::Result<OnLine> {
        let file = match &self.logs {
            Some(folder) => {
                testkit::place::create(folder)?;
                Some(Mutex::new(File::create(folder.join("services.log"))?))
            }
            None => None,
        };
        Ok(Arc::new(move |service, line| {
            if let Some(file) = &file {
                let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let at = world.get().map_or(0.0, |world| world.began.elapsed().as_secs_f64());
                writeln!(file, "{at:>8.3} {service:<16} {line}").ok(); // A full disk must not stop the run.
            }
            if line.contains("panicked at")
                && let Some(world) = world.get()
            {
                let fault = Fault::new(Rule::Process, format!("{service} panicked"));
                world.violation(fault.with([line.to_owned()]));
            }
        }))
    }

    fn command(&self) -> String {
        let parts: Vec<&str> = self.parts.iter().map(|part| part.name()).collect();
        let [gateways, chat, notify, typing] = self.counts;
        format!(
            "cargo xtask chaos --seconds {} --seed {} --parts {} --clients {} --nats {} --gateways {gateways} --chat {chat} --notify {notify} --typing {typing}",
            self.length.as_secs(),
            self.seed,
            parts.join(","),
            self.clients,
            self.servers
        )
    }
}

/// Creates all conversations. Returns their ids and participants.
async fn open(stack: &Stack, people: &People) -> Vec<(i64, Vec<i64>)> {
    let mut conversations = Vec::new();
    for users in &people.conversations {
        let body = json!({"participant_ids": &users[1..]});
        let created = stack.post("/api/conversations", users[0], body).await.expect(201);
        let id = created["conversation_id"].as_i64().expect("a conversation has an id");
        conversations.push((id, users.clone()));
    }
    conversations
}

/// Pauses all services, one after the other.
async fn stop(stack: &mut Stack, world: &World) {
    for (kind, index) in stack.services() {
        let began = Instant::now();
        let Some(child) = stack.take(kind, index) else { continue };
        let status = child.terminate(testkit::Signal::Term, Duration::from_secs(32)).await;
        world.check(faults::check_stop(kind, index, status, began.elapsed()));
    }
}
