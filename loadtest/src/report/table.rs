//! Runs as text tables, also used in documents.

use crate::run::{GENERATOR, Run};
use std::fmt::Write;

/// Formats a run's figures, latencies and processes.
pub fn table(run: &Run) -> String {
    let mut out = String::new();
    write(&mut out, run).expect("writing to a String doesn't fail");
    out
}

fn write(out: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(out, "{} on {}: {}, {} s\n", run.scenario, run.system, run.load, run.seconds)?;
    let figure = |figure: &crate::run::Figure| vec![figure.name.clone(), amount(figure.value, &figure.unit)];
    let rows: Vec<Vec<String>> = run.figures.iter().map(figure).collect();
    aligned(out, &["figure", ""], &rows)?;
    if let Some(latency) = &run.latency {
        let at = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(millis);
        writeln!(out, "\nlatency of {} in ms", latency.count)?;
        aligned(out, &["p50", "p90", "p99", "p99.9", "max"], &[at.to_vec()])?;
    }
    let verdict = run.verdict;
    writeln!(
        out,
        "\n{} sent, {} delivered; {} lost, {} repeated, {} out of order; {} errors, {} sockets closed\n",
        run.sent, run.delivered, verdict.lost, verdict.repeated, verdict.out_of_order, run.errors, run.closed
    )?;
    let row = |usage: &crate::processes::Usage| {
        let name = if usage.name == GENERATOR { format!("({GENERATOR})") } else { usage.name.clone() };
        vec![name, format!("{:.2}", usage.cpu_seconds), mib(usage.memory_before), mib(usage.memory_after)]
    };
    let rows: Vec<Vec<String>> = run.processes.iter().map(row).collect();
    aligned(out, &["process", "CPU s", "MiB before", "after"], &rows)
}

/// Writes a table with fitted column widths: the first column is left-aligned, the others right-aligned.
pub fn aligned(out: &mut String, head: &[&str], rows: &[Vec<String>]) -> std::fmt::Result {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count().max(3)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut line = |cells: &[&str]| {
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            match index {
                0 => write!(out, "| {cell:<width$} |")?,
                _ => write!(out, " {cell:>width$} |")?,
            }
        }
        writeln!(out)
    };
    line(head)?;
    let rules: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
    let left = "-".repeat(widths[0]);
    let rule: Vec<&str> =
        std::iter::once(left.as_str()).chain(rules.iter().skip(1).map(String::as_str)).collect();
    line(&rule)?;
    rows.iter().try_for_each(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Formats a number with its unit, with as many digits as are significant.
pub fn amount(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        1000.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

/// Formats microseconds as milliseconds.
pub fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1e3)
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
