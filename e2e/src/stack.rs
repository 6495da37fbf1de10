//! A stack of one's own: nats-server, a database, and any number of each service.

use crate::{PATIENCE, eventually, http::Answer, socket::Socket};
use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use testkit::{Child, NatsServer, Output, Program, Signal, TestDatabase, free_port};

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
    const ALL: [Self; 4] = [Self::Gateway, Self::Chat, Self::Notify, Self::Typing];

    fn program(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat-service",
            Self::Notify => "notify-service",
            Self::Typing => "typing-service",
        }
    }
}

/// What a stack is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many of each service, in the order of [`Kind`].
    pub counts: [usize; 4],
    /// More variables for every service.
    pub env: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { counts: [1; 4], env: Vec::new() }
    }
}

struct Service {
    kind: Kind,
    port: u16,
    admin: u16,
    child: Option<Child>,
}

/// A whole stack, gone when it is dropped.
pub struct Stack {
    /// Its nats-server.
    pub nats: NatsServer,
    /// Its database.
    pub database: TestDatabase,
    services: Vec<Service>,
    env: Vec<(&'static str, String)>,
    client: reqwest::Client,
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
        let nats = NatsServer::start().await.expect("start nats-server");
        let database = TestDatabase::create().await.expect("create a database");
        let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("an HTTP client");
        let mut stack = Self { nats, database, services: Vec::new(), env: options.env, client };
        for (kind, count) in Kind::ALL.into_iter().zip(options.counts) {
            for _ in 0..count {
                let (port, admin) = (free_port().expect("a free port"), free_port().expect("a free port"));
                stack.services.push(Service { kind, port, admin, child: None });
                stack.launch(stack.services.len() - 1);
            }
        }
        stack
    }

    fn launch(&mut self, index: usize) {
        let (nats, database) = (self.nats.url(), self.database.url());
        let service = &mut self.services[index];
        let mut program = Program::new(binary(service.kind.program()).expect("the services' folder"))
            .env("NATS_URL", nats)
            .env("ADMIN_ADDR", format!("127.0.0.1:{}", service.admin))
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .output(Output::Lines(std::sync::Arc::new(|line| println!("{line}"))));
        for variable in [
            "PORT",
            "JWT_PUBLIC_KEY",
            "DATABASE_URL",
            "JWT_SECRET",
            "GATEWAY_ADDR",
            "ALLOWED_ORIGINS",
            "TOKEN_COOKIE",
        ] {
            program = program.env_remove(variable);
        }
        program = match service.kind {
            Kind::Gateway => program
                .env("GATEWAY_ADDR", format!("127.0.0.1:{}", service.port))
                .env("JWT_SECRET", SECRET)
                .env("DEMO", "true"),
            Kind::Chat | Kind::Notify => program.env("DATABASE_URL", database),
            Kind::Typing => program,
        };
        for (key, value) in &self.env {
            program = program.env(key, value);
        }
        service.child = Some(program.spawn().expect("start a service; are they built?"));
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

    /// What a service's `/metrics` says.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub async fn metrics(&self, kind: Kind, index: usize) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.services[self.position(kind, index)].admin);
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

    /// A client of this stack's NATS, as a backend has it.
    ///
    /// # Panics
    /// When it can't connect.
    pub async fn backend(&self) -> async_nats::Client {
        async_nats::connect(self.nats.url()).await.expect("connect to NATS")
    }
}

/// A token that a user could have.
pub fn token(user: i64) -> String {
    token_with(json!({ "user_id": user, "username": format!("name-{user}") }))
}

/// A token with these claims, and an end in an hour unless they have one.
///
/// # Panics
/// When the claims are no object.
pub fn token_with(mut claims: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let object = claims.as_object_mut().expect("claims are an object");
    object.entry("exp").or_insert_with(|| json!(now + 3600));
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .expect("sign a token")
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
