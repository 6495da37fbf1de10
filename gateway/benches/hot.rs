//! Benchmarks of the functions on the path of every message and delivery.
//!
//! `cargo bench -p gateway --features bench` measures times. `cargo xtask bench-check` counts the instructions of
//! `hot --count OPERATION TIMES` with valgrind; unlike times, they do not depend on the load of the machine.

use divan::Bencher;
use gateway::bench::{NAMES, operation};

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
