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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [count, name, times, ..] if count == "--count" => {
            let mut operation = operation(name);
            (0..times.parse::<u64>().expect("a number of times")).for_each(|_| operation());
        }
        [names, ..] if names == "--names" => NAMES.iter().for_each(|name| println!("{name}")),
        _ => divan::main(),
    }
}
