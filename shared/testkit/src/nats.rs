//! A real nats-server with JetStream.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::{
    accounts, place,
    ports::free_port,
    process::{Child, Output, Program, Signal},
    provision,
    server::{self, Started},
};

/// How a [`NatsServer`] is to run. The default is what a test wants.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// Where its data is kept; in a temporary folder, gone with the server, where none is given.
    pub data: Option<PathBuf>,
    /// The port; a free one where none is given.
    pub port: Option<u16>,
    /// Whether JetStream acknowledges only what is safely on the disk, as it should wherever data matters. Unless
    /// set, that is within two minutes, which outlives a kill -9 of the server but not of the machine.
    pub durable: bool,
    /// Where its log goes; to a file beside its data unless set.
    pub output: Option<Output>,
    /// Whether it has the users of `deploy/nats/accounts.conf`, with the passwords of [`accounts::password`]. Without,
    /// whoever connects may do everything.
    pub accounts: bool,
    /// Its place in a cluster, if it is in one; see [`NatsServer::cluster`].
    pub member: Option<Member>,
    /// More lines of its configuration file.
    pub configuration: String,
}

/// A server's place in a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, by which the others know it again after a restart.
    name: String,
    /// The port where it listens to the others.
    port: u16,
    /// The ports of all of them.
    routes: Vec<u16>,
}

/// A nats-server of one's own, on loopback. Dropped, it is gone.
///
/// It notices a client that has stalled within about ten seconds.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    options: NatsOptions,
    port: u16,
    folder: PathBuf,
    child: Child, // Before `_temporary`: dropped first.
    _temporary: Option<TempDir>,
}

impl NatsServer {
    /// Starts one for a test; it answers when this returns.
    ///
    /// # Errors
    /// When nats-server can't be had, or doesn't start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(NatsOptions::default()).await
    }

    /// Starts one; it answers when this returns.
    ///
    /// # Errors
    /// When nats-server can't be had, or doesn't start; when the given port is taken.
    pub async fn start_with(options: NatsOptions) -> anyhow::Result<Self> {
        server::blocking(move || Self::start_blocking(options)).await
    }

    /// Starts a cluster of so many. They answer when this returns, but may take a second or two to agree on who leads.
    ///
    /// # Errors
    /// When one doesn't start.
    pub async fn cluster(servers: usize, options: NatsOptions) -> anyhow::Result<Vec<Self>> {
        let routes = (0..servers).map(|_| free_port()).collect::<anyhow::Result<Vec<_>>>()?;
        let mut cluster = Vec::new();
        for (number, port) in (1..).zip(&routes) {
            let member = Member { name: format!("nats-{number}"), port: *port, routes: routes.clone() };
            cluster.push(Self::start_with(NatsOptions { member: Some(member), ..options.clone() }).await?);
        }
        Ok(cluster)
    }

    fn start_blocking(options: NatsOptions) -> anyhow::Result<Self> {
        let program = provision::nats_server(&provision::print)?;
        let temporary = match options.data {
            None => Some(tempfile::Builder::new().prefix("nats-").tempdir_in(place::temporary(None))?),
            Some(_) => None,
        };
        let folder = match (&options.data, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => bail!("no place for the data"),
        };
        place::create(&folder)?;
        let remove = temporary.as_ref().map(TempDir::path);
        let (port, child) = server::start_on(options.port, free_port, |port| {
            launch(&program, &options, &folder, remove, port)
        })
        .context("start nats-server")?;
        Ok(Self { program, options, port, folder, child, _temporary: temporary })
    }

    /// Where it listens, `nats://127.0.0.1:<port>`; the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens, for one of the users of `accounts.conf`: `nats://<user>:<password>@127.0.0.1:<port>`.
    pub fn url_as(&self, user: &str) -> String {
        format!("nats://{user}:{}@127.0.0.1:{}", accounts::password(user), self.port)
    }

    /// Its process id; another after a restart.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Where its data, its configuration and its log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills it with -9, and waits for its end. [`NatsServer::restart`] brings it back.
    pub async fn kill(&self) {
        self.child.kill().await;
    }

    /// Starts it again, on the same port with the same data, after killing it if it still runs. It answers when this
    /// returns.
    ///
    /// # Errors
    /// When it doesn't start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await;
        let (program, options, port) = (self.program.clone(), self.options.clone(), self.port);
        let folder = self.folder.clone();
        let remove = self._temporary.as_ref().map(|folder| folder.path().to_path_buf());
        self.child = server::blocking(move || {
            let (_, child) = server::start_on(Some(port), free_port, |port| {
                launch(&program, &options, &folder, remove.as_deref(), port)
            })
            .context("restart nats-server")?;
            Ok(child)
        })
        .await?;
        Ok(())
    }

    /// Publishes headers as they are, also such as no client library would send, as one of the users of
    /// `accounts.conf` where it has those. A stream keeps the message when this returns.
    ///
    /// # Errors
    /// When no stream acknowledges it.
    pub async fn publish_raw(
        &self,
        user: Option<&str>,
        subject: &str,
        headers: &[u8],
        body: &[u8],
    ) -> anyhow::Result<()> {
        const REPLY: &str = "_INBOX.raw";
        let user = user
            .map(|name| format!(r#","user":"{name}","pass":"{}""#, accounts::password(name)))
            .unwrap_or_default();
        let (of_headers, of_all) = (headers.len(), headers.len() + body.len());
        let words = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true{user}}}\r\nSUB {REPLY} 1\r\n\
             HPUB {subject} {REPLY} {of_headers} {of_all}\r\n"
        );
        let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        socket.write_all(&[words.as_bytes(), headers, body, b"\r\n"].concat()).await?;
        let mut lines = tokio::io::BufReader::new(socket).lines();
        while let Some(line) = lines.next_line().await? {
            match line.strip_prefix('{') {
                Some(answer) if answer.starts_with(r#""stream""#) => return Ok(()),
                Some(_) => bail!("no stream took it: {line}"),
                None if line.starts_with("-ERR") => bail!("nats-server refused it: {line}"),
                None => {}
            }
        }
        bail!("nats-server hung up")
    }

    /// Freezes it: connections stay open, nothing answers.
    pub fn stop(&self) {
        self.child.signal(Signal::Stop);
    }

    /// Lets it go on after [`NatsServer::stop`].
    pub fn cont(&self) {
        self.child.signal(Signal::Cont);
    }

    /// Stops it in its own way, and waits for its end.
    pub async fn shut_down(&self, patience: Duration) {
        self.child.terminate(Signal::Term, patience).await;
    }
}

