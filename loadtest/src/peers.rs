//! Peers: other systems for comparison, each started with servers of its own. Their packages are fetched from their
//! registries into `target/peers`. The path of Centrifugo's program must be given.

use crate::{
    processes::Watched,
    scenarios::Scenario,
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
    /// Centrifugo with its memory broker, which stores nothing: only fan-out, idle and handshake; needs --peer-path
    Centrifugo,
}

/// Processes and database of a peer, stopped in this order.
pub struct PeerParts {
    _server: Child,
    _stores: Option<Stores>,
}

/// Redis and Postgres of a peer, stopped in this order.
struct Stores {
    redis: Child,
    redis_port: u16,
    database: TestDatabase,
    postgres: Postgres,
}

impl Stores {
    async fn start(durable: bool) -> anyhow::Result<Self> {
        let postgres =
            Postgres::start_with(PostgresOptions { durable, ..PostgresOptions::default() }).await?;
        let database = TestDatabase::create_on(postgres.url("postgres")).await?;
        let redis_port = free_port()?;
        // Debian's defaults, except for the address. The data need not survive.
        let redis = Program::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(redis_port.to_string())
            .folder("/")
            .stop_signal(Signal::Term)
            .spawn()?;
        wait_listening(redis_port, &redis).await.context("start redis-server")?;
        Ok(Self { redis, redis_port, database, postgres })
    }

    fn processes(&self) -> [Watched; 2] {
        [Watched::new("redis-server", self.redis.pid()), Watched::new("postgres", self.postgres.pid())]
    }
}

