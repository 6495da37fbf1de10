//! CPU time and memory of processes, as reported by Linux.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs};

/// Clock ticks per second, the unit of CPU time in Linux.
const TICKS: f64 = 100.0;

/// A measured process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Name in reports.
    pub name: String,
    /// Process id.
    pub pid: u32,
}

impl Watched {
    /// Creates a measured process.
    pub fn new(name: impl Into<String>, pid: u32) -> Self {
        Self { name: name.into(), pid }
    }
}

/// CPU and memory of a process and its children so far.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Used {
    /// CPU time in seconds.
    pub cpu: f64,
    /// Memory in bytes. Shared memory is counted once.
    pub memory: u64,
}

/// Resource usage of a process in a measured window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Name of the process.
    pub name: String,
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// Memory in bytes at the start of the window.
    pub memory_before: u64,
    /// Memory in bytes at its end.
    pub memory_after: u64,
    /// Maximum of the sampled memory.
    pub memory_peak: u64,
}

/// Usage of the processes by name. Processes with the same name are added up.
pub fn used(watched: &[Watched]) -> BTreeMap<String, Used> {
    let mut all: BTreeMap<String, Used> = BTreeMap::new();
    for process in watched {
        let used = of_process_tree(process.pid);
        let entry = all.entry(process.name.clone()).or_default();
        entry.cpu += used.cpu;
        entry.memory += used.memory;
    }
    all
}

/// Usage of a process and its children (Postgres has one for each connection). Our own children are not counted.
fn of_process_tree(pid: u32) -> Used {
    let mut pids = vec![pid];
    if pid != std::process::id() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    let (mut private, mut shared) = (0, 0);
    let mut cpu = 0.0;
    for pid in pids {
        cpu += cpu_of(pid).unwrap_or(0.0);
        let memory = memory_of(pid);
        private += memory.0;
        shared = shared.max(memory.1);
    }
    Used { cpu, memory: private + shared }
}

/// CPU seconds of a process and, unless it is this one, of its children that have ended.
fn cpu_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let kinds = if pid == std::process::id() { 2 } else { 4 };
    let ticks = fields.split_whitespace().skip(11).take(kinds).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS)
}

/// Resident memory of a process in bytes: private, and possibly shared.
fn memory_of(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let bytes = |name| field(name).unwrap_or(0) * 1024;
    (bytes("RssAnon:"), bytes("RssFile:") + bytes("RssShmem:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_is_measured_as_cpu_and_memory() {
        let us = [Watched::new("us", std::process::id())];
        let before = used(&us)["us"];
        let began = Instant::now();
        let mut held = Vec::new();
        while began.elapsed().as_millis() < 300 {
            held.push(fastrand::u64(..));
        }
        let after = used(&us)["us"];
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.memory > 1 << 20);
    }
}
