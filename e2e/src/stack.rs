//! A stack of one's own: nats-server, a database, and any number of each service.

use crate::{TIMEOUT, eventually, http::Answer, proxy::Proxy, socket::Socket};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use testkit::{
    Child, NatsOptions, NatsServer, Output, Postgres, PostgresOptions, Program, Signal, TestDatabase,
    accounts, free_port,
};

/// The key that the tests' tokens are signed with.
pub const SECRET: &str = "the secret of the end-to-end tests";

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `gateway`.
    Gateway,
    /// `chat-service`.
    Chat,
    /// `notify-service`.
    Notify,
    /// `typing-service`.
    Typing,
}

impl Kind {
    /// Every kind, in this order.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Chat, Self::Notify, Self::Typing];

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat-service",
            Self::Notify => "notify-service",
            Self::Typing => "typing-service",
        }
    }

    /// Its user in `deploy/nats/accounts.conf`.
    pub fn user(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat",
            Self::Notify => "notify",
            Self::Typing => "typing",
        }
    }
}

/// Takes what a service (`chat-service-2`) says, line by line.
pub type OnLine = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What a stack is made of.
#[derive(Clone)]
pub struct Options {
    /// How many of each service, in the order of [`Kind`].
    pub counts: [usize; 4],
    /// How many nats-servers; a cluster if there is more than one.
    pub servers: usize,
    /// Whether NATS has the users of `deploy/nats/accounts.conf`.
    pub accounts: bool,
    /// More variables for every service.
    pub env: Vec<(&'static str, String)>,
    /// Whether it has a Postgres of its own, which may then be killed.
    pub own_postgres: bool,
    /// Whether its NATS, and its own Postgres, wait for the disk as they should wherever data matters.
    pub durable: bool,
    /// Whether each service reaches NATS and Postgres through proxies of its own.
    pub proxied: bool,
    /// The folder of the services' programs; beside the test that runs unless set.
    pub programs: Option<PathBuf>,
    /// Takes what the services say.
    pub on_line: OnLine,
}

impl Default for Options {
    fn default() -> Self {
        // Every test on a cluster: not in every run, as it takes longer to start.
        let (count, servers) = if std::env::var_os("E2E_CLUSTER").is_some() { (2, 3) } else { (1, 1) };
        Self {
            counts: [count; 4],
            servers,
            accounts: true,
            env: Vec::new(),
            own_postgres: false,
            durable: false,
            proxied: false,
            programs: None,
            on_line: Arc::new(|_, line| println!("{line}")),
        }
    }
}

impl Options {
    /// One of each, also where other tests run on a cluster: for those that watch what happens when it is away.
    pub fn one_of_each() -> Self {
        Self { counts: [1; 4], servers: 1, ..Self::default() }
    }

    /// A cluster of three nats-servers, and two of each service.
    pub fn cluster() -> Self {
        Self { counts: [2; 4], servers: 3, ..Self::default() }
    }
}

struct Service {
    kind: Kind,
    name: String,
    port: u16,
    admin: u16,
    child: Option<Child>,
    links: Option<Links>,
}

/// The proxies of one service.
pub struct Links {
    /// Before each nats-server.
    pub nats: Vec<Proxy>,
    /// Before Postgres.
    pub postgres: Proxy,
}

/// A whole stack, gone when it is dropped. Each service has the NATS user that it is deployed with; the test has failed
/// when one was denied anything.
pub struct Stack {
    /// Its nats-server; the first one of a cluster.
    pub nats: NatsServer,
    /// The others of a cluster.
    pub more_nats: Vec<NatsServer>,
    /// Its database.
    pub database: TestDatabase,
    /// Its Postgres, if that is its own.
    pub postgres: Option<Postgres>, // After `database`: dropped later.
    services: Vec<Service>,
    options: Options,
    client: reqwest::Client,
    denied: Denied,
}

/// What nats-server did not allow a service.
#[derive(Clone, Default)]
struct Denied(Arc<Mutex<Vec<String>>>);

impl Denied {
    fn hear(&self, name: &str, line: &str) {
        // An answer to a question of before the connection broke: nats-server no longer knows that it was asked. Whoever
        // asked asks again.
        let is_late_answer =
            ["_INBOX.", "_R_."].iter().any(|inbox| line.contains(&format!("Publish to \"{inbox}")));
        if line.to_lowercase().contains("permissions violation") && !is_late_answer {
            self.0.lock().expect("no holder of this lock panics").push(format!("{name}: {line}"));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let denied = self.denied.0.lock().expect("no holder of this lock panics");
        assert!(
            denied.is_empty() || std::thread::panicking(),
            "deploy/nats/accounts.conf denies: {denied:?}"
        );
    }
}

impl Stack {
    /// One of each service, ready.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A stack of this make, ready.
    ///
    /// # Panics
    /// When it doesn't start.
    pub async fn with(options: Options) -> Self {
        let stack = Self::cold(options).await;
        stack.ready().await;
        stack
    }

