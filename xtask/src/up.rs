//! `cargo xtask up`

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::Args;
use sqlx::{Connection, Executor, PgConnection};
use testkit::{NatsOptions, PostgresOptions, free_port, place, ports};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    build, local,
    parts::{Environment, Part, Recipe, Running},
    ready::{Process, Ready, StackState},
    seed, servers,
    token::{self, token},
};

const GATEWAY: &str = "gateway";
const CHAT: &str = "chat-service";
const NOTIFY: &str = "notify-service";
const TYPING: &str = "typing-service";
const NATS: &str = "nats-server";
const POSTGRES: &str = "postgres";
const DATABASE: &str = "vyzio";

/// Run the whole stack on this machine: NATS, Postgres and the four services.
///
/// It runs until Ctrl-C or SIGTERM, on loopback only. A part that dies is restarted. Data is kept between runs in
/// .local, logs are in .local/logs. The services inherit their variables (SEND_RATE, RUST_LOG, JWT_SECRET, …), except
/// for the addresses of NATS, Postgres and the services themselves.
#[derive(Args)]
pub struct Up {
    /// Build and run with optimizations
    #[arg(long)]
    release: bool,
    /// Delete the data of earlier runs first
    #[arg(long)]
    fresh: bool,
    /// Port of the gateway; further gateways use the next free ports
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// Number of gateways
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    gateways: u8,
    /// Number of chat-services
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    chat: u8,
    /// Number of notify-services
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    notify: u8,
    /// Number of typing-services
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    typing: u8,
    /// Write a JSON file with the addresses and process ids, once the stack is ready and after every restart of a part
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

impl Up {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let _only_one = local::lock()?;
        let gateways = self.gateway_ports()?;
        if let Some(file) = &self.ready_file {
            let _ = fs::remove_file(file); // It describes an earlier run.
        }
        if self.fresh {
            local::remove_data()?;
        }
        servers::provide().await?;
        let programs = build::programs(self.release).await?;
        let interrupted = on_interrupt()?;
        tokio::select! {
            () = interrupted.cancelled() => return Ok(ExitCode::SUCCESS),
            stack = Stack::start(&self, &gateways, &programs) => stack?,
        }
        .run(self.ready_file.as_deref(), interrupted)
        .await?;
        Ok(ExitCode::SUCCESS)
    }

    /// Ports of the gateways: the given one, and the next free ones.
    fn gateway_ports(&self) -> anyhow::Result<Vec<u16>> {
        ensure!(ports::is_free(self.port), "port {} is taken; choose another with --port", self.port);
        let further = (self.port..=u16::MAX).skip(1).filter(|port| ports::is_free(*port));
        let ports: Vec<u16> = [self.port].into_iter().chain(further).take(self.gateways.into()).collect();
        ensure!(ports.len() == usize::from(self.gateways), "too few free ports after {}", self.port);
        Ok(ports)
    }
}

/// A token that the first Ctrl-C, SIGTERM or SIGHUP cancels. The second one exits immediately, and thereby ends all
/// children.
fn on_interrupt() -> anyhow::Result<CancellationToken> {
    let interrupted = CancellationToken::new();
    let (sender, mut receiver) = mpsc::channel(4);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, sender) = (signal(kind).context("listen to signals")?, sender.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = sender.try_send(());
            }
        });
    }
    let first = interrupted.clone();
    tokio::spawn(async move {
        receiver.recv().await;
        first.cancel();
        receiver.recv().await;
        std::process::exit(130);
    });
    Ok(interrupted)
}

/// The parts of the stack.
struct Stack {
    state: StackState,
    services: Vec<Part>,
    servers: Vec<(Part, Running)>,
}

