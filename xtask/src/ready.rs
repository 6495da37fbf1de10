//! Knows what runs and whether it answers, and writes the ready file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// The ready file, as the contract has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// The first gateway.
    pub http: String,
    /// The same for sockets.
    pub ws: String,
    /// Every gateway.
    pub gateways: Vec<String>,
    /// nats-server.
    pub nats: String,
    /// The database of the services.
    pub database: String,
    /// What signs tokens, unless the gateway verifies them with a public key.
    pub jwt_secret: Option<String>,
    /// What runs, by kind.
    pub processes: BTreeMap<&'static str, Vec<Process>>,
}

/// One process of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its id; another after a restart, and none in between.
    pub pid: Option<u32>,
    /// Where it says how it is, if it is a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// What runs now. Those who start parts tell it, [`Board::announce`] watches it.
#[derive(Debug, Clone)]
pub struct Board {
    ready: Arc<watch::Sender<Ready>>,
    once: Arc<Mutex<bool>>,
}

impl Board {
    /// A board of parts none of which runs yet.
    pub fn new(ready: Ready) -> Self {
        Self { ready: Arc::new(watch::Sender::new(ready)), once: Arc::default() }
    }

    /// Notes that the `index`th process of a kind runs, or with `None` that it has ended.
    pub fn set(&self, kind: &'static str, index: usize, pid: Option<u32>) {
        self.ready.send_modify(|ready| {
            if let Some(process) =
                ready.processes.get_mut(kind).and_then(|processes| processes.get_mut(index))
            {
                process.pid = pid;
            }
        });
    }

    /// What is so far.
    pub fn now(&self) -> Ready {
        self.ready.borrow().clone()
    }

    /// Whether everything has answered once.
    pub fn was_ready(&self) -> bool {
        *self.once.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Each time that everything answers and is not what it was, writes the ready file and calls `then`. Runs forever.
    pub async fn announce(
        &self,
        file: Option<&Path>,
        mut then: impl AsyncFnMut(bool) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // No proxy: this is loopback.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let mut changes = self.ready.subscribe();
        loop {
            let ready = changes.borrow_and_update().clone();
            tokio::select! {
                () = everything_answers(&client, &ready) => {}
                _ = changes.changed() => continue,
            }
            let first = !self.was_ready();
            *self.once.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
            if first {
                then(true).await?;
            }
            if let Some(file) = file {
                write(file, &ready)?;
            }
            if !first {
                then(false).await?;
            }
            let _ = changes.changed().await;
        }
    }
}

/// Returns once every process runs and says that it does its job.
async fn everything_answers(client: &reqwest::Client, ready: &Ready) {
    for (kind, processes) in &ready.processes {
        for process in processes {
            if process.pid.is_none() {
                return std::future::pending().await; // It will be told to the board when it runs.
            }
            if let Some(admin) = &process.admin {
                answers(client, kind, admin).await;
            }
        }
    }
}

async fn answers(client: &reqwest::Client, kind: &str, admin: &str) {
    let mut complain_at = Instant::now() + Duration::from_secs(10);
    loop {
        let why = match client.get(format!("{admin}/readyz")).send().await {
            Ok(response) if response.status() == reqwest::StatusCode::OK => return,
            Ok(response) => {
                let status = response.status();
                format!("{status} {}", response.text().await.unwrap_or_default().trim())
            }
            Err(_) => "nothing".to_owned(),
        };
        if Instant::now() >= complain_at {
            println!("still waiting for {kind}: {admin}/readyz answers {why}");
            complain_at += Duration::from_secs(10);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Writes the file such that whoever reads it sees all of it or what was there before.
fn write(file: &Path, ready: &Ready) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::write(&partial, serde_json::to_vec(ready)?)
        .and_then(|()| fs::rename(&partial, file))
        .with_context(|| format!("write the ready file {}", file.display()))
}