    /// A stack whose services have just been started.
    ///
    /// # Panics
    /// When it doesn't start.
    pub async fn cold(options: Options) -> Self {
        let (nats, more_nats) = nats(&options).await.expect("start nats-server");
        let (database, postgres) = database(&options).await.expect("create a database");
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().expect("an HTTP client");
        let counts = options.counts;
        let (services, denied) = (Vec::new(), Denied::default());
        let mut stack = Self { nats, more_nats, database, postgres, services, options, client, denied };
        for (kind, count) in Kind::ALL.into_iter().zip(counts) {
            for index in 0..count {
                let (port, admin) = (free_port().expect("a free port"), free_port().expect("a free port"));
                let links = if stack.options.proxied { Some(stack.links().await) } else { None };
                let name = format!("{}-{}", kind.program(), index + 1);
                stack.services.push(Service { kind, name, port, admin, child: None, links });
                stack.launch(stack.services.len() - 1);
            }
        }
        stack
    }

    async fn links(&self) -> Links {
        let proxy = async |url: &str| {
            let address = authority(url).parse().expect("servers of a test are on loopback");
            Proxy::start(address).await.expect("start a proxy")
        };
        let mut nats = Vec::new();
        for server in self.servers() {
            nats.push(proxy(&server.url()).await);
        }
        Links { nats, postgres: proxy(&self.database.url()).await }
    }

    /// Its nats-servers.
    pub fn servers(&self) -> impl Iterator<Item = &NatsServer> {
        std::iter::once(&self.nats).chain(&self.more_nats)
    }

    /// One of its nats-servers.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn server(&mut self, index: usize) -> &mut NatsServer {
        std::iter::once(&mut self.nats).chain(&mut self.more_nats).nth(index).expect("so many nats-servers")
    }

    /// The addresses of its nats-servers, for one of the users of `deploy/nats/accounts.conf`. Without accounts, any
    /// user will do.
    pub fn nats_urls(&self, user: &str) -> Vec<String> {
        self.servers().map(|server| server.url_as(user)).collect()
    }

    fn launch(&mut self, index: usize) {
        let mut nats = self.nats_urls(self.services[index].kind.user());
        let mut database = self.database.url();
        let service = &mut self.services[index];
        if let Some(links) = &service.links {
            for (url, proxy) in nats.iter_mut().zip(&links.nats) {
                *url = url.replace(authority(url), &proxy.addr().to_string());
            }
            database = database.replace(authority(&database), &links.postgres.addr().to_string());
        }
        let program = match &self.options.programs {
            Some(folder) => folder.join(service.kind.program()),
            None => binary(service.kind.program()).expect("the services' folder"),
        };
        let (name, on_line, denied) =
            (service.name.clone(), self.options.on_line.clone(), self.denied.clone());
        let mut program = Program::new(program)
            .env("NATS_URL", nats.join(","))
            .env("ADMIN_ADDR", format!("127.0.0.1:{}", service.admin))
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .output(Output::Lines(Arc::new(move |line| {
                denied.hear(&name, line);
                on_line(&name, line);
            })));
        for variable in [
            "PORT",
            "JWT_PUBLIC_KEY",
            "JWT_JWKS_URL",
            "DATABASE_URL",
            "JWT_SECRET",
            "GATEWAY_ADDR",
            "ALLOWED_ORIGINS",
        ] {
            program = program.env_remove(variable);
        }
        program = match service.kind {
            Kind::Gateway => program
                .env("GATEWAY_ADDR", format!("127.0.0.1:{}", service.port))
                .env("JWT_SECRET", SECRET)
                // Tests talk faster than people.
                .env("FRAME_RATE", "0")
                .env("CONVERSATION_RATE", "0")
                .env("SEND_RATE", "0")
                .env("CALL_RATE", "0")
                .env("READ_RATE", "0")
                .env("SUBSCRIBE_RATE", "0")
                .env("DEMO", "true"),
            Kind::Chat | Kind::Notify => program.env("DATABASE_URL", database),
            Kind::Typing => program,
        };
        for (key, value) in &self.options.env {
            program = program.env(key, value);
        }
        service.child = Some(program.spawn().expect("start a service; are they built?"));
    }

