//! A stack for one test: nats-server, a database, and any number of replicas of each service.

use crate::{
    TIMEOUT, eventually,
    http::Answer,
    options::{Kind, Options},
    proxy::Proxy,
    socket::Socket,
};
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
    pgbouncer::{PgBouncer, create_roles},
};

/// Key with which the tests sign tokens.
pub const SECRET: &str = "the secret of the end-to-end tests";
/// Key of a backend that may use the whole HTTP API for backends.
pub const BACKEND_KEY: &str = "the-backend-key-of-the-end-to-end-tests";

struct Service {
    kind: Kind,
    name: String,
    port: u16,
    admin: u16,
    /// Whether the next start uses the programs of the other release, if there are any.
    is_other_release: bool,
    /// Environment variables of this service alone.
    env: Vec<(&'static str, String)>,
    child: Option<Child>,
    links: Option<Links>,
}

/// The proxies of one service.
pub struct Links {
    /// One for each nats-server.
    pub nats: Vec<Proxy>,
    /// The proxy of Postgres.
    pub postgres: Proxy,
}

/// A complete stack. Dropping it stops it. Each service has the NATS user of its deployment; if NATS denies a user
/// anything, the test fails.
pub struct Stack {
    /// The nats-server, or the first one of a cluster.
    pub nats: NatsServer,
    /// The other nats-servers of a cluster.
    pub more_nats: Vec<NatsServer>,
    /// The database.
    pub database: TestDatabase,
    /// The stack's own Postgres, if it has one.
    pub postgres: Option<Postgres>, // After `database`, so that it is dropped later.
    pooler: Option<PgBouncer>,
    services: Vec<Service>,
    options: Options,
    client: reqwest::Client,
    denied: Denied,
}

/// Permission violations that services logged.
#[derive(Clone, Default)]
struct Denied(Arc<Mutex<Vec<String>>>);

impl Denied {
    fn record(&self, name: &str, line: &str) {
        // A reply to a request from before a reconnection, which nats-server no longer knows. The requester repeats the
        // request.
        let is_late_reply =
            ["_INBOX.", "_R_."].iter().any(|inbox| line.contains(&format!("Publish to \"{inbox}")));
        if line.to_lowercase().contains("permissions violation") && !is_late_reply {
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
    /// Starts a stack with the default options. It is ready.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a stack with these options. It is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn with(options: Options) -> Self {
        let stack = Self::start_without_waiting(options).await;
        stack.ready().await;
        stack
    }

    /// Starts a stack without waiting until its services are ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn start_without_waiting(options: Options) -> Self {
        let (nats, more_nats) = nats(&options).await.expect("start nats-server");
        let (database, postgres) = database(&options).await.expect("create a database");
        if options.roles {
            create_roles(&database.url()).expect("create the roles of the services");
        }
        let pooler = options.pooled.then(|| PgBouncer::start(&database).expect("start PgBouncer"));
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().expect("an HTTP client");
        let counts = options.counts;
        let (services, denied) = (Vec::new(), Denied::default());
        let mut stack =
            Self { nats, more_nats, database, postgres, pooler, services, options, client, denied };
        for (kind, count) in Kind::ALL.into_iter().zip(counts) {
            for index in 0..count {
                let (port, admin) = (free_port().expect("a free port"), free_port().expect("a free port"));
                let links = if stack.options.proxied { Some(stack.links().await) } else { None };
                let name = format!("{}-{}", kind.program(), index + 1);
                let (is_other_release, env, child) = (index % 2 == 1, Vec::new(), None);
                stack.services.push(Service { kind, name, port, admin, is_other_release, env, child, links });
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

    /// All nats-servers.
    pub fn servers(&self) -> impl Iterator<Item = &NatsServer> {
        std::iter::once(&self.nats).chain(&self.more_nats)
    }

    /// Nats-server with this index.
    ///
    /// # Panics
    /// If there is none.
    pub fn server(&mut self, index: usize) -> &mut NatsServer {
        std::iter::once(&mut self.nats)
            .chain(&mut self.more_nats)
            .nth(index)
            .expect("a nats-server with this index")
    }

    /// Addresses of the nats-servers for a user of `deploy/nats/accounts.conf`. Without accounts, any user name works.
    pub fn nats_urls(&self, user: &str) -> Vec<String> {
        self.servers().map(|server| server.url_as(user)).collect()
    }

    fn launch(&mut self, index: usize) {
        let user = self.services[index].kind.user();
        let mut database = if self.options.roles { self.database.url_as(user) } else { self.database.url() };
        let mut nats = self.nats_urls(user);
        let service = &mut self.services[index];
        if let Some(links) = &service.links {
            for (url, proxy) in nats.iter_mut().zip(&links.nats) {
                *url = url.replace(authority(url), &proxy.addr().to_string());
            }
            database = database.replace(authority(&database), &links.postgres.addr().to_string());
        }
        let other_release = self.options.other_release.as_ref().filter(|_| service.is_other_release);
        service.is_other_release = !service.is_other_release;
        let program = match other_release.or(self.options.programs.as_ref()) {
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
                denied.record(&name, line);
                on_line(&name, line);
            })));
        for variable in [
            "PORT",
            "JWT_PUBLIC_KEY",
            "JWT_JWKS_URL",
            "DATABASE_URL",
            "DATABASE_DIRECT_URL",
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
                // Tests send faster than the limits for users allow.
                .env("FRAME_RATE", "0")
                .env("CONVERSATION_RATE", "0")
                .env("SEND_RATE", "0")
                .env("CALL_RATE", "0")
                .env("READ_RATE", "0")
                .env("SUBSCRIBE_RATE", "0")
                .env("BACKEND_RATE", "0")
                .env("BACKEND_KEYS", format!("shop:{BACKEND_KEY}"))
                .env("DEMO", "true"),
            Kind::Chat | Kind::Notify => match &self.pooler {
                Some(pooler) => program
                    .env("DATABASE_URL", pooler.url(user, &self.database))
                    .env("DATABASE_DIRECT_URL", database),
                None => program.env("DATABASE_URL", database),
            },
            Kind::Typing => program,
        };
        for (key, value) in self.options.env.iter().chain(&service.env) {
            program = program.env(key, value);
        }
        service.child = Some(program.spawn().expect("start a service; are they built?"));
    }