impl Stack {
    /// Starts NATS and Postgres, and prepares the services.
    async fn start(up: &Up, gateways: &[u16], programs: &Path) -> anyhow::Result<Self> {
        let postgres = PostgresOptions {
            data: Some(local::postgres_data()),
            port: Some(free_port()?),
            durable: true,
            password: Some(local::postgres_password()?),
            output: None,
        };
        let postgres = Part::new(POSTGRES, 0, 1, Recipe::Postgres(postgres))?;
        let nats = NatsOptions {
            data: Some(local::nats_data()),
            // The default port of every NATS client.
            port: Some(if ports::is_free(4222) { 4222 } else { free_port()? }),
            durable: true,
            ..NatsOptions::default()
        };
        let nats = Part::new(NATS, 0, 1, Recipe::Nats(nats))?;
        let (running_postgres, running_nats) = tokio::try_join!(postgres.start(), nats.start())
            .with_context(|| format!("look at the logs in {}", local::logs().display()))?;
        let (Running::Postgres(server), Running::Nats(broker)) = (&running_postgres, &running_nats) else {
            unreachable!("a running part has the kind of its recipe");
        };
        create_database(&server.url("postgres")).await?;

        let verified_otherwise = ["JWT_PUBLIC_KEY", "JWT_JWKS_URL"].into_iter().any(is_set);
        let http: Vec<String> = gateways.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let not_running = || vec![Process { pid: None, admin: None }];
        let mut ready = Ready {
            http: http[0].clone(),
            ws: http[0].replacen("http", "ws", 1),
            gateways: http,
            nats: broker.url(),
            database: server.url(DATABASE),
            backend_key: (!["BACKEND_KEYS", "BACKEND_KEYS_FILE"].into_iter().any(is_set))
                .then(|| local::BACKEND_KEY.to_owned()),
            jwt_secret: if verified_otherwise { None } else { Some(local::jwt_secret()?) },
            processes: BTreeMap::from([(POSTGRES, not_running()), (NATS, not_running())]),
        };
        let mut services = Vec::new();
        for (kind, count) in
            [(GATEWAY, up.gateways), (CHAT, up.chat), (NOTIFY, up.notify), (TYPING, up.typing)]
        {
            for index in 0..count.into() {
                let admin = format!("127.0.0.1:{}", free_port()?);
                let mut env = environment(kind, &admin, &ready);
                if kind == GATEWAY {
                    env.extend(gateway_environment(gateways, index, &ready));
                }
                let recipe = Recipe::Service(programs.join(kind), env);
                services.push(Part::new(kind, index, count.into(), recipe)?);
                let process = Process { pid: None, admin: Some(format!("http://{admin}")) };
                ready.processes.entry(kind).or_default().push(process);
            }
        }
        let servers = vec![(postgres, running_postgres), (nats, running_nats)];
        Ok(Self { state: StackState::new(ready), services, servers })
    }

    /// Runs the services until an interrupt. Then stops the services first, and the servers after them.
    async fn run(self, ready_file: Option<&Path>, interrupted: CancellationToken) -> anyhow::Result<()> {
        let Self { state, services, servers } = self;
        let (stop_services, stop_servers) = (CancellationToken::new(), CancellationToken::new());
        let mut running_servers = JoinSet::new();
        for (part, running) in servers {
            running_servers.spawn(part.supervise(Some(running), state.clone(), stop_servers.clone()));
        }
        let mut running_services = JoinSet::new();
        for part in services {
            running_services.spawn(part.supervise(None, state.clone(), stop_services.clone()));
        }
        let announcing = state.announce(ready_file, async |first| {
            if first {
                greet(&state.now()).await
            } else {
                println!("The whole stack is ready again.");
                Ok(())
            }
        });
        let done = tokio::select! {
            () = interrupted.cancelled() => Ok(()),
            announced = announcing => announced,
            Some(ended) = running_services.join_next() => ended.context("a supervisor panicked")?,
            Some(ended) = running_servers.join_next() => ended.context("a supervisor panicked")?,
        };
        println!("\nStopping. Press Ctrl-C again to stop immediately.");
        stop_services.cancel();
        while running_services.join_next().await.is_some() {}
        stop_servers.cancel();
        while running_servers.join_next().await.is_some() {}
        done
    }
}