    /// The services: each one's kind, and its place among that kind.
    pub fn services(&self) -> Vec<(Kind, usize)> {
        let kinds = Kind::ALL.into_iter().zip(self.options.counts);
        kinds.flat_map(|(kind, count)| (0..count).map(move |index| (kind, index))).collect()
    }

    /// The proxies of a service.
    ///
    /// # Panics
    /// When the stack has none.
    pub fn links_of(&self, kind: Kind, index: usize) -> &Links {
        self.services[self.position(kind, index)].links.as_ref().expect("a stack with proxies")
    }

    /// The process of a service, for whoever waits for its end; the stack no longer knows it.
    pub fn take(&mut self, kind: Kind, index: usize) -> Option<Child> {
        let position = self.position(kind, index);
        self.services[position].child.take()
    }

    /// Whether a service was started and is still known.
    pub fn runs(&self, kind: Kind, index: usize) -> bool {
        self.services[self.position(kind, index)].child.is_some()
    }

    /// How a service has ended that nobody has asked to.
    pub fn ended_by_itself(&self, kind: Kind, index: usize) -> Option<std::process::ExitStatus> {
        self.services[self.position(kind, index)].child.as_ref()?.status()
    }

    fn position(&self, kind: Kind, index: usize) -> usize {
        let mut positions = (0..self.services.len()).filter(|position| self.services[*position].kind == kind);
        positions.nth(index).expect("a service of that kind")
    }

    fn child(&self, kind: Kind, index: usize) -> &Child {
        self.services[self.position(kind, index)].child.as_ref().expect("a service that was started")
    }

    /// Kills a service with -9.
    pub async fn kill(&mut self, kind: Kind, index: usize) {
        let position = self.position(kind, index);
        if let Some(child) = self.services[position].child.take() {
            child.kill().await;
        }
    }

    /// Asks a service to stop, and returns its exit code.
    pub async fn terminate(&mut self, kind: Kind, index: usize) -> Option<i32> {
        let position = self.position(kind, index);
        let child = self.services[position].child.take()?;
        child.terminate(Signal::Term, Duration::from_secs(35)).await?.code()
    }

    /// Waits for the end of a service, and returns its exit code.
    pub async fn ended(&mut self, kind: Kind, index: usize) -> Option<i32> {
        let position = self.position(kind, index);
        let child = self.services[position].child.take()?;
        crate::within("the end of a service", child.wait()).await?.code()
    }

    /// The process id of a service.
    pub fn pid(&self, kind: Kind, index: usize) -> u32 {
        self.child(kind, index).pid()
    }

    /// Sends a signal to a service.
    pub fn signal(&self, kind: Kind, index: usize, signal: Signal) {
        self.child(kind, index).signal(signal);
    }

    /// Starts a service that has ended; it is not ready yet.
    pub fn restart(&mut self, kind: Kind, index: usize) {
        let position = self.position(kind, index);
        self.launch(position);
    }

    /// Waits until every service that runs is ready.
    pub async fn ready(&self) {
        for service in self.services.iter().filter(|service| service.child.is_some()) {
            let what = format!("{} to be ready", service.kind.program());
            eventually(&what, || async { (self.readyz_of(service).await == Some(200)).then_some(()) }).await;
        }
    }

    async fn readyz_of(&self, service: &Service) -> Option<u16> {
        let url = format!("http://127.0.0.1:{}/readyz", service.admin);
        Some(self.client.get(url).send().await.ok()?.status().as_u16())
    }

    /// The status of a service's `/readyz`, if it answers.
    pub async fn readyz(&self, kind: Kind, index: usize) -> Option<u16> {
        self.readyz_of(&self.services[self.position(kind, index)]).await
    }

    /// The host and port of a service's admin port.
    pub fn admin(&self, kind: Kind, index: usize) -> String {
        format!("127.0.0.1:{}", self.services[self.position(kind, index)].admin)
    }

    /// A number that a service's `/metrics` says; 0 while it says nothing of it.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub async fn metric(&self, kind: Kind, index: usize, name: &str) -> f64 {
        let metrics = self.metrics(kind, index).await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// What a service's `/metrics` says.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub async fn metrics(&self, kind: Kind, index: usize) -> String {
        let url = format!("http://{}/metrics", self.admin(kind, index));
        self.client.get(url).send().await.expect("/metrics").text().await.expect("its text")
    }

