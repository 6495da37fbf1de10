//! The program `loadtest`, run by `cargo xtask load`.

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use loadtest::{
    comparison, goals,
    peers::Peer,
    report,
    run::{Report, Run},
    scenarios::Scenario,
    seed::{self, Shape},
    system::{self, StackOptions, System},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use sqlx::{Connection, PgConnection};
use std::{fs, path::PathBuf, process::ExitCode, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// Put load on a stack, and measure its cost and whether everything arrives
///
/// Starts a separate stack, a release build with its own NATS and Postgres on free ports, unless --ready-file names a
/// running one.
#[derive(Parser)]
#[command(name = "cargo xtask load", bin_name = "cargo xtask load")]
struct Load {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Measure all goals, some of them against Socket.IO, and print the tables of docs/benchmarks.md
    Goals(Rounds),
    /// Run the same loads on our system and on all peers, and print the table of docs/benchmarks.md
    ///
    /// Centrifugo is included if --peer-path is set. A peer skips the loads that it doesn't support.
    Peers(Rounds),
    /// Compare two reports written with --json
    Compare(Compare),
    /// Fill the database of a running stack with conversations
    Seed(Seed),
}

#[derive(Args)]
struct Rounds {
    /// Number of repetitions; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    repetitions: u8,
    /// Run each load once and briefly, to check that it works
    #[arg(long)]
    quick: bool,
    /// Only commands that contain this text
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

#[derive(Args)]
struct Compare {
    before: PathBuf,
    after: PathBuf,
}

#[derive(Args)]
struct Seed {
    /// URL of the database; by default that of the stack of --ready-file
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Number of conversations
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    conversations: u64,
    /// Number of participants of each conversation; no user is in two
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(2..=100))]
    people: u64,
    /// Total number of messages
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    messages: u64,
    /// Number of notifications of each of these users
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    notifications: u64,
}

#[derive(Args)]
struct Options {
    /// Use the stack of `cargo xtask up` that wrote this file, with its limits
    #[arg(long, value_name = "PATH", global = true)]
    ready_file: Option<PathBuf>,
    /// Also load this system, after ours, and print the ratio; may be repeated
    #[arg(long, value_name = "PEER", global = true)]
    peer: Vec<Peer>,
    /// Path to the program of --peer centrifugo
    #[arg(long, value_name = "PATH", global = true)]
    peer_path: Option<PathBuf>,
    /// Start the services from this folder, to compare two builds
    #[arg(long, value_name = "PATH", global = true)]
    programs: Option<PathBuf>,
    /// Number of gateways to start
    #[arg(long, value_name = "N", default_value_t = 1, global = true, value_parser = clap::value_parser!(u8).range(1..=8))]
    gateways: u8,
    /// Don't wait for the disk in Postgres and NATS
    #[arg(long, global = true)]
    no_fsync: bool,
    /// Write the report to this file as JSON
    #[arg(long, value_name = "PATH", global = true)]
    json: Option<PathBuf>,
    /// Write the report to this file as an HTML page with plots
    #[arg(long, value_name = "PATH", global = true)]
    html: Option<PathBuf>,
}

fn main() -> ExitCode {
    let load = Load::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("start a runtime").and_then(|runtime| {
        let done = LocalSet::new().block_on(&runtime, until_interrupted(load));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Raises the limit of open files, because each socket is a file. Child processes inherit the limit.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("can't raise the limit of open files: {error}");
    }
}

async fn until_interrupted(load: Load) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(load) => done.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn run(Load { command, options }: Load) -> anyhow::Result<()> {
    match command {
        Command::Scenario(scenario) => options.load(&scenario).await,
        Command::Goals(rounds) => rounds.goals(&options).await,
        Command::Peers(rounds) => rounds.peers(&options).await,
        Command::Compare(Compare { before, after }) => {
            let read = |path: &PathBuf| -> anyhow::Result<Report> {
                let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
            };
            print!("{}", report::reports(&read(&before)?.runs, &read(&after)?.runs));
            Ok(())
        }
        Command::Seed(seed) => seed.run(options.ready_file.as_ref()).await,
    }
}

impl Options {
    /// Loads our system, then each peer, and prints how they compare.
    async fn load(&self, scenario: &Scenario) -> anyhow::Result<()> {
        for peer in &self.peer {
            peer.check_scenario(scenario)?;
            peer.check_program(self.peer_path.as_deref())?;
        }
        let began = now()?;
        let mut runs = vec![scenario.run(&self.system(!self.no_fsync).await?.target).await?];
        println!("{}", report::table(&runs[0]));
        for peer in &self.peer {
            let run = scenario.run(&self.start_peer(*peer, !self.no_fsync).await?.target).await?;
            let versions = peer.versions(self.peer_path.as_deref())?;
            println!("{}\nVersions: {}.\n", report::table(&run), versions.join(", "));
            runs.push(run);
        }
        for run in &runs[1..] {
            println!("{}", report::side_by_side(&runs[0], run, [&runs[0].system, &run.system]));
        }
        self.write(began, runs)
    }

    async fn system(&self, durable: bool) -> anyhow::Result<System> {
        if let Some(file) = &self.ready_file {
            return system::running(file);
        }
        let program = std::env::current_exe().context("find our own program")?;
        let options = StackOptions {
            programs: self.programs.clone().or_else(|| program.parent().map(PathBuf::from)),
            gateways: self.gateways.into(),
            durable,
        };
        Ok(system::start(&options).await)
    }

    async fn start_peer(&self, peer: Peer, durable: bool) -> anyhow::Result<System> {
        system::start_peer(peer, durable, self.peer_path.as_deref()).await
    }

    fn write(&self, began: String, runs: Vec<Run>) -> anyhow::Result<()> {
        let report = Report { began, machine: report::machine(), command: command_line(), runs };
        if let Some(path) = &self.json {
            let text = serde_json::to_vec_pretty(&report)?;
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &self.html {
            fs::write(path, report::html(&report)).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

impl Rounds {
    /// Measures the goals.
    async fn goals(&self, options: &Options) -> anyhow::Result<()> {
        let (began, commands) = (now()?, goals::commands());
        let systems = |command: &str| match goals::needs_peer(command) {
            true => vec![None, Some(goals::PEER)],
            false => vec![None],
        };
        let runs = self.all(&commands, systems, options).await?;
        println!("{}\n{}", self.conditions(), goals::table(&runs));
        println!("{}", goals::by_process(&runs).unwrap_or_default());
        options.write(began, runs.into_iter().map(|(_, run)| run).collect())
    }

    /// Measures our system and the peers.
    async fn peers(&self, options: &Options) -> anyhow::Result<()> {
        let (began, commands) = (now()?, comparison::commands());
        let program = options.peer_path.as_deref();
        let mut peers = options.peer.clone();
        if peers.is_empty() {
            peers = Peer::value_variants().to_vec();
            peers.retain(|peer| program.is_some() || *peer != Peer::Centrifugo);
        }
        for peer in &peers {
            peer.check_program(program)?;
        }
        let systems: Vec<Option<Peer>> =
            std::iter::once(None).chain(peers.iter().copied().map(Some)).collect();
        let runs = self.all(&commands, |_| systems.clone(), options).await?;
        let names: Vec<&str> = peers.iter().map(|peer| peer.title()).collect();
        println!("{}\n{}", self.conditions(), comparison::table(&runs, &names));
        for peer in peers {
            println!("{}: {}", peer.name(), peer.versions(program)?.join(", "));
        }
        options.write(began, runs.into_iter().map(|(_, run)| run).collect())
    }

    /// Runs every command on its systems (`None` is ours), as often as configured. Each round runs all commands, so
    /// that a temporary load on the machine doesn't affect all runs of one command.
    async fn all<'a>(
        &self,
        commands: &[&'a str],
        systems: impl Fn(&str) -> Vec<Option<Peer>>,
        options: &Options,
    ) -> anyhow::Result<Vec<(&'a str, Run)>> {
        let mut runs = Vec::new();
        for _ in 0..if self.quick { 1 } else { self.repetitions } {
            for command in commands.iter().copied() {
                if self.filter.as_ref().is_some_and(|filter| !command.contains(filter)) {
                    continue;
                }
                let goals::Line { mut scenario, no_fsync } = goals::line(command);
                let durable = !(no_fsync || options.no_fsync);
                if self.quick {
                    scenario.shorten();
                }
                for system in systems(command) {
                    let system = match system {
                        None => options.system(durable).await?,
                        Some(peer) if peer.check_scenario(&scenario).is_err() => continue,
                        Some(peer) => options.start_peer(peer, durable).await?,
                    };
                    let run = scenario.run(&system.target).await?;
                    if !run.verdict.is_clean() || run.errors + run.closed > 0 {
                        println!("{}", report::table(&run));
                    }
                    runs.push((command, run));
                }
            }
        }
        Ok(runs)
    }

    /// The machine and the number of repetitions.
    fn conditions(&self) -> String {
        let machine = report::machine();
        let times =
            if self.quick { "once, briefly".to_owned() } else { format!("median of {}", self.repetitions) };
        format!("{} processors ({}), Linux {}; {times}\n", machine.cpus, machine.model, machine.kernel)
    }
}

impl Seed {
    async fn run(&self, ready_file: Option<&PathBuf>) -> anyhow::Result<()> {
        let database = match (&self.database, ready_file) {
            (Some(database), _) => database.clone(),
            (None, Some(file)) => {
                system::running(file)?.target.database.clone().context("the stack has no database")?
            }
            (None, None) => anyhow::bail!("set --database or --ready-file"),
        };
        let Self { conversations, people, messages, .. } = *self;
        let mut connection = PgConnection::connect(&database).await.context("connect to Postgres")?;
        let bar = indicatif::ProgressBar::new(messages);
        let shape = Shape { conversations, people, messages };
        let seeded = seed::fill(&mut connection, shape, |done| bar.set_position(done)).await?;
        let seed::Seeded { first_conversation, first_user, first_message, last_message, .. } = seeded;
        let users = conversations * people;
        bar.reset();
        bar.set_length(users * self.notifications);
        seed::fill_inboxes(&mut connection, first_user, users, self.notifications, |done| {
            bar.set_position(done)
        })
        .await?;
        bar.finish_and_clear();
        connection.close().await?;
        println!(
            "Conversations {first_conversation} to {}, users {first_user} to {}, messages {first_message} to \
             {last_message}.",
            first_conversation + i64::try_from(conversations)? - 1,
            first_user + i64::try_from(users)? - 1,
        );
        Ok(())
    }
}

fn now() -> anyhow::Result<String> {
    OffsetDateTime::now_utc().format(&Rfc3339).context("format the time")
}

/// The command line of this process.
fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask load {}", arguments.join(" "))
}
