//! What an event costs from its publish to a live socket: CPU time of every process of the stack, at saturation.
//!
//! `cargo build --release --workspace --bins`, then `PROGRAMS=target/release cargo run -p e2e --example events_cost`, with
//! the numbers of events and users where they should be others than 50,000 and 200.
//! Each event has an `event_id`, names one user, and is shown on that user's socket. Commits and acknowledgements don't
//! wait for the disk, which takes time but no CPU. Time waited for is not counted, nor this program's own.

use async_nats::jetstream;
use e2e::{Kind, Options, Stack};
use futures_util::future::join_all;
use serde_json::json;
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};

/// Events that are on their way to JetStream at once.
const UNDER_WAY: usize = 1_000;
/// Events before what is measured: connections, caches and tables are warm.
const WARM_UP: u64 = 5_000;
/// What Linux counts CPU time in, in a second.
const TICKS: f64 = 100.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let events = arguments.next().transpose()?.unwrap_or(50_000);
    let users = arguments.next().transpose()?.unwrap_or(200);
    let programs = std::env::var_os("PROGRAMS").map(fs::canonicalize).transpose()?;
    let on_line = std::sync::Arc::new(|_: &str, _: &str| ());
    let options = Options { own_postgres: true, programs, on_line, ..Options::default() };
    let stack = Stack::with(Options { env: vec![("RUST_LOG", "warn".to_owned())], ..options }).await;
    let shown = Arc::new(AtomicU64::new(0));
    let sockets =
        (1..=users).map(|user| stack.socket("/ws/notifications/", i64::try_from(user).unwrap_or(1)));
    let mut readers = JoinSet::new();
    for mut socket in join_all(sockets).await {
        let shown = shown.clone();
        readers.spawn(async move {
            while socket.receive().await.is_ok() {
                shown.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let jetstream = jetstream::new(stack.backend().await);
    burst(&jetstream, 0..WARM_UP, users, &shown).await?;
    let (before, began) = (cpu(&stack)?, Instant::now());
    burst(&jetstream, WARM_UP..WARM_UP + events, users, &shown).await?;
    let (after, took) = (cpu(&stack)?, began.elapsed());

    println!(
        "{events} events for {users} users with a socket each, {:.0} events/s\n",
        events as f64 / took.as_secs_f64()
    );
    println!("| process | CPU per event, us |\n| --- | ---: |");
    let mut all = 0.0;
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        let each = (after - before) * 1e6 / events as f64;
        all += each;
        println!("| {name} | {each:.1} |");
    }
    println!("| **all** | **{all:.1}** |");
    Ok(())
}

/// Publishes events as fast as JetStream takes them, and waits until all are shown.
async fn burst(
    jetstream: &jetstream::Context,
    numbers: std::ops::Range<u64>,
    users: u64,
    shown: &AtomicU64,
) -> anyhow::Result<()> {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let end = numbers.end;
    let mut acknowledgements = JoinSet::new();
    for number in numbers {
        let event = json!({
            "event_id": format!("event-{number}"),
            "user_id": number % users + 1,
            "data": {"payment_id": number},
        });
        let permit = under_way.clone().acquire_owned().await?;
        let sent = jetstream.publish("events.payment_completed", event.to_string().into()).await?;
        acknowledgements.spawn(async move {
            let stored = sent.await;
            drop(permit);
            stored
        });
        while let Some(stored) = acknowledgements.try_join_next() {
            stored??;
        }
    }
    while let Some(stored) = acknowledgements.join_next().await {
        stored??;
    }
    let began = Instant::now();
    while shown.load(Ordering::Relaxed) < end {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(120), "not all were shown");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Seconds of CPU that each process has used, Postgres with all that it has started.
fn cpu(stack: &Stack) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let postgres = stack.postgres.as_ref().map_or(0, testkit::Postgres::pid);
    let mut family = used(postgres)?;
    for child in fs::read_to_string(format!("/proc/{postgres}/task/{postgres}/children"))?.split_whitespace()
    {
        family += child.parse().map(used)?.unwrap_or(0.0);
    }
    Ok(vec![
        ("nats-server", used(stack.nats.pid())?),
        ("Postgres", family),
        ("notify-service", used(stack.pid(Kind::Notify, 0))?),
        ("gateway", used(stack.pid(Kind::Gateway, 0))?),
        ("chat-service, typing-service", used(stack.pid(Kind::Chat, 0))? + used(stack.pid(Kind::Typing, 0))?),
    ])
}

/// Of one process, and of those that it has started and that have ended.
fn used(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}
