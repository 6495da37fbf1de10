//! The fault harness: clients chat while parts of the stack are killed, stopped and cut off; at the end, what each was
//! told and promised is compared with what is there.
//!
//! Everything comes from a seed, as far as a real system allows: who chats with whom and how, and what breaks when.
//! What a socket is told is checked frame by frame ([`watch`]) and against what other sockets are told ([`ledger`]);
//! what is stored at the end is judged by [`judge`] and [`inbox`]. These are pure, so that tests show that they find
//! what they are there to find.

mod backend;
pub mod faults;
pub mod frame;
mod hear;
pub mod inbox;
pub mod judge;
pub mod ledger;
mod line;
mod page;
mod people;
mod proxy;
pub mod report;
pub mod rules;
mod settle;
mod truth;
pub mod watch;
pub mod world;

pub use faults::Part;
pub use proxy::{Flow, Proxy};
pub use report::Report;
pub use world::Counters;

use crate::{OnLine, Options, Stack};
use backend::Backend;
use faults::Saboteur;
use people::People;
use rules::{Fault, Rule};
use serde_json::json;
use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use world::{Phase, World};

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// What all random choices come from.
    pub seed: u64,
    /// How long people chat.
    pub length: Duration,
    /// What may break.
    pub parts: Vec<Part>,
    /// How many of each service, in the order of [`crate::Kind`].
    pub counts: [usize; 4],
    /// How many nats-servers; a cluster if there is more than one.
    pub servers: usize,
    /// How many clients.
    pub clients: usize,
    /// The folder of the services' programs; beside the test that runs unless set.
    pub programs: Option<PathBuf>,
    /// Where the services' logs go.
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
            logs: None,
        }
    }
}

impl Chaos {
    /// Runs it. `counters` can be looked at meanwhile.
    ///
    /// # Errors
    /// When the stack can't be started, or what is there at the end can't be read.
    pub async fn run(self, counters: Arc<Counters>) -> anyhow::Result<Report> {
        let panics: Arc<OnceLock<Arc<World>>> = Arc::default();
        let options = Options {
            counts: self.counts,
            servers: self.servers,
            own_postgres: true,
            proxied: true,
            programs: self.programs.clone(),
            on_line: self.listen(panics.clone())?,
            ..Options::default()
        };
        let mut stack = Stack::with(options).await;
        let hosts = (0..self.counts[0]).map(|gateway| stack.host(gateway)).collect();
        let people = People::new(self.seed, self.clients);
        let conversations = open(&stack, &people).await;
        let world = World::new(hosts, counters);
        panics.set(world.clone()).ok();

        let mut running = self.start(&world, &stack, &people, &conversations).await?;
        let plan = faults::plan(self.seed, self.length, &self.parts, self.counts, self.servers);
        let faults = Saboteur::new(&mut stack, world.clone()).run(&plan, self.length).await;
        let chatted = world.began.elapsed();

        world.enter(Phase::Settling);
        stack.ready().await;
        let began = Instant::now();
        settle::wait(&stack, &world).await?;
        let settled = began.elapsed();
        world.enter(Phase::Over);
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended.map_err(anyhow::Error::from)
                && !error.to_string().contains("cancelled")
            {
                return Err(error.context("a client"));
            }
        }
        let truth = truth::read(&stack, &people.users, &conversations).await?;
        let found = judge::judge(&world.ledger(), &world.board(), &truth);
        found.into_iter().for_each(|fault| world.violation(fault));
        stop(&mut stack, &world).await;
        Ok(Report {
            seed: self.seed,
            chatted,
            settled,
            faults,
            counters: world.counters.clone(),
            stored: (truth.messages.len(), truth.notifications.len()),
            notes: world.notes(),
            violations: world.violations(),
            again: self.command(),
        })
    }

    /// Lets everyone chat.
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
        let lag = world.clone();
        running.spawn(async move {
            tokio::select! {
                () = lag.notice_lag() => {}
                () = lag.until(Phase::Over) => {}
            }
        });
        Ok(running)
    }

    /// Keeps what services say, and looks for panics in it.
    fn listen(&self, world: Arc<OnceLock<Arc<World>>>) -> anyhow::Result<OnLine> {
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

/// Opens everyone's conversations: their ids and participants.
async fn open(stack: &Stack, people: &People) -> Vec<(i64, Vec<i64>)> {
    let mut conversations = Vec::new();
    for users in &people.conversations {
        let body = json!({"participant_ids": &users[1..]});
        let made = stack.post("/api/conversations", users[0], body).await.expect(201);
        let id = made["conversation_id"].as_i64().expect("a conversation has an id");
        conversations.push((id, users.clone()));
    }
    conversations
}

/// Asks every service to stop, one after the other.
async fn stop(stack: &mut Stack, world: &World) {
    for (kind, index) in stack.services() {
        let asked = Instant::now();
        let Some(child) = stack.take(kind, index) else { continue };
        let status = child.terminate(testkit::Signal::Term, Duration::from_secs(32)).await;
        world.check(faults::stopped_well(kind, index, status, asked.elapsed()));
    }
}
