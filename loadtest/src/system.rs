//! Starts what load is put on, or finds it running.

use crate::{
    peers::PeerParts,
    processes::Watched,
    target::{Dialect, Target},
};
use anyhow::{Context, bail};
use e2e::{Kind, Options, Stack};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use testkit::Postgres;

/// What our own system is called in reports.
pub const OURS: &str = "vyzio";

/// A system, up as long as this is there.
pub struct System {
    /// How to reach it.
    pub target: Target,
    /// What was started for it.
    _parts: Parts,
    /// Whether it may be stopped without a word: its parts then miss each other.
    over: Arc<AtomicBool>,
}

/// What was started for a system.
pub enum Parts {
    /// Nothing: it ran already.
    Nothing,
    /// A stack of our own.
    Ours(Box<Stack>),
    /// A peer's.
    Peer(Box<PeerParts>),
}

impl System {
    /// A system of these parts.
    pub fn of(target: Target, parts: Parts) -> Self {
        Self { target, _parts: parts, over: Arc::default() }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// How our own stack is started.
#[derive(Debug, Clone, Default)]
pub struct Make {
    /// The folder of the services' programs; beside the test that runs unless set.
    pub programs: Option<PathBuf>,
    /// How many gateways.
    pub gateways: usize,
    /// Whether Postgres and NATS wait for the disk.
    pub durable: bool,
}

/// Starts a stack of our own: nats-server, Postgres and the services, without limits for users and addresses.
///
/// # Panics
/// When it doesn't start.
pub async fn start(make: &Make) -> System {
    let over = Arc::new(AtomicBool::new(false));
    let quiet = over.clone();
    let rates = [
        "HANDSHAKE_RATE",
        "SEND_RATE",
        "CALL_RATE",
        "READ_RATE",
        "SUBSCRIBE_RATE",
        "FRAME_RATE",
        "CONVERSATION_RATE",
    ];
    let mut env: Vec<_> = rates.map(|rate| (rate, "0".to_owned())).to_vec();
    env.push(("SOCKETS_PER_USER", "100000".to_owned()));
    let options = Options {
        counts: [make.gateways.max(1), 1, 1, 1],
        env,
        own_postgres: true,
        // The generator is told an address alone, as for the peers.
        accounts: false,
        durable: make.durable,
        programs: make.programs.clone(),
        on_line: Arc::new(move |name, line| {
            if !quiet.load(Ordering::Relaxed) {
                eprintln!("{name}: {line}");
            }
        }),
        ..Options::default()
    };
    let stack = Stack::with(options).await;
    let gateways = make.gateways.max(1);
    let addresses = (0..gateways).filter_map(|index| stack.host(index).parse().ok()).collect();
    let mut processes: Vec<Watched> = stack
        .services()
        .into_iter()
        .map(|(kind, index): (Kind, usize)| Watched::new(kind.program(), stack.pid(kind, index)))
        .collect();
    processes.push(Watched::new("nats-server", stack.nats.pid()));
    processes
        .extend(stack.postgres.as_ref().map(|postgres: &Postgres| Watched::new("postgres", postgres.pid())));
    let target = Target {
        name: OURS.to_owned(),
        dialect: Dialect::Guide,
        addresses,
        secret: e2e::SECRET.to_owned(),
        processes,
        nats: Some(stack.nats.url()),
        database: Some(stack.database.url()),
        conversations: None,
    };
    System { target, _parts: Parts::Ours(Box::new(stack)), over }
}

/// The file that `cargo xtask up --ready-file` writes.
#[derive(Deserialize)]
struct Ready {
    gateways: Vec<String>,
    nats: String,
    database: String,
    jwt_secret: Option<String>,
    processes: BTreeMap<String, Vec<Process>>,
}

#[derive(Deserialize)]
struct Process {
    pid: Option<u32>,
}

/// Finds a stack that runs, by its ready file. What it limits, it limits.
///
/// # Errors
/// When the file can't be used.
pub fn running(ready_file: &Path) -> anyhow::Result<System> {
    let text = fs::read(ready_file).with_context(|| format!("read {}", ready_file.display()))?;
    let ready: Ready =
        serde_json::from_slice(&text).with_context(|| format!("read {}", ready_file.display()))?;
    let Some(secret) = ready.jwt_secret else {
        bail!("the stack has no secret that tokens could be signed with")
    };
    let processes = ready.processes.into_iter().flat_map(|(kind, processes)| {
        processes.into_iter().filter_map(move |process| Some(Watched::new(kind.clone(), process.pid?)))
    });
    let mut processes: Vec<Watched> = processes.collect();
    processes.sort_by_key(|process| process.name != Kind::Gateway.program()); // The front first.
    let target = Target {
        name: OURS.to_owned(),
        dialect: Dialect::Guide,
        addresses: ready.gateways.iter().map(|url| address(url)).collect::<anyhow::Result<_>>()?,
        secret,
        processes,
        nats: Some(ready.nats),
        database: Some(ready.database),
        conversations: None,
    };
    Ok(System::of(target, Parts::Nothing))
}

/// The address of a URL.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let mut found = authority.to_socket_addrs().with_context(|| format!("look up {authority}"))?;
    found.find(SocketAddr::is_ipv4).with_context(|| format!("{authority} has no IPv4 address"))
}
