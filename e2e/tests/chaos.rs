//! A minute of chaos: a program of its own, so that it has the machine for itself.

use e2e::chaos::{Chaos, Counters};
use std::{path::Path, sync::Arc, time::Duration};

/// Another seed each day would make a failure of today one that nobody can repeat tomorrow.
const SEED: u64 = 20_251_209;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered_whatever_breaks() {
    let seconds = std::env::var("CHAOS_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let chaos = Chaos {
        seed: SEED,
        length: Duration::from_secs(seconds),
        logs: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos")),
        ..Chaos::default()
    };
    let report = chaos.run(Arc::new(Counters::default())).await.unwrap();
    println!("{report}");
    assert!(report.is_clean(), "there are violations");
}
