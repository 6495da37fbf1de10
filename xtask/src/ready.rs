//! Tracks the stack's processes and their readiness, and writes the ready file.

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

/// Content of the ready file, in its documented format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// URL of the first gateway.
    pub http: String,
    /// The same URL for sockets.
    pub ws: String,
    /// URLs of all gateways.
    pub gateways: Vec<String>,
    /// URL of nats-server.
    pub nats: String,
    /// URL of the services' database.
    pub database: String,
    /// Key of backends that use HTTP, unless the environment has other keys.
    pub backend_key: Option<String>,
    /// Secret that signs tokens, unless the gateway verifies them with a public key.
    pub jwt_secret: Option<String>,
    /// Processes by kind.
    pub processes: BTreeMap<&'static str, Vec<Process>>,
}

/// One process of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process id. A restart changes it; `None` in between.
    pub pid: Option<u32>,
    /// URL of the admin port, for services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// State of the stack. Supervisors update it, and [`StackState::announce`] watches it.
#[derive(Debug, Clone)]
pub struct StackState {
    ready: Arc<watch::Sender<Ready>>,
    was_ready: Arc<Mutex<bool>>,
}

impl StackState {
    /// Creates the state before any part is running.
    pub fn new(ready: Ready) -> Self {
        Self { ready: Arc::new(watch::Sender::new(ready)), was_ready: Arc::default() }
    }

    /// Sets the process id of process number `index` of a kind; `None` after its end.
    pub fn set(&self, kind: &'static str, index: usize, pid: Option<u32>) {
        self.ready.send_modify(|ready| {
            if let Some(process) =
                ready.processes.get_mut(kind).and_then(|processes| processes.get_mut(index))
            {
                process.pid = pid;
            }
        });
    }

    /// The current state.
    pub fn now(&self) -> Ready {
        self.ready.borrow().clone()
    }

    /// Whether the whole stack has ever been ready.
    pub fn was_ready(&self) -> bool {
        *self.was_ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes the ready file and calls `then` whenever the stack is ready after a change. Never returns without an
    /// error.
    pub async fn announce(
        &self,
        file: Option<&Path>,
        mut on_ready: impl AsyncFnMut(bool) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        // No proxy, because this is loopback.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let mut changes = self.ready.subscribe();
        loop {
            let ready = changes.borrow_and_update().clone();
            tokio::select! {
                () = all_ready(&client, &ready) => {}
                _ = changes.changed() => continue,
            }
            let first = !self.was_ready();
            *self.was_ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
            if first {
                on_ready(true).await?;
            }
            if let Some(file) = file {
                write(file, &ready)?;
            }
            if !first {
                on_ready(false).await?;
            }
            let _ = changes.changed().await;
        }
    }
}

/// Returns when every process is running and ready.
async fn all_ready(client: &reqwest::Client, ready: &Ready) {
    for (kind, processes) in &ready.processes {
        for process in processes {
            if process.pid.is_none() {
                return std::future::pending().await; // The caller tries again when the state changes.
            }
            if let Some(admin) = &process.admin {
                wait_ready(client, kind, admin).await;
            }
        }
    }
}

async fn wait_ready(client: &reqwest::Client, kind: &str, admin: &str) {
    let mut report_at = Instant::now() + Duration::from_secs(10);
    loop {
        let problem = match client.get(format!("{admin}/readyz")).send().await {
            Ok(response) if response.status() == reqwest::StatusCode::OK => return,
            Ok(response) => {
                let status = response.status();
                format!("{status} {}", response.text().await.unwrap_or_default().trim())
            }
            Err(_) => "no reply".to_owned(),
        };
        if Instant::now() >= report_at {
            println!("still waiting for {kind}: {admin}/readyz returns {problem}");
            report_at += Duration::from_secs(10);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Writes the file atomically: a reader sees either the old or the new content.
fn write(file: &Path, ready: &Ready) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::write(&partial, serde_json::to_vec(ready)?)
        .and_then(|()| fs::rename(&partial, file))
        .with_context(|| format!("write the ready file {}", file.display()))
}
