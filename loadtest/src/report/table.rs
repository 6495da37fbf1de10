//! Runs as text, in the form that a document takes as well.

use crate::run::{GENERATOR, Run};
use std::fmt::Write;

/// A run's figures, latencies and processes.
pub fn table(run: &Run) -> String {
    let mut out = String::new();
    write(&mut out, run).expect("a String takes everything");
    out
}

fn write(out: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(out, "{} on {}: {}, {} s\n", run.scenario, run.system, run.load, run.seconds)?;
    let rows: Vec<[String; 2]> =
        run.figures.iter().map(|figure| [figure.name.clone(), amount(figure.value, &figure.unit)]).collect();
    aligned(out, ["figure", ""], &rows)?;
    if let Some(latency) = &run.latency {
        let at = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(millis);
        let rows = [["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned), at];
        writeln!(out, "\nlatency of {} in ms", latency.count)?;
        aligned(out, rows[0].each_ref().map(String::as_str), &rows[1..])?;
    }
    let verdict = run.verdict;
    writeln!(
        out,
        "\n{} sent, {} delivered; {} lost, {} repeated, {} out of order; {} errors, {} sockets closed\n",
        run.sent, run.delivered, verdict.lost, verdict.repeated, verdict.out_of_order, run.errors, run.closed
    )?;
    let row = |usage: &crate::processes::Usage| {
        let name = if usage.name == GENERATOR { format!("({GENERATOR})") } else { usage.name.clone() };
        [name, format!("{:.2}", usage.cpu_seconds), mib(usage.memory_before), mib(usage.memory_after)]
    };
    let rows: Vec<[String; 4]> = run.processes.iter().map(row).collect();
    aligned(out, ["process", "CPU s", "MiB before", "after"], &rows)
}

/// A table whose columns are as wide as what is in them: the first to the left, numbers to the right.
pub fn aligned<const N: usize>(out: &mut String, head: [&str; N], rows: &[[String; N]]) -> std::fmt::Result {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut line = |cells: [&str; N]| {
        for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
            match index {
                0 => write!(out, "| {cell:<width$} |")?,
                _ => write!(out, " {cell:>width$} |")?,
            }
        }
        writeln!(out)
    };
    line(head)?;
    let mut rule = widths.map(|width| format!("{}:", "-".repeat(width.max(3) - 1)));
    rule[0] = "-".repeat(widths[0].max(3));
    line(rule.each_ref().map(String::as_str))?;
    rows.iter().try_for_each(|row| line(row.each_ref().map(String::as_str)))
}

/// A number with its unit, no more digits than it is good for.
pub fn amount(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        1000.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// Microseconds in milliseconds.
pub fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
