//! Forty-five seconds of faults, and a shorter run on a cluster. It is a separate program, so that nothing else runs on
//! the machine.

use e2e::chaos::{Chaos, Counters, Part};
use std::{path::Path, sync::Arc, time::Duration};

// A fixed seed, so that a failure can be repeated; `CHAOS_SEED` sets another one.
const SEED: u64 = 20_251_209;

/// Makes the tests run one after the other.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn number(key: &str) -> Option<u64> {
    std::env::var(key).ok()?.parse().ok()
}

async fn run(name: &str, length: u64, chaos: Chaos) {
    let _machine = MACHINE.lock().await;
    let chaos = Chaos {
        seed: number("CHAOS_SEED").unwrap_or(SEED),
        length: Duration::from_secs(length),
        logs: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)),
        ..chaos
    };
    let report = chaos.run(Arc::new(Counters::default())).await.expect("the stack to run");
    println!("{report}");
    assert!(report.is_clean(), "the run has violations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_duplicated_or_reordered_during_faults() {
    run("chaos", number("CHAOS_SECONDS").unwrap_or(45), Chaos::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_duplicated_or_reordered_on_a_cluster_that_loses_servers() {
    let parts = vec![Part::Nats, Part::Chat, Part::Notify];
    run("chaos-cluster", 25, Chaos { servers: 3, parts, ..Chaos::default() }).await;
}
