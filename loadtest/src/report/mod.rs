//! Reports of runs.

mod compare;
mod html;
mod plot;
mod table;

pub use compare::{ratio, reports, side_by_side};
pub use html::html;
pub use table::{aligned, amount, table};

use crate::run::Machine;
use std::fs;

/// The machine of this process.
pub fn machine() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        model: model.map_or("unknown", |(_, model)| model).to_owned(),
        kernel: kernel.trim().to_owned(),
    }
}
