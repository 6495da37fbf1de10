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
    ready::{Board, Process, Ready},
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
/// It runs until Ctrl-C or SIGTERM, on loopback only. A part that dies is started again. Data is kept between runs
/// under .local, logs are in .local/logs. The services' variables (SEND_RATE, RUST_LOG, JWT_SECRET, …) are passed on
/// to them, except for those that say where NATS, Postgres and the services themselves are.
#[derive(Args)]
pub struct Up {
    /// Build and run with optimizations
    #[arg(long)]
    release: bool,
    /// Forget what earlier runs have stored
    #[arg(long)]
    fresh: bool,
    /// The gateway's port; further gateways take the free ones after it
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// How many gateways to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    gateways: u8,
    /// How many chat-services to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    chat: u8,
    /// How many notify-services to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    notify: u8,
    /// How many typing-services to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    typing: u8,
    /// Write a JSON file that says what runs where, once everything answers and after every restart of a part
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

impl Up {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let _only_one = local::lock()?;
        let gateways = self.gateway_ports()?;
        if let Some(file) = &self.ready_file {
            let _ = fs::remove_file(file); // What an earlier run has said is no longer so.
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

    /// The port of each gateway: the one asked for, and the free ones after it.
    fn gateway_ports(&self) -> anyhow::Result<Vec<u16>> {
        ensure!(ports::is_free(self.port), "port {} is taken; choose another with --port", self.port);
        let further = (self.port..=u16::MAX).skip(1).filter(|port| ports::is_free(*port));
        let ports: Vec<u16> = [self.port].into_iter().chain(further).take(self.gateways.into()).collect();
        ensure!(
            ports.len() == usize::from(self.gateways),
            "there are too few free ports after {}",
            self.port
        );
        Ok(ports)
    }
}

/// Cancelled by the first Ctrl-C, SIGTERM or SIGHUP. The second one ends us at once, and with us all children.
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

/// Everything that runs.
struct Stack {
    board: Board,
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
            // Where every client looks unless told otherwise.
            port: Some(if ports::is_free(4222) { 4222 } else { free_port()? }),
            durable: true,
            ..NatsOptions::default()
        };
        let nats = Part::new(NATS, 0, 1, Recipe::Nats(nats))?;
        let (running_postgres, running_nats) = tokio::try_join!(postgres.start(), nats.start())
            .with_context(|| format!("look at the logs in {}", local::logs().display()))?;
        let (Running::Postgres(server), Running::Nats(broker)) = (&running_postgres, &running_nats) else {
            unreachable!("a part that has started is what it was made of");
        };
        create_database(&server.url("postgres")).await?;

        let verified_otherwise = ["JWT_PUBLIC_KEY", "JWT_JWKS_URL"].into_iter().any(is_set);
        let http: Vec<String> = gateways.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let nobody = || vec![Process { pid: None, admin: None }];
        let mut ready = Ready {
            http: http[0].clone(),
            ws: http[0].replacen("http", "ws", 1),
            gateways: http,
            nats: broker.url(),
            database: server.url(DATABASE),
            jwt_secret: if verified_otherwise { None } else { Some(local::jwt_secret()?) },
            processes: BTreeMap::from([(POSTGRES, nobody()), (NATS, nobody())]),
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
        Ok(Self { board: Board::new(ready), services, servers })
    }

    /// Runs the services until interrupted; then stops them, and after them what they stand on.
    async fn run(self, ready_file: Option<&Path>, interrupted: CancellationToken) -> anyhow::Result<()> {
        let Self { board, services, servers } = self;
        let (stop_services, stop_servers) = (CancellationToken::new(), CancellationToken::new());
        let mut running_servers = JoinSet::new();
        for (part, running) in servers {
            running_servers.spawn(part.supervise(Some(running), board.clone(), stop_servers.clone()));
        }
        let mut running_services = JoinSet::new();
        for part in services {
            running_services.spawn(part.supervise(None, board.clone(), stop_services.clone()));
        }
        let announcing = board.announce(ready_file, async |first| {
            if first {
                greet(&board.now()).await
            } else {
                println!("Everything answers again.");
                Ok(())
            }
        });
        let done = tokio::select! {
            () = interrupted.cancelled() => Ok(()),
            announced = announcing => announced,
            Some(ended) = running_services.join_next() => ended.context("a supervisor panicked")?,
            Some(ended) = running_servers.join_next() => ended.context("a supervisor panicked")?,
        };
        println!("\nStopping. Once more, and it stops at once.");
        stop_services.cancel();
        while running_services.join_next().await.is_some() {}
        stop_servers.cancel();
        while running_servers.join_next().await.is_some() {}
        done
    }
}

/// What every service is told about where it is; everything else it has from our environment.
fn environment(kind: &str, admin: &str, ready: &Ready) -> Environment {
    vec![
        ("NATS_URL", Some(ready.nats.clone())),
        ("NATS_CREDS", None),
        ("DATABASE_URL", [CHAT, NOTIFY].contains(&kind).then(|| ready.database.clone())),
        ("ADMIN_ADDR", Some(admin.to_owned())),
        ("PORT", None),
    ]
}

/// What the `index`th gateway is told besides.
fn gateway_environment(ports: &[u16], index: usize, ready: &Ready) -> Environment {
    let mut env = vec![
        ("GATEWAY_ADDR", Some(format!("127.0.0.1:{}", ports[index]))),
        ("DEMO", Some("true".to_owned())),
        ("JWT_SECRET", ready.jwt_secret.clone()),
    ];
    if !is_set("ALLOWED_ORIGINS") {
        let origins = ports.iter().map(|port| format!("http://127.0.0.1:{port},http://localhost:{port}"));
        env.push(("ALLOWED_ORIGINS", Some(origins.collect::<Vec<_>>().join(","))));
    }
    env
}

/// Creates the services' database where it isn't there yet; the schemas in it are theirs.
async fn create_database(url: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await.context("connect to Postgres")?;
    let found = sqlx::query("select from pg_database where datname = $1").bind(DATABASE);
    if connection.fetch_optional(found).await?.is_none() {
        connection.execute("create database vyzio").await.context("create the database")?;
    }
    connection.close().await.context("disconnect from Postgres")
}

/// Seeds the demo, and says what there is.
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
        println!("  The inboxes of two people, in your browser, side by side:");
        println!("    {alice}: {http}/demo/#me={a}&peer={b}&c={conversation}&nats={nats}");
        println!("    {bruno}: {http}/demo/#me={b}&peer={a}&c={conversation}&nats={nats}\n");
        println!("  As {alice}, in a terminal:");
        println!("    npx wscat -c '{ws}/ws/chat/{conversation}/?token={a}'");
        println!("  As {bruno}:");
        println!("    npx wscat -c '{ws}/ws/chat/{conversation}/?token={b}'");
        println!("  Another's token:");
        println!("    cargo xtask token --user 456 --username john_doe\n");
    }
    println!("  A notification for {}, from any backend:", seed::PEOPLE[0].1);
    println!(
        "    nats -s {nats} pub events.payment_completed '{{\"user_id\":1,\"data\":{{\"payment_id\":789}}}}'\n"
    );
    println!("  What is kept, for psql or an import:");
    println!("    psql {database}\n");
    println!("  Logs are in {logs}; those of nats-server and Postgres are shown here only from warnings up.");
    println!("  Ctrl-C stops everything. The data stays; `cargo xtask up --fresh` starts anew.\n");
    Ok(())
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
