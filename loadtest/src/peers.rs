//! Peers: other systems for comparison, each fetched from its registry into `target/peers`, and started with servers of
//! its own.

use crate::{
    processes::Watched,
    target::{Dialect, Target},
};
use anyhow::{Context, ensure};
use clap::ValueEnum;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use testkit::{
    Child, Output, Postgres, PostgresOptions, Program, Signal, TestDatabase, free_port, place, provision,
};
use tokio::net::TcpStream;

/// Maximum time until a server is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A system to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// The guide's stack: Django, Channels, Daphne, Redis, Postgres
    Django,
    /// Socket.IO with its Redis adapter, and Postgres
    Socketio,
}

/// Processes and database of a peer, stopped in this order.
pub struct PeerParts {
    _server: Child,
    _redis: Child,
    _database: TestDatabase,
    _postgres: Postgres,
}

impl Peer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Django => "django",
            Self::Socketio => "socketio",
        }
    }

    /// Folder of its source.
    fn source(self) -> PathBuf {
        place::workspace().join("loadtest/peers").join(self.name())
    }

    /// Folder of its installed packages.
    fn installed(self) -> PathBuf {
        place::workspace().join("target/peers").join(self.name())
    }

    /// File that lists its packages.
    const fn manifest(self) -> &'static str {
        match self {
            Self::Django => "requirements.txt",
            Self::Socketio => "package.json",
        }
    }

    /// Installs its packages, unless they are already installed.
    ///
    /// # Errors
    /// If one of them is not available.
    fn install(self) -> anyhow::Result<()> {
        provision::debian("redis-server", &["redis-server"], &provision::print)?;
        let (folder, manifest) = (self.installed(), self.source().join(self.manifest()));
        let wanted = fs::read(&manifest).with_context(|| format!("read {}", manifest.display()))?;
        let done = folder.join("installed");
        if fs::read(&done).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        place::create(&folder)?;
        eprintln!("fetching the packages of {}", self.name());
        match self {
            Self::Django => {
                run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
                let pip = folder.join("bin/pip");
                run(Command::new(pip).args(["install", "--quiet", "-r"]).arg(&manifest))?;
            }
            Self::Socketio => {
                // Node looks for packages side_by_side the program, so the program is copied to this folder.
                fs::copy(&manifest, folder.join("package.json"))?;
                let install = ["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"];
                run(Command::new("npm").args(install).current_dir(&folder))?;
            }
        }
        fs::write(done, wanted).context("record the installed packages")
    }

    /// Statements that create conversations in its database.
    const fn conversations(self) -> &'static str {
        match self {
            Self::Django => include_str!("../peers/django/conversations.sql"),
            Self::Socketio => include_str!("../peers/socketio/conversations.sql"),
        }
    }

    /// Starts it with its own Postgres and Redis.
    ///
    /// # Errors
    /// If a part is not available or doesn't start.
    pub async fn start(self, durable: bool) -> anyhow::Result<(Target, PeerParts)> {
        tokio::task::spawn_blocking(move || self.install()).await??;
        let postgres =
            Postgres::start_with(PostgresOptions { durable, ..PostgresOptions::default() }).await?;
        let database = TestDatabase::create_on(postgres.url("postgres")).await?;
        let (redis_port, port) = (free_port()?, free_port()?);
        // Debian's defaults, except for the address. The data need not survive.
        let redis = Program::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(redis_port.to_string())
            .folder("/")
            .stop_signal(Signal::Term)
            .spawn()?;
        wait_listening(redis_port, &redis).await.context("start redis-server")?;
        let secret = format!("{:032x}", fastrand::u128(..));
        let with_environment = |program: Program| {
            program
                .env("DATABASE_URL", database.url())
                .env("REDIS_PORT", redis_port.to_string())
                .env("JWT_SECRET", &secret)
                .env("PORT", port.to_string())
                .env("NODE_ENV", "production")
                .output(Output::Inherit)
                .stop_signal(Signal::Term)
        };
        if self == Self::Django {
            let migrate = Program::new(self.installed().join("bin/python"))
                .args(["manage.py", "migrate", "--verbosity", "0"])
                .folder(self.source());
            let status = with_environment(migrate).spawn()?.wait().await;
            ensure!(status.is_some_and(|status| status.success()), "can't create the peer's tables");
        }
        let server = with_environment(self.server(port)?).spawn()?;
        wait_listening(port, &server).await.with_context(|| format!("start {}", self.name()))?;
        let front = match self {
            Self::Django => "daphne",
            Self::Socketio => "node",
        };
        let target = Target {
            name: self.name().to_owned(),
            dialect: match self {
                Self::Django => Dialect::Guide,
                Self::Socketio => Dialect::SocketIo,
            },
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
            secret,
            processes: vec![
                Watched::new(front, server.pid()),
                Watched::new("redis-server", redis.pid()),
                Watched::new("postgres", postgres.pid()),
            ],
            nats: None,
            database: Some(database.url()),
            conversations: Some(self.conversations()),
        };
        let parts = PeerParts { _server: server, _redis: redis, _database: database, _postgres: postgres };
        Ok((target, parts))
    }

    fn server(self, port: u16) -> anyhow::Result<Program> {
        Ok(match self {
            Self::Django => Program::new(self.installed().join("bin/daphne"))
                .args(["--bind", "127.0.0.1", "--verbosity", "0", "--port"])
                .args([port.to_string(), "config.asgi:application".to_owned()])
                .folder(self.source()),
            Self::Socketio => {
                let server = self.installed().join("server.js");
                fs::copy(self.source().join("server.js"), &server).context("copy the server")?;
                Program::new("node").arg(server)
            }
        })
    }

    /// Names and versions of its main parts.
    ///
    /// # Errors
    /// If its manifest can't be read.
    pub fn versions(self) -> anyhow::Result<Vec<String>> {
        let manifest = fs::read_to_string(self.source().join(self.manifest()))?;
        let mut versions: Vec<String> = match self {
            Self::Django => {
                let lines = manifest.lines().filter(|line| !line.starts_with('#'));
                lines.map(|line| line.replace("==", " ")).collect()
            }
            Self::Socketio => {
                let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
                let packages = manifest["dependencies"].as_object().cloned().unwrap_or_default();
                packages
                    .iter()
                    .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("")))
                    .collect()
            }
        };
        let programs: &[(&str, &str)] = match self {
            Self::Django => &[("python3", "--version"), ("redis-server", "--version")],
            Self::Socketio => &[("node", "--version"), ("redis-server", "--version")],
        };
        versions.extend(programs.iter().filter_map(|(program, flag)| version_of(program, flag)));
        Ok(versions)
    }
}

/// Name and version of a program, from its version output.
fn version_of(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version =
        text.split_whitespace().find(|word| word.chars().any(|character| character.is_ascii_digit()))?;
    Some(format!("{program} {}", version.trim_start_matches(['v', '='])))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = Path::new(command.get_program()).display().to_string();
    let status = command.status().with_context(|| format!("run {shown}"))?;
    ensure!(status.success(), "{shown} failed");
    Ok(())
}

/// Waits until a server accepts connections on a port.
async fn wait_listening(port: u16, child: &Child) -> anyhow::Result<()> {
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        ensure!(child.is_running(), "it exited");
        ensure!(began.elapsed() < READY_TIMEOUT, "it is not ready in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
