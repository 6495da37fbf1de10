//! A real Postgres server.

use std::{
    fs,
    io::Write,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::{
    place::{self, User},
    ports::free_port,
    process::{Child, Output, Program, Signal},
    provision,
    server::{self, StartOutcome},
};

/// Options of a [`Postgres`]. The default suits a test: fast, and not durable.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Data folder, with one folder for each major version. By default a temporary folder, removed with the server.
    pub data: Option<PathBuf>,
    /// Port. By default a free one.
    pub port: Option<u16>,
    /// True if a commit waits for the disk.
    pub durable: bool,
    /// Password of the user `postgres`, set when the data is created. By default none.
    pub password: Option<String>,
    /// Log output. By default a file beside the data.
    pub output: Option<Output>,
}

/// A Postgres on loopback. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    launch: Launch,
    port: u16,
    folder: PathBuf,
    child: Child, // Before `_temporary`: dropped first.
    _temporary: Option<TempDir>,
}

/// Everything that is needed to start the server.
#[derive(Debug, Clone)]
struct Launch {
    binaries: PathBuf,
    options: PostgresOptions,
    data: PathBuf,
    log: PathBuf,
    user: Option<User>,
    remove: Option<PathBuf>,
}

impl Postgres {
    /// Starts a server for a test, with a user `postgres` that needs no password. It is ready when this returns.
    ///
    /// # Errors
    /// If Postgres can't be found or fetched, or doesn't start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(PostgresOptions::default()).await
    }

    /// Starts a server, and creates its data if it is missing. It is ready when this returns.
    ///
    /// # Errors
    /// If Postgres can't be found or fetched, or doesn't start, or the given port is taken.
    pub async fn start_with(options: PostgresOptions) -> anyhow::Result<Self> {
        server::blocking(move || Self::start_blocking(options)).await
    }

    fn start_blocking(options: PostgresOptions) -> anyhow::Result<Self> {
        let binaries = provision::postgres(&provision::print)?;
        let user = place::postgres_user();
        let temporary = match options.data {
            None => Some(tempfile::Builder::new().prefix("postgres-").tempdir_in(place::temporary(user))?),
            Some(_) => None,
        };
        let folder = match (&options.data, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => bail!("there is no data folder"),
        };
        match user {
            Some(user) => user.own(&folder)?,
            None => place::create(&folder)?,
        }
        let major = provision::version_of(&binaries.join("postgres"))?.0;
        let launch = Launch {
            data: folder.join(major.to_string()),
            log: folder.join("postgres.log"),
            remove: temporary.as_ref().map(|folder| folder.path().to_path_buf()),
            binaries,
            options,
            user,
        };
        if !launch.data.join("PG_VERSION").is_file() {
            launch.create_data()?;
        }
        let (port, child) = server::start_on(launch.options.port, free_port, |port| launch.start(port))
            .context("start postgres")?;
        Ok(Self { launch, port, folder, child, _temporary: temporary })
    }

    /// URL of one of its databases. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        let password = self.launch.options.password.as_ref().map(|password| format!(":{password}"));
        format!("postgres://postgres{}@127.0.0.1:{}/{database}", password.unwrap_or_default(), self.port)
    }

    /// Process id; a restart changes it.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Process of the server.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Folder with data and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the server and all its processes with -9, and waits for its exit. [`Postgres::restart`] starts it again.
    pub async fn kill(&self) {
        let processes = self.processes(); // They can't be found after its exit.
        if self.child.is_running() {
            Signal::Kill.send(&processes);
        }
        self.child.wait().await;
    }

    /// Restarts the server on the same port with the same data. Kills it first if it is still running. It is ready when
    /// this returns.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        let (launch, port) = (self.launch.clone(), self.port);
        self.child = server::blocking(move || {
            let (_, child) = server::start_on(Some(port), free_port, |port| launch.start(port))
                .context("restart postgres")?;
            Ok(child)
        })
        .await?;
        Ok(())
    }

    /// Freezes the server and all its processes: connections stay open but receive no reply.
    pub fn stop(&self) {
        self.child.signal(Signal::Stop); // First, so that it starts no more processes.
        Signal::Stop.send(&self.processes());
    }

    /// Resumes the server after [`Postgres::stop`].
    pub fn cont(&self) {
        Signal::Cont.send(&self.processes());
    }

    /// Shuts the server down, even with clients connected, and waits for its exit; kills it after `timeout`.
    pub async fn shut_down(&self, timeout: Duration) {
        self.child.terminate(Signal::Int, timeout).await;
    }

    /// Its process and its child processes, each of which leads a group of its own.
    fn processes(&self) -> Vec<String> {
        let pid = self.pid();
        let mut processes = vec![pid.to_string()];
        match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            Ok(children) => processes.extend(children.split_whitespace().map(str::to_owned)),
            Err(_) => processes.extend(children_by_ps(pid)),
        }
        processes
    }
}

