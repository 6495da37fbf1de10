//! A real nats-server with JetStream.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::{
    accounts, place,
    ports::free_port,
    process::{Child, Output, Program, Signal},
    provision,
    server::{self, StartOutcome},
    wait::within,
};

/// Options of a [`NatsServer`]. The default suits a test.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// Data folder. By default a temporary folder, removed with the server.
    pub data: Option<PathBuf>,
    /// Port. By default a free one.
    pub port: Option<u16>,
    /// True if JetStream syncs to the disk before each ack, as needed wherever data matters. By default it syncs within
    /// two minutes, which survives a kill -9 of the server but not a crash of the machine.
    pub durable: bool,
    /// Log output. By default a file beside the data.
    pub output: Option<Output>,
    /// True for the users of `deploy/nats/accounts.conf`, with the passwords of [`accounts::password`]. By default,
    /// every client may do everything.
    pub accounts: bool,
    /// Membership in a cluster; see [`NatsServer::cluster`].
    pub member: Option<Member>,
    /// Additional lines of the configuration file.
    pub configuration: String,
}

/// Membership of a server in a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Name by which the other servers recognize it after a restart.
    name: String,
    /// Port for connections from the other servers.
    port: u16,
    /// Ports of all members.
    routes: Vec<u16>,
}

/// A nats-server on loopback. Dropping it stops it.
///
/// It detects a stalled client within about ten seconds.
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
    /// Starts a server for a test. It is ready when this returns.
    ///
    /// # Errors
    /// If nats-server can't be found or fetched, or doesn't start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(NatsOptions::default()).await
    }

    /// Starts a server. It is ready when this returns.
    ///
    /// # Errors
    /// If nats-server can't be found or fetched, or doesn't start, or the given port is taken.
    pub async fn start_with(options: NatsOptions) -> anyhow::Result<Self> {
        server::blocking(move || Self::start_blocking(options)).await
    }

    /// Starts a cluster of so many servers. They are ready when this returns, but may need a second or two to elect a
    /// leader.
    ///
    /// # Errors
    /// If one of them doesn't start.
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
            (None, None) => bail!("there is no data folder"),
        };
        place::create(&folder)?;
        let remove = temporary.as_ref().map(TempDir::path);
        let (port, child) = server::start_on(options.port, free_port, |port| {
            launch(&program, &options, &folder, remove, port)
        })
        .context("start nats-server")?;
        Ok(Self { program, options, port, folder, child, _temporary: temporary })
    }

    /// URL of the server, `nats://127.0.0.1:<port>`; unchanged by a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// URL for one of the users of `accounts.conf`: `nats://<user>:<password>@127.0.0.1:<port>`.
    pub fn url_as(&self, user: &str) -> String {
        format!("nats://{user}:{}@127.0.0.1:{}", accounts::password(user), self.port)
    }

    /// Process id; a restart changes it.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Process of the server.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Folder with data, configuration and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the server with -9, and waits for its exit. [`NatsServer::restart`] starts it again.
    pub async fn kill(&self) {
        self.child.kill().await;
    }

    /// Restarts the server on the same port with the same data. Kills it first if it is still running. It is ready when
    /// this returns.
    ///
    /// # Errors
    /// If it doesn't start.
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

    /// Publishes a message with raw header bytes, even such as no client library would send. With `accounts`, `user` is
    /// one of the users of `accounts.conf`. The message is stored in a stream when this returns.
    ///
    /// # Errors
    /// If no stream acknowledges the message.
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
        let (header_len, total_len) = (headers.len(), headers.len() + body.len());
        let commands = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true{user}}}\r\nSUB {REPLY} 1\r\n\
             HPUB {subject} {REPLY} {header_len} {total_len}\r\n"
        );
        let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        socket.write_all(&[commands.as_bytes(), headers, body, b"\r\n"].concat()).await?;
        let mut lines = tokio::io::BufReader::new(socket).lines();
        while let Some(line) = lines.next_line().await? {
            match line.strip_prefix('{') {
                Some(ack) if ack.starts_with(r#""stream""#) => return Ok(()),
                Some(_) => bail!("no stream stored the message: {line}"),
                None if line.starts_with("-ERR") => bail!("nats-server refused the message: {line}"),
                None => {}
            }
        }
        bail!("nats-server closed the connection")
    }

    /// Freezes the server: connections stay open but receive no reply.
    pub fn stop(&self) {
        self.child.signal(Signal::Stop);
    }

    /// Resumes the server after [`NatsServer::stop`].
    pub fn cont(&self) {
        self.child.signal(Signal::Cont);
    }

    /// Shuts the server down gracefully, and waits for its exit; kills it after `timeout`.
    pub async fn shut_down(&self, timeout: Duration) {
        self.child.terminate(Signal::Term, timeout).await;
    }
}

/// Starts a server on `port`, and waits until it is ready.
fn launch(
    program: &Path,
    options: &NatsOptions,
    folder: &Path,
    remove: Option<&Path>,
    port: u16,
) -> anyhow::Result<StartOutcome> {
    // The name distinguishes it from another server that has the port.
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
    server::await_ready(program.spawn()?, &log, || greets(port, &name))
}

fn configure(name: &str, port: u16, data: &Path, options: &NatsOptions) -> anyhow::Result<String> {
    let data = data.to_str().context("the data folder's name is not UTF-8")?;
    let sync_interval = if options.durable { "always" } else { "2m" };
    let accounts = if options.accounts { "include \"accounts.conf\"" } else { "" };
    let cluster = options.member.as_ref().map(cluster_block).unwrap_or_default();
    let more = &options.configuration;
    Ok(format!(
        r#"server_name: "{name}"
host: "127.0.0.1"
port: {port}
# A stalled client is detected within seconds, not minutes.
ping_interval: "5s"
ping_max: 2
jetstream {{
    store_dir: "{data}"
    sync_interval: {sync_interval}
    # Without it, three quarters of the free disk; with less than 6 GB free, the streams' 4 GB would be refused.
    max_file_store: 8GB
}}
{accounts}
{cluster}
{more}
"#
    ))
}

fn cluster_block(member: &Member) -> String {
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

/// Whether the server on `port` has this name in its greeting.
fn greets(port: u16, name: &str) -> bool {
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

/// Subscribes, and waits until the server has the subscription: a flush only sends it, and the messages of other
/// connections may overtake it.
///
/// # Errors
/// If the client is closed.
pub async fn subscribe(client: &async_nats::Client, subject: &str) -> anyhow::Result<async_nats::Subscriber> {
    let subscription = client.subscribe(subject.to_owned()).await?;
    let own = client.new_inbox();
    let mut answers = client.subscribe(own.clone()).await?;
    client.publish(own, "".into()).await?;
    within("NATS to subscribe", answers.next()).await.context("the client is closed")?;
    Ok(subscription)
}