    /// Sets an environment variable for the next start of a service.
    pub fn set_env(&mut self, kind: Kind, index: usize, key: &'static str, value: String) {
        let position = self.position(kind, index);
        self.services[position].env.push((key, value));
    }

    /// Kind and index of each service.
    pub fn services(&self) -> Vec<(Kind, usize)> {
        let kinds = Kind::ALL.into_iter().zip(self.options.counts);
        kinds.flat_map(|(kind, count)| (0..count).map(move |index| (kind, index))).collect()
    }

    /// Proxies of a service.
    ///
    /// # Panics
    /// If the stack has none.
    pub fn links_of(&self, kind: Kind, index: usize) -> &Links {
        self.services[self.position(kind, index)].links.as_ref().expect("a stack with proxies")
    }

    /// Removes the process of a service from the stack and returns it, so that the caller can wait for its end.
    pub fn take(&mut self, kind: Kind, index: usize) -> Option<Child> {
        let position = self.position(kind, index);
        self.services[position].child.take()
    }

    /// Whether a service was started and neither stopped nor taken.
    pub fn runs(&self, kind: Kind, index: usize) -> bool {
        self.services[self.position(kind, index)].child.is_some()
    }

    /// Exit status of a service that ended although the stack did not stop it.
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

    /// Kills a service with SIGKILL.
    pub async fn kill(&mut self, kind: Kind, index: usize) {
        let position = self.position(kind, index);
        if let Some(child) = self.services[position].child.take() {
            child.kill().await;
        }
    }

    /// Sends SIGTERM to a service, waits for its end, and returns its exit code.
    pub async fn terminate(&mut self, kind: Kind, index: usize) -> Option<i32> {
        let position = self.position(kind, index);
        let child = self.services[position].child.take()?;
        child.terminate(Signal::Term, Duration::from_secs(35)).await?.code()
    }

    /// Waits for the end of a service, and returns its exit code.
    pub async fn wait_for_exit(&mut self, kind: Kind, index: usize) -> Option<i32> {
        let position = self.position(kind, index);
        let child = self.services[position].child.take()?;
        crate::within("the end of a service", child.wait()).await?.code()
    }

    /// Process id of a service.
    pub fn pid(&self, kind: Kind, index: usize) -> u32 {
        self.child(kind, index).pid()
    }

    /// Sends a signal to a service.
    pub fn signal(&self, kind: Kind, index: usize, signal: Signal) {
        self.child(kind, index).signal(signal);
    }

    /// Starts a service that has ended, without waiting until it is ready.
    pub fn restart(&mut self, kind: Kind, index: usize) {
        let position = self.position(kind, index);
        self.launch(position);
    }

    /// Waits until every running service is ready.
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

    /// Status of a service's `/readyz`, if it responds.
    pub async fn readyz(&self, kind: Kind, index: usize) -> Option<u16> {
        self.readyz_of(&self.services[self.position(kind, index)]).await
    }

    /// Host and port of a service's admin listener.
    pub fn admin(&self, kind: Kind, index: usize) -> String {
        format!("127.0.0.1:{}", self.services[self.position(kind, index)].admin)
    }

