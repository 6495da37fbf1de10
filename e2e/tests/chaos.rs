//! A minute of chaos, and a while on a cluster: a program of its own, so that it has the machine for itself.

use e2e::chaos::{Chaos, Counters, Part};
use std::{path::Path, sync::Arc, time::Duration};

/// Another seed each day would make a failure of today one that nobody can repeat tomorrow.
const SEED: u64 = 20_251_209;

/// One after the other.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn run(name: &str, length: u64, chaos: Chaos) {
    let _machine = MACHINE.lock().await;
    let chaos = Chaos {
        seed: SEED,
        length: Duration::from_secs(length),
        logs: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)),
        ..chaos
    };
    let report = chaos.run(Arc::new(Counters::default())).await.expect("the stack to run");
    println!("{report}");
    assert!(report.is_clean(), "there are violations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_whatever_breaks() {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    run("chaos", seconds, Chaos::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_on_a_cluster_that_loses_its_servers() {
    let parts = vec![Part::Nats, Part::Chat, Part::Notify];
    run("chaos-cluster", 25, Chaos { servers: 3, parts, ..Chaos::default() }).await;
}