/// Child processes of `pid`, for systems without a readable list of them.
fn children_by_ps(pid: u32) -> Vec<String> {
    let Ok(listing) = Command::new("ps").args(["-A", "-o", "ppid=,pid="]).output() else { return Vec::new() };
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let child = |line: &str| {
        let (parent, child) = line.trim().split_once(char::is_whitespace)?;
        (parent == pid.to_string()).then(|| child.trim().to_owned())
    };
    listing.lines().filter_map(child).collect()
}

impl Launch {
    /// Creates the data in a temporary folder and then moves it to its place, so that existing data is always complete.
    fn create_data(&self) -> anyhow::Result<()> {
        let parent = self.data.parent().context("the data folder has no parent")?;
        let fresh = parent.join(format!("creating-{:08x}", fastrand::u32(..)));
        let mut password_file = tempfile::NamedTempFile::new_in(parent)?;
        if let Some(password) = &self.options.password {
            writeln!(password_file, "{password}").context("write the password for initdb")?;
        }
        if let Some(user) = self.user {
            chown(password_file.path(), Some(user.uid), Some(user.gid))?;
        }
        let log = parent.join("initdb.log");
        let mut initdb = Program::new(self.binaries.join("initdb"))
            .args(["--username=postgres", "--no-locale", "--encoding=UTF8", "--no-sync", "--no-instructions"])
            .args(["-D".as_ref(), fresh.as_os_str()])
            .folder("/")
            .user(self.user)
            .output(Output::File(log.clone()))
            .stop_signal(Signal::Term);
        initdb = match self.options.password {
            Some(_) => initdb
                .arg("--auth=scram-sha-256")
                .args(["--pwfile".as_ref(), password_file.path().as_os_str()]),
            None => initdb.arg("--auth=trust"),
        };
        if let Some(folder) = &self.remove {
            initdb = initdb.remove(folder);
        }
        let status = initdb.spawn()?.wait_blocking();
        let succeeded = status.is_some_and(|status| status.success());
        ensure!(succeeded, "initdb failed: {}", server::end_of_log(&log));
        fs::rename(&fresh, &self.data).with_context(|| format!("move the data to {}", self.data.display()))
    }

    /// Starts the server on `port`, and waits until it accepts connections.
    fn start(&self, port: u16) -> anyhow::Result<StartOutcome> {
        self.await_predecessor();
        let on_or_off = if self.options.durable { "on" } else { "off" };
        let output = self.options.output.clone().unwrap_or_else(|| Output::File(self.log.clone()));
        let mut program = Program::new(self.binaries.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .args(["-p".to_owned(), port.to_string()])
            .folder("/")
            .user(self.user)
            .output(output)
            .stop_signal(Signal::Quit);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_checkpoints=off",
            &format!("fsync={on_or_off}"),
            &format!("full_page_writes={on_or_off}"),
        ] {
            program = program.args(["-c", setting]);
        }
        if let Some(folder) = &self.remove {
            program = program.remove(folder);
        }
        let child = program.spawn()?;
        let pid = child.pid();
        server::await_ready(child, &self.log, || self.is_ready(pid))
    }

    /// File with the process id and state of a Postgres.
    fn status_file(&self) -> PathBuf {
        self.data.join("postmaster.pid")
    }

    /// Whether the Postgres with process id `pid` accepts connections. Uses the same method as `pg_ctl`.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(status) = fs::read_to_string(self.status_file()) else { return false };
        let mut lines = status.lines();
        lines.next().is_some_and(|line| line.trim() == pid.to_string())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// Waits until an earlier Postgres with this data, whose parent was killed, has stopped.
    ///
    /// If an unrelated process now has its id, Postgres would refuse to start, so the file is removed. Callers ensure
    /// that only one server uses the data.
    fn await_predecessor(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            let Ok(status) = fs::read_to_string(self.status_file()) else { return };
            let Some(Ok(pid)) = status.lines().next().map(|line| line.trim().parse::<u32>()) else { return };
            match fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")) {
                Ok(command) if command.is_empty() => return, // A zombie: it has ended but is not reaped.
                Ok(command) if String::from_utf8_lossy(&command).contains("postgres") => {}
                Ok(_) => {
                    let _ = fs::remove_file(self.status_file());
                    return;
                }
                Err(_) => return,
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
