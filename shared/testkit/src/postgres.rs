//! A real Postgres.

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
    server::{self, Started},
};

/// How a [`Postgres`] is to run. The default is what a test wants: nothing is worth more than speed.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// The folder in which its data is kept, in a folder for each major version; in a temporary folder, gone with the
    /// server, where none is given.
    pub data: Option<PathBuf>,
    /// The port; a free one where none is given.
    pub port: Option<u16>,
    /// Whether a commit waits for the disk.
    pub durable: bool,
    /// What the user `postgres` has to say; nothing where none is given. It counts when the data is created.
    pub password: Option<String>,
    /// Where its log goes; to a file beside its data unless set.
    pub output: Option<Output>,
}

/// A Postgres of one's own, on loopback. Dropped, it is gone.
#[derive(Debug)]
pub struct Postgres {
    launch: Launch,
    port: u16,
    folder: PathBuf,
    child: Child, // Before `_temporary`: dropped first.
    _temporary: Option<TempDir>,
}

/// What it takes to start it.
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
    /// Starts one for a test, with a user `postgres` that needs no password; it answers when this returns.
    ///
    /// # Errors
    /// When Postgres can't be had, or doesn't start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(PostgresOptions::default()).await
    }

    /// Starts one, and creates its data where there is none; it answers when this returns.
    ///
    /// # Errors
    /// When Postgres can't be had, or doesn't start; when the given port is taken.
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
            (None, None) => bail!("no place for the data"),
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

    /// The address of one of its databases; `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        let password = self.launch.options.password.as_ref().map(|password| format!(":{password}"));
        format!("postgres://postgres{}@127.0.0.1:{}/{database}", password.unwrap_or_default(), self.port)
    }

    /// Its process id; another after a restart.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Where its data and its log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills it and all its processes with -9, and waits for its end. [`Postgres::restart`] brings it back.
    pub async fn kill(&self) {
        let family = self.family(); // Its processes are no longer known once it is gone.
        if self.child.is_running() {
            Signal::Kill.send(&family);
        }
        self.child.wait().await;
    }

    /// Starts it again, on the same port with the same data, after killing it if it still runs. It answers when this
    /// returns.
    ///
    /// # Errors
    /// When it doesn't start.
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

    /// Freezes it and all its processes: connections stay open, nothing answers.
    pub fn stop(&self) {
        self.child.signal(Signal::Stop); // First, so that it starts no further process.
        Signal::Stop.send(&self.family());
    }

    /// Lets it go on after [`Postgres::stop`].
    pub fn cont(&self) {
        Signal::Cont.send(&self.family());
    }

    /// Stops it in its own way, whoever is connected, and waits for its end.
    pub async fn shut_down(&self, patience: Duration) {
        self.child.terminate(Signal::Int, patience).await;
    }

    /// Its process and those that it has started, each of which leads a group of its own.
    fn family(&self) -> Vec<String> {
        let pid = self.pid();
        let mut family = vec![pid.to_string()];
        match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            Ok(children) => family.extend(children.split_whitespace().map(str::to_owned)),
            Err(_) => family.extend(children_by_ps(pid)),
        }
        family
    }
}

/// The processes that `pid` has started, where the system has no list of them to read.
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
    /// Creates a cluster beside its place and moves it there, so that one which is there is whole.
    fn create_data(&self) -> anyhow::Result<()> {
        let parent = self.data.parent().context("the data has a folder above it")?;
        let fresh = parent.join(format!("creating-{:08x}", fastrand::u32(..)));
        let mut password_file = tempfile::NamedTempFile::new_in(parent)?;
        if let Some(password) = &self.options.password {
            writeln!(password_file, "{password}").context("write the password down for initdb")?;
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
            .farewell(Signal::Term);
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
        ensure!(succeeded, "initdb failed: {}", server::last_words(&log));
        fs::rename(&fresh, &self.data).with_context(|| format!("move the data to {}", self.data.display()))
    }

    /// Starts it on `port`, and waits until it takes connections.
    fn start(&self, port: u16) -> anyhow::Result<Started> {
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
            .farewell(Signal::Quit);
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

    /// The file in which a Postgres says who it is and how it is.
    fn status_file(&self) -> PathBuf {
        self.data.join("postmaster.pid")
    }

    /// Whether the Postgres that is process `pid` takes connections, as `pg_ctl` finds out.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(status) = fs::read_to_string(self.status_file()) else { return false };
        let mut lines = status.lines();
        lines.next().is_some_and(|line| line.trim() == pid.to_string())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    /// Waits until a Postgres that had this data, and whose parent was killed, has stopped.
    ///
    /// Where a process that has nothing to do with it has its number by now, Postgres would refuse to start, so that
    /// file is removed; whoever starts us sees to it that there is only one of us.
    fn await_predecessor(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            let Ok(status) = fs::read_to_string(self.status_file()) else { return };
            let Some(Ok(pid)) = status.lines().next().map(|line| line.trim().parse::<u32>()) else { return };
            match fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")) {
                Ok(command) if command.is_empty() => return, // It has ended, and nobody has asked how.
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