    /// Value of a metric in a service's `/metrics`; 0 if it is not there.
    ///
    /// # Panics
    /// If the service doesn't respond.
    pub async fn metric(&self, kind: Kind, index: usize, name: &str) -> f64 {
        let metrics = self.metrics(kind, index).await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Text of a service's `/metrics`.
    ///
    /// # Panics
    /// If the service doesn't respond.
    pub async fn metrics(&self, kind: Kind, index: usize) -> String {
        let url = format!("http://{}/metrics", self.admin(kind, index));
        self.client.get(url).send().await.expect("/metrics").text().await.expect("its text")
    }

    /// Host and port of a gateway.
    pub fn host(&self, gateway: usize) -> String {
        format!("127.0.0.1:{}", self.services[self.position(Kind::Gateway, gateway)].port)
    }

    /// Opens a socket at the first gateway with a user's token. `path` is, for example, `/ws/chat/1/`.
    pub async fn socket(&self, path: &str, user: i64) -> Socket {
        self.socket_at(0, path, user).await
    }

    /// Opens a socket at a gateway with a user's token.
    pub async fn socket_at(&self, gateway: usize, path: &str, user: i64) -> Socket {
        let mark = if path.contains('?') { '&' } else { '?' };
        Socket::open(&format!("ws://{}{path}{mark}token={}", self.host(gateway), token(user))).await
    }

    /// Calls the first gateway with a user's token.
    pub async fn call(&self, method: &str, path: &str, user: i64, body: Option<Value>) -> Answer {
        let url = format!("http://{}{path}", self.host(0));
        let method = method.parse().expect("a method of HTTP");
        let mut request = self.client.request(method, url).bearer_auth(token(user));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// Sends a `GET` with a user's token. The status must be 200.
    pub async fn get(&self, path: &str, user: i64) -> Value {
        self.call("GET", path, user, None).await.expect(200)
    }

    /// Sends a `POST` with a user's token.
    pub async fn post(&self, path: &str, user: i64, body: Value) -> Answer {
        self.call("POST", path, user, Some(body)).await
    }

    /// Calls the first gateway as a backend with all scopes.
    pub async fn call_as_backend(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let url = format!("http://{}{path}", self.host(0));
        let method = method.parse().expect("a method of HTTP");
        let mut request = self.client.request(method, url).bearer_auth(BACKEND_KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    /// HTTP client for other requests.
    pub fn http(&self) -> &reqwest::Client {
        &self.client
    }

    /// Creates a conversation of these users, or finds it.
    pub async fn conversation(&self, users: &[i64]) -> i64 {
        let answer =
            self.post("/api/conversations", users[0], json!({ "participant_ids": &users[1..] })).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        answer.body["conversation_id"].as_i64().expect("a conversation_id")
    }

    /// Connects to NATS with all permissions.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn backend(&self) -> async_nats::Client {
        let options = self.nats_options("operator");
        options.connect(self.nats_urls("operator")).await.expect("connect to NATS")
    }

    /// Sends a request over NATS with all permissions. Returns the reply, or the refusal as `code: detail`.
    ///
    /// # Errors
    /// If the service refuses the request.
    ///
    /// # Panics
    /// If there is no reply.
    pub async fn request(&self, subject: &'static str, body: &Value) -> Result<Value, String> {
        let backend = self.backend().await;
        let reply = crate::within("a reply", backend.request(subject, body.to_string().into())).await;
        let reply = reply.expect("a reply");
        match reply.headers.and_then(|headers| headers.get("Nats-Service-Error").map(ToString::to_string)) {
            Some(refusal) => Err(refusal),
            None => Ok(serde_json::from_slice(&reply.payload).expect("JSON")),
        }
    }

    /// Connection options for a user of `deploy/nats/accounts.conf`: async-nats takes no password from an address.
    pub fn nats_options(&self, user: &str) -> async_nats::ConnectOptions {
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), accounts::password(user))
    }
}

/// A valid token of a user.
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

/// Starts the nats-servers. Returns the first one and the others.
async fn nats(options: &Options) -> anyhow::Result<(NatsServer, Vec<NatsServer>)> {
    let nats = NatsOptions { accounts: options.accounts, durable: options.durable, ..NatsOptions::default() };
    if options.servers == 1 {
        return Ok((NatsServer::start_with(nats).await?, Vec::new()));
    }
    let mut others = NatsServer::cluster(options.servers, nats).await?;
    anyhow::ensure!(!others.is_empty(), "a stack has a nats-server");
    Ok((others.remove(0), others))
}

/// Creates a database, either on a new Postgres or on the one that all tests share.
async fn database(options: &Options) -> anyhow::Result<(TestDatabase, Option<Postgres>)> {
    if !options.own_postgres {
        return Ok((TestDatabase::create().await?, None));
    }
    let own = PostgresOptions { durable: options.durable, ..PostgresOptions::default() };
    let postgres = Postgres::start_with(own).await?;
    Ok((TestDatabase::create_on(postgres.url("postgres")).await?, Some(postgres)))
}

/// Host and port of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Path of a program of this workspace, in the folder above the running test.
///
/// # Errors
/// If it is not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("find this test")?;
    let folder =
        test.parent().and_then(std::path::Path::parent).context("find the folder of the programs")?;
    let program = folder.join(name);
    anyhow::ensure!(program.exists(), "{name} is not built; `cargo xtask test` builds it");
    Ok(program)
}
