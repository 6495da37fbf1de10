//! Benchmarks of the functions on the path of every message to inboxes: see `gateway/benches/hot.rs`.

use divan::Bencher;
use notify_service::bench::{NAMES, operation};

#[divan::bench(args = NAMES)]
fn hot(bencher: Bencher<'_, '_>, name: &str) {
    let mut operation = operation(name);
    bencher.bench_local(&mut *operation);
}

fn main() {
    if !testkit::bench::counted(&NAMES, operation) {
        divan::main();
    }
}
