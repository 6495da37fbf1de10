//! What every message and every delivery goes through.
//!
//! `cargo bench -p gateway --features bench` shows times; `cargo xtask bench-check` has valgrind count the instructions
//! of `hot --count OPERATION TIMES`, which don't depend on what else the machine does.

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
            (0..times.parse::<u64>().expect("how often")).for_each(|_| operation());
        }
        [names, ..] if names == "--names" => NAMES.iter().for_each(|name| println!("{name}")),
        _ => divan::main(),
    }
}