impl Peer {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Django => "django",
            Self::Socketio => "socketio",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// Name in reports.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Django | Self::Socketio => self.name(),
            Self::Centrifugo => "centrifugo (nothing stored)",
        }
    }

    /// Names of the scenarios that it supports.
    const fn scenarios(self) -> &'static [&'static str] {
        match self {
            Self::Django | Self::Socketio => &["chat", "fan-out", "idle", "handshake", "typing"],
            Self::Centrifugo => &["fan-out", "idle", "handshake"],
        }
    }

    /// Checks that it supports a scenario.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn check_scenario(self, scenario: &Scenario) -> anyhow::Result<()> {
        let (supported, wanted) = (self.scenarios(), scenario.name());
        ensure!(
            supported.contains(&wanted),
            "{} doesn't support {wanted}, only {}",
            self.name(),
            supported.join(", ")
        );
        Ok(())
    }

    /// Checks that its program is given, if it must be.
    ///
    /// # Errors
    /// If it is missing.
    pub fn check_program(self, program: Option<&Path>) -> anyhow::Result<()> {
        if self == Self::Centrifugo {
            require_program(program)?;
        }
        Ok(())
    }

    /// Folder of its source.
    fn source(self) -> PathBuf {
        place::workspace().join("loadtest/peers").join(self.name())
    }

    /// Folder of its installed packages.
    fn installed(self) -> PathBuf {
        place::workspace().join("target/peers").join(self.name())
    }

    /// File that lists its packages, if it has any.
    const fn manifest(self) -> Option<&'static str> {
        match self {
            Self::Django => Some("requirements.txt"),
            Self::Socketio => Some("package.json"),
            Self::Centrifugo => None,
        }
    }

    /// Installs its packages, unless they are already installed.
    ///
    /// # Errors
    /// If one of them is not available.
    fn install(self) -> anyhow::Result<()> {
        let Some(manifest) = self.manifest() else { return Ok(()) };
        provision::debian("redis-server", &["redis-server"], &provision::print)?;
        let (folder, manifest) = (self.installed(), self.source().join(manifest));
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
            Self::Centrifugo => {}
        }
        fs::write(done, wanted).context("record the installed packages")
    }

    /// Statements that create conversations in its database, if it has one.
    const fn conversations(self) -> Option<&'static str> {
        match self {
            Self::Django => Some(include_str!("../peers/django/conversations.sql")),
            Self::Socketio => Some(include_str!("../peers/socketio/conversations.sql")),
            Self::Centrifugo => None,
        }
    }

    /// Starts it, with its own Postgres and Redis if it uses them. `program` is the path for peers that need one.
    ///
    /// # Errors
    /// If a part is not available or doesn't start.
    pub async fn start(self, durable: bool, program: Option<&Path>) -> anyhow::Result<(Target, PeerParts)> {
        tokio::task::spawn_blocking(move || self.install()).await??;
        let stores = match self {
            Self::Django | Self::Socketio => Some(Stores::start(durable).await?),
            Self::Centrifugo => None,
        };
        let port = free_port()?;
        let secret = format!("{:032x}", fastrand::u128(..));
        let with_environment = |mut program: Program| {
            if let Some(Stores { redis_port, database, .. }) = &stores {
                program =
                    program.env("DATABASE_URL", database.url()).env("REDIS_PORT", redis_port.to_string());
            }
            program
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
        let server = with_environment(self.server(port, &secret, program)?).spawn()?;
        wait_listening(port, &server).await.with_context(|| format!("start {}", self.name()))?;
        let front = match self {
            Self::Django => "daphne",
            Self::Socketio => "node",
            Self::Centrifugo => "centrifugo",
        };
        let mut processes = vec![Watched::new(front, server.pid())];
        processes.extend(stores.iter().flat_map(Stores::processes));
        let target = Target {
            name: self.title().to_owned(),
            dialect: match self {
                Self::Django => Dialect::Guide,
                Self::Socketio => Dialect::SocketIo,
                Self::Centrifugo => Dialect::Centrifugo,
            },
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
            secret,
            processes,
            nats: None,
            database: stores.as_ref().map(|stores| stores.database.url()),
            conversations: self.conversations(),
        };
        Ok((target, PeerParts { _server: server, _stores: stores }))
    }

    fn server(self, port: u16, secret: &str, program: Option<&Path>) -> anyhow::Result<Program> {
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
            Self::Centrifugo => Program::new(require_program(program)?)
                .arg("--config")
                .arg(self.source().join("config.json"))
                .env("CENTRIFUGO_HTTP_SERVER_PORT", port.to_string())
                .env("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", secret),
        })
    }

    /// Names and versions of its main parts.
    ///
    /// # Errors
    /// If its manifest can't be read, or its program is missing.
    pub fn versions(self, program: Option<&Path>) -> anyhow::Result<Vec<String>> {
        let Some(manifest) = self.manifest() else {
            let program = require_program(program)?;
            let version = module_version(program).or_else(|| version_of(program, "version"));
            return Ok(version.into_iter().collect());
        };
        let manifest = fs::read_to_string(self.source().join(manifest))?;
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
            Self::Centrifugo => Vec::new(),
        };
        let programs: &[(&str, &str)] = match self {
            Self::Django => &[("python3", "--version"), ("redis-server", "--version")],
            Self::Socketio => &[("node", "--version"), ("redis-server", "--version")],
            Self::Centrifugo => &[],
        };
        versions.extend(programs.iter().filter_map(|(program, flag)| version_of(program, flag)));
        Ok(versions)
    }
}

/// The given program of Centrifugo.
fn require_program(program: Option<&Path>) -> anyhow::Result<&Path> {
    let program = program.context(
        "centrifugo needs --peer-path PATH/TO/centrifugo; get it with `go install \
         github.com/centrifugal/centrifugo/v6@latest`, which puts it into ~/go/bin",
    )?;
    ensure!(program.is_file(), "{} is not a program", program.display());
    Ok(program)
}

/// Name and version of Centrifugo, as Go has recorded them: if built by `go install`, the program itself doesn't know
/// its version.
fn module_version(program: &Path) -> Option<String> {
    let output = Command::new("go").args(["version", "-m"]).arg(program).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let module = text.lines().find_map(|line| line.trim().strip_prefix("mod\t"))?;
    Some(format!("centrifugo {}", module.split_whitespace().nth(1)?.strip_prefix('v')?))
}

/// Name and version of a program, from its version output.
fn version_of(program: impl AsRef<Path>, flag: &str) -> Option<String> {
    let program = program.as_ref();
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version =
        text.split_whitespace().find(|word| word.chars().any(|character| character.is_ascii_digit()))?;
    Some(format!("{} {}", program.file_name()?.display(), version.trim_start_matches(['v', '='])))
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