    /// The address of a gateway, without a scheme.
    pub fn host(&self, gateway: usize) -> String {
        format!("127.0.0.1:{}", self.services[self.position(Kind::Gateway, gateway)].port)
    }

    /// A socket at the first gateway, such as `/ws/chat/1/`, with a user's token.
    pub async fn socket(&self, path: &str, user: i64) -> Socket {
        self.socket_at(0, path, user).await
    }

    /// A socket at a gateway.
    pub async fn socket_at(&self, gateway: usize, path: &str, user: i64) -> Socket {
        let mark = if path.contains('?') { '&' } else { '?' };
        Socket::open(&format!("ws://{}{path}{mark}token={}", self.host(gateway), token(user))).await
    }

    /// A call to the first gateway in a user's name.
    pub async fn call(&self, method: &str, path: &str, user: i64, body: Option<Value>) -> Answer {
        let url = format!("http://{}{path}", self.host(0));
        let method = method.parse().expect("a method of HTTP");
        let mut request = self.client.request(method, url).bearer_auth(token(user));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// A `GET` in a user's name; the answer must be 200.
    pub async fn get(&self, path: &str, user: i64) -> Value {
        self.call("GET", path, user, None).await.expect(200)
    }

    /// A `POST` in a user's name.
    pub async fn post(&self, path: &str, user: i64, body: Value) -> Answer {
        self.call("POST", path, user, Some(body)).await
    }

    /// The HTTP client, for calls of another kind.
    pub fn http(&self) -> &reqwest::Client {
        &self.client
    }

    /// A conversation of these people.
    pub async fn conversation(&self, users: &[i64]) -> i64 {
        let answer =
            self.post("/api/conversations", users[0], json!({ "participant_ids": &users[1..] })).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        answer.body["conversation_id"].as_i64().expect("a conversation_id")
    }

    /// A client of this stack's NATS that may do everything.
    ///
    /// # Panics
    /// When it can't connect.
    pub async fn backend(&self) -> async_nats::Client {
        let options = self.nats_options("operator");
        options.connect(self.nats_urls("operator")).await.expect("connect to NATS")
    }

    /// How one of the users of `deploy/nats/accounts.conf` connects: async-nats takes no password from an address.
    pub fn nats_options(&self, user: &str) -> async_nats::ConnectOptions {
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), accounts::password(user))
    }
}

/// A token that a user could have.
pub fn token(user: i64) -> String {
    token_with(json!({ "user_id": user, "username": format!("name-{user}"), "iat": testkit::token::now() }))
}

/// A token with these claims, valid for an hour unless they have an `exp`.
///
/// # Panics
/// If the claims are not an object.
pub fn token_with(claims: Value) -> String {
    testkit::token::sign(SECRET, claims, Duration::from_secs(3600)).expect("sign a token")
}

/// The first nats-server, and the others.
async fn nats(options: &Options) -> anyhow::Result<(NatsServer, Vec<NatsServer>)> {
    let nats = NatsOptions { accounts: options.accounts, durable: options.durable, ..NatsOptions::default() };
    if options.servers == 1 {
        return Ok((NatsServer::start_with(nats).await?, Vec::new()));
    }
    let mut others = NatsServer::cluster(options.servers, nats).await?;
    anyhow::ensure!(!others.is_empty(), "a stack has a nats-server");
    Ok((others.remove(0), others))
}

/// A database on a Postgres of its own, or on the one that all tests share.
async fn database(options: &Options) -> anyhow::Result<(TestDatabase, Option<Postgres>)> {
    if !options.own_postgres {
        return Ok((TestDatabase::create().await?, None));
    }
    let own = PostgresOptions { durable: options.durable, ..PostgresOptions::default() };
    let postgres = Postgres::start_with(own).await?;
    Ok((TestDatabase::create_on(postgres.url("postgres")).await?, Some(postgres)))
}

/// The host and port of an address.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// A program of this workspace: beside the folder of the test that runs.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("find this test")?;
    let folder =
        test.parent().and_then(std::path::Path::parent).context("find the folder of the programs")?;
    let program = folder.join(name);
    anyhow::ensure!(program.exists(), "{name} is not built; `cargo xtask test` builds it");
    Ok(program)
}
