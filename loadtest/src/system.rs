//! Starts our system, or finds a running one.

use crate::{
    peers::{Peer, PeerParts},
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

/// Name of our own system in reports.
pub const OURS: &str = "vyzio";

/// A system that runs until this is dropped.
pub struct System {
    /// Addresses and processes of the system.
    pub target: Target,
    /// Processes that were started for it.
    _parts: Parts,
    /// Set at the stop, when its parts lose each other, to silence their logs.
    is_stopping: Arc<AtomicBool>,
}

/// Processes that were started for a system.
pub enum Parts {
    /// None, because the system was already running.
    None,
    /// Our own stack.
    Ours(Box<Stack>),
    Peer(Box<PeerParts>),
}

impl System {
    /// Creates a system from its parts.
    fn of(target: Target, parts: Parts) -> Self {
        Self { target, _parts: parts, is_stopping: Arc::default() }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }
}

/// Starts a peer.
///
/// # Errors
/// See [`Peer::start`].
pub async fn start_peer(peer: Peer, durable: bool, program: Option<&Path>) -> anyhow::Result<System> {
    let (target, parts) = peer.start(durable, program).await?;
    Ok(System::of(target, Parts::Peer(Box::new(parts))))
}

/// Options of our own stack.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    /// Folder of the services' programs; by default the folder of the running test.
    pub programs: Option<PathBuf>,
    pub gateways: usize,
    /// True if Postgres and NATS wait for the disk.
    pub durable: bool,
}

/// Starts our own stack: nats-server, Postgres and the services, without rate limits.
///
/// # Panics
/// If it doesn't start.
pub async fn start(settings: &StackOptions) -> System {
    let is_stopping = Arc::new(AtomicBool::new(false));
    let quiet = is_stopping.clone();
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
        counts: [settings.gateways.max(1), 1, 1, 1],
        env,
        own_postgres: true,
        // The generator connects without credentials, as to the peers.
        accounts: false,
        durable: settings.durable,
        programs: settings.programs.clone(),
        on_line: Arc::new(move |name, line| {
            if !quiet.load(Ordering::Relaxed) {
                eprintln!("{name}: {line}");
            }
        }),
        ..Options::default()
    };
    let stack = Stack::with(options).await;
    let gateways = settings.gateways.max(1);
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
    System { target, _parts: Parts::Ours(Box::new(stack)), is_stopping }
}

/// Content of the file that `cargo xtask up --ready-file` writes.
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

/// Finds a running stack by its ready file. Its rate limits apply.
///
/// # Errors
/// If the file can't be used.
pub fn running(ready_file: &Path) -> anyhow::Result<System> {
    let text = fs::read(ready_file).with_context(|| format!("read {}", ready_file.display()))?;
    let ready: Ready =
        serde_json::from_slice(&text).with_context(|| format!("read {}", ready_file.display()))?;
    let Some(secret) = ready.jwt_secret else { bail!("the stack has no secret to sign tokens with") };
    let processes = ready.processes.into_iter().flat_map(|(kind, processes)| {
        processes.into_iter().filter_map(move |process| Some(Watched::new(kind.clone(), process.pid?)))
    });
    let mut processes: Vec<Watched> = processes.collect();
    processes.sort_by_key(|process| process.name != Kind::Gateway.program()); // The front process comes first.
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
    Ok(System::of(target, Parts::None))
}

/// Address in a URL.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let mut found = authority.to_socket_addrs().with_context(|| format!("look up {authority}"))?;
    found.find(SocketAddr::is_ipv4).with_context(|| format!("{authority} has no IPv4 address"))
}