/// Starts it on `port`, and waits until it answers there.
fn launch(
    program: &Path,
    options: &NatsOptions,
    folder: &Path,
    remove: Option<&Path>,
    port: u16,
) -> anyhow::Result<Started> {
    // Another server that has the port would not say this name.
    let name = match &options.member {
        Some(member) => member.name.clone(),
        None => format!("local-{:016x}", fastrand::u64(..)),
    };
    let configuration = folder.join("nats-server.conf");
    fs::write(&configuration, configure(&name, port, &folder.join("data"), options)?)
        .with_context(|| format!("write {}", configuration.display()))?;
    let log = folder.join("nats-server.log");
    let output = options.output.clone().unwrap_or_else(|| Output::File(log.clone()));
    let mut program = Program::new(program)
        .args(["--config".as_ref(), configuration.as_os_str()])
        .folder("/")
        .output(output);
    if options.accounts {
        let accounts = accounts::configuration()?;
        fs::write(folder.join("accounts.conf"), &accounts).context("write accounts.conf")?;
        for (variable, password) in accounts::passwords(&accounts) {
            program = program.env(variable, password);
        }
    }
    if let Some(folder) = remove {
        program = program.remove(folder);
    }
    server::await_ready(program.spawn()?, &log, || says(port, &name))
}

fn configure(name: &str, port: u16, data: &Path, options: &NatsOptions) -> anyhow::Result<String> {
    let data = data.to_str().context("the data folder's name is not UTF-8")?;
    let sync_interval = if options.durable { "always" } else { "2m" };
    let accounts = if options.accounts { "include \"accounts.conf\"" } else { "" };
    let cluster = options.member.as_ref().map(join_cluster).unwrap_or_default();
    let more = &options.configuration;
    Ok(format!(
        r#"server_name: "{name}"
host: "127.0.0.1"
port: {port}
# A client that has stalled is noticed within seconds, not minutes.
ping_interval: "5s"
ping_max: 2
jetstream {{
    store_dir: "{data}"
    sync_interval: {sync_interval}
}}
{accounts}
{cluster}
{more}
"#
    ))
}

fn join_cluster(member: &Member) -> String {
    let routes: String = member.routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\", ")).collect();
    format!(
        r#"cluster {{
    name: "local"
    listen: "127.0.0.1:{}"
    routes: [{routes}]
    # Clients know every address, as in deploy/nats/cluster.conf.
    no_advertise: true
}}"#,
        member.port
    )
}

/// Whether the server on `port` greets with `name`.
fn says(port: u16, name: &str) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else {
        return false;
    };
    let mut greeting = String::new();
    stream.set_read_timeout(Some(Duration::from_millis(500))).is_ok()
        && BufReader::new(stream).read_line(&mut greeting).is_ok()
        && greeting.starts_with("INFO ")
        && greeting.contains(name)
}