/// Variables with addresses, which are set for each service. All other variables are inherited.
fn environment(kind: &str, admin: &str, ready: &Ready) -> Environment {
    vec![
        ("NATS_URL", Some(ready.nats.clone())),
        ("NATS_CREDS", None),
        ("DATABASE_URL", [CHAT, NOTIFY].contains(&kind).then(|| ready.database.clone())),
        ("ADMIN_ADDR", Some(admin.to_owned())),
        ("PORT", None),
    ]
}

/// Additional variables of gateway number `index`.
fn gateway_environment(ports: &[u16], index: usize, ready: &Ready) -> Environment {
    let mut env = vec![
        ("GATEWAY_ADDR", Some(format!("127.0.0.1:{}", ports[index]))),
        ("DEMO", Some("true".to_owned())),
        ("JWT_SECRET", ready.jwt_secret.clone()),
    ];
    if let Some(key) = &ready.backend_key {
        env.push(("BACKEND_KEYS", Some(format!("local:{key}"))));
    }
    if !is_set("ALLOWED_ORIGINS") {
        let origins = ports.iter().map(|port| format!("http://127.0.0.1:{port},http://localhost:{port}"));
        env.push(("ALLOWED_ORIGINS", Some(origins.collect::<Vec<_>>().join(","))));
    }
    env
}

/// Creates the services' database if it is missing. The services create their schemas.
async fn create_database(url: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await.context("connect to Postgres")?;
    let found = sqlx::query("select from pg_database where datname = $1").bind(DATABASE);
    if connection.fetch_optional(found).await?.is_none() {
        connection.execute("create database vyzio").await.context("create the database")?;
    }
    connection.close().await.context("disconnect from Postgres")
}

/// Creates the demo data, and prints the addresses.
async fn greet(ready: &Ready) -> anyhow::Result<()> {
    let conversation = seed::conversations(&ready.nats).await?;
    let Ready { http, ws, nats, database, .. } = ready;
    let logs = local::logs();
    let logs = logs.strip_prefix(place::workspace()).unwrap_or(&logs).display();
    println!("\nVyzio Realtime is up at {http}.\n");
    if let Some(secret) = &ready.jwt_secret {
        let [a, b] = seed::PEOPLE.map(|(user, name)| token(secret, user, Some(name), token::A_WEEK));
        let (a, b) = (a?, b?);
        let [(_, alice), (_, bruno)] = seed::PEOPLE;
        println!("  Open the inboxes of two users in a browser, side by side:");
        println!("    {alice}: {http}/demo/#me={a}&peer={b}&c={conversation}&nats={nats}");
        println!("    {bruno}: {http}/demo/#me={b}&peer={a}&c={conversation}&nats={nats}\n");
        println!("  As {alice}, in a terminal:");
        println!("    npx wscat -c '{ws}/ws/chat/{conversation}/?token={a}'");
        println!("  As {bruno}:");
        println!("    npx wscat -c '{ws}/ws/chat/{conversation}/?token={b}'");
        println!("  A token for another user:");
        println!("    cargo xtask token --user 456 --username john_doe\n");
    }
    println!("  Publish a notification for {}, as any backend would:", seed::PEOPLE[0].1);
    println!(
        "    nats -s {nats} pub events.payment_completed '{{\"user_id\":1,\"data\":{{\"payment_id\":789}}}}'\n"
    );
    if let Some(key) = &ready.backend_key {
        println!("  The same over HTTP:");
        println!("    curl -H 'Authorization: Bearer {key}' {http}/backend/events/payment_completed \\");
        println!("        --json '{{\"user_id\":1,\"data\":{{\"payment_id\":790}}}}'\n");
    }
    println!("  The database, for psql or an import:");
    println!("    psql {database}\n");
    println!("  Logs are in {logs}; of nats-server and Postgres, only warnings and errors are shown here.");
    println!("  Ctrl-C stops everything. The data is kept; `cargo xtask up --fresh` deletes it first.\n");
    Ok(())
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
