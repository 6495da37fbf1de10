//! Runs as a single self-contained HTML page, with a light and a dark style.

use super::{
    plot::{self, Axis, Bar, Line},
    table::{amount, millis},
};
use crate::run::{GENERATOR, Report, Run};
use std::fmt::Write;

/// Colours of the processes, as numbers in the style sheet.
const COLOURS: [usize; 9] = [0, 1, 2, 3, 4, 5, 7, 8, 9];
/// Colour of the generator.
const GREY: usize = 6;
const STYLE: &str = include_str!("style.css");

/// Creates the page.
pub fn html(report: &Report) -> String {
    let mut out = String::new();
    page(&mut out, report).expect("writing to a String doesn't fail");
    out
}

fn page(out: &mut String, report: &Report) -> std::fmt::Result {
    let Report { began, machine, command, runs } = report;
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Load: {}</title><style>{STYLE}</style></head><body><header><h1>Load report</h1>\
         <p><code>{}</code></p><p class=\"meta\">{}, {} processors ({}), Linux {}</p></header><main>\n",
        escaped(command),
        escaped(command),
        began.split('.').next().unwrap_or(began).replace('T', " "),
        machine.cpus,
        escaped(&machine.model),
        escaped(&machine.kernel)
    )?;
    for group in groups(runs) {
        section(out, &group)?;
    }
    out.push_str("</main></body></html>\n");
    Ok(())
}

/// Groups runs of the same scenario and load.
fn groups(runs: &[Run]) -> Vec<Vec<&Run>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs {
        let same =
            |group: &&mut Vec<&Run>| (&group[0].scenario, &group[0].load) == (&run.scenario, &run.load);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
}

fn section(out: &mut String, runs: &[&Run]) -> std::fmt::Result {
    let first = runs[0];
    writeln!(
        out,
        "<section><h2>{}</h2><p class=\"load\">{}, {} s</p>",
        first.scenario,
        escaped(&first.load),
        first.seconds
    )?;
    let names = names(runs);
    figures(out, runs, &names)?;
    out.push_str("<div class=\"plots\">\n");
    let over_time = runs.iter().any(|run| run.samples.iter().any(|sample| sample.delivered > 0.0));
    if over_time {
        out.push_str(&throughput(runs, &names));
    }
    if runs.iter().any(|run| run.latency.is_some()) {
        out.push_str(&percentiles(runs, &names));
    }
    if over_time && runs.iter().any(|run| run.samples.iter().any(|sample| sample.p50.is_some())) {
        out.push_str(&latency_over_time(runs, &names));
    }
    out.push_str(&processors(runs, &names));
    out.push_str(&memory(runs, &names));
    out.push_str("</div></section>\n");
    Ok(())
}

/// Name of each run: its system, with a number if the system has several runs.
fn names(runs: &[&Run]) -> Vec<String> {
    let name = |(index, run): (usize, &&Run)| {
        let again = runs.iter().filter(|other| other.system == run.system).count() > 1;
        let number = runs[..=index].iter().filter(|other| other.system == run.system).count();
        if again { format!("{} {number}", run.system) } else { run.system.clone() }
    };
    runs.iter().enumerate().map(name).collect()
}

fn figures(out: &mut String, runs: &[&Run], names: &[String]) -> std::fmt::Result {
    out.push_str("<table><thead><tr><th></th>");
    for name in names {
        write!(out, "<th>{name}</th>")?;
    }
    out.push_str("</tr></thead><tbody>\n");
    let mut row = |what: &str, cell: &dyn Fn(&Run) -> (String, bool)| -> std::fmt::Result {
        write!(out, "<tr><th>{what}</th>")?;
        for run in runs {
            let (text, bad) = cell(run);
            write!(out, "<td{}>{text}</td>", if bad { " class=\"bad\"" } else { "" })?;
        }
        out.push_str("</tr>\n");
        Ok(())
    };
    for figure in &runs[0].figures {
        row(&figure.name, &|run| {
            let value = run.figure(&figure.name);
            (value.map_or("–".to_owned(), |value| amount(value, &figure.unit)), false)
        })?;
    }
    let latency = |at: fn(&crate::run::Latency) -> u64| {
        move |run: &Run| {
            (run.latency.as_ref().map_or("–".to_owned(), |latency| millis(at(latency)) + " ms"), false)
        }
    };
    row("p50", &latency(|latency| latency.p50))?;
    row("p99", &latency(|latency| latency.p99))?;
    row("max", &latency(|latency| latency.max))?;
    row("lost · repeated · out of order", &|run| {
        let verdict = run.verdict;
        let text = format!("{} · {} · {}", verdict.lost, verdict.repeated, verdict.out_of_order);
        (text, !verdict.is_clean())
    })?;
    row("errors · sockets closed", &|run| {
        (format!("{} · {}", run.errors, run.closed), run.errors + run.closed > 0)
    })?;
    out.push_str("</tbody></table>\n");
    Ok(())
}

/// Creates a line for each run.
fn line_for_each(
    runs: &[&Run],
    names: &[String],
    suffix: &str,
    dashed: bool,
    points: impl Fn(&Run) -> Vec<(f64, f64)>,
) -> Vec<Line> {
    let line = |(colour, (run, name)): (usize, (&&Run, &String))| Line {
        name: format!("{name}{suffix}"),
        colour,
        dashed,
        points: points(run),
    };
    runs.iter().zip(names).enumerate().map(line).collect()
}

fn bounds(lines: &[Line]) -> (f64, f64, f64) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.1).filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
    (
        points().map(|point| point.0).fold(0.0, f64::max),
        least,
        points().map(|point| point.1).fold(0.0, f64::max),
    )
}

fn throughput(runs: &[&Run], names: &[String]) -> String {
    let lines = line_for_each(runs, names, "", false, |run| {
        run.samples.iter().map(|sample| (sample.at, sample.delivered)).collect()
    });
    let (long, _, most) = bounds(&lines);
    plot::lines("Delivered", &Axis::linear("seconds", long), &Axis::linear("per second", most), &lines)
}

fn latency_over_time(runs: &[&Run], names: &[String]) -> String {
    let at = |micros: fn(&crate::run::Sample) -> Option<u64>| {
        move |run: &Run| {
            let point = |sample| Some((sample_at(sample), micros(sample)?.max(10) as f64 / 1e3));
            run.samples.iter().filter_map(point).collect::<Vec<_>>()
        }
    };
    let mut lines = line_for_each(runs, names, " p50", false, at(|sample| sample.p50));
    lines.extend(line_for_each(runs, names, " p99", true, at(|sample| sample.p99)));
    let (long, least, most) = bounds(&lines);
    let (x, y) = (Axis::linear("seconds", long), Axis::decades("milliseconds", least, most));
    plot::lines("Latency over time", &x, &y, &lines)
}

fn sample_at(sample: &crate::run::Sample) -> f64 {
    sample.at
}

/// Latency by percentile, with the same width for each further nine.
fn percentiles(runs: &[&Run], names: &[String]) -> String {
    let nines = |percentile: f64| 100.0 / (100.0 - percentile).max(1e-4);
    let lines = line_for_each(runs, names, "", false, |run| {
        let Some(latency) = &run.latency else { return Vec::new() };
        // So few samples say nothing about higher percentiles; those would only repeat the maximum.
        let end = 10.0 * latency.count as f64;
        let points = latency.curve.iter().map(|(percentile, micros)| (nines(*percentile), *micros));
        points.filter(|(at, _)| *at <= end).map(|(at, micros)| (at, micros.max(10) as f64 / 1e3)).collect()
    });
    let (far, least, most) = bounds(&lines);
    let all = [
        (0.0, "0"),
        (50.0, "50"),
        (90.0, "90"),
        (99.0, "99"),
        (99.9, "99.9"),
        (99.99, "99.99"),
        (99.999, "99.999"),
    ];
    let needed = all.iter().position(|(percentile, _)| nines(*percentile) >= far).unwrap_or(all.len() - 1);
    let ticks = all[..=needed].iter().map(|(percentile, label)| (nines(*percentile), (*label).to_owned()));
    let x = Axis { name: "percentile", ticks: ticks.collect(), log: true };
    plot::lines("Latency", &x, &Axis::decades("milliseconds", least, most), &lines)
}

/// All processes of these runs with their colours, in order of appearance.
fn process_names(runs: &[&Run]) -> Vec<(String, usize)> {
    let mut names: Vec<(String, usize)> = Vec::new();
    for usage in runs.iter().flat_map(|run| &run.processes) {
        if names.iter().all(|(name, _)| *name != usage.name) {
            let known = names.iter().filter(|(name, _)| name != GENERATOR).count();
            let colour = if usage.name == GENERATOR { GREY } else { COLOURS[known % COLOURS.len()] };
            names.push((usage.name.clone(), colour));
        }
    }
    // The generator comes last, because it is not part of the measured system.
    names.sort_by_key(|(name, _)| name == GENERATOR);
    names
}

/// CPU per sent item or, if nothing was sent, in total.
fn processors(runs: &[&Run], names: &[String]) -> String {
    let each = runs.iter().all(|run| run.sent > 0);
    let bar = |(run, name): (&&Run, &String)| {
        let cost = |seconds: f64| if each { seconds * 1e6 / run.sent as f64 } else { seconds };
        let parts = run.processes.iter().map(|usage| (usage.name.clone(), cost(usage.cpu_seconds))).collect();
        Bar { name: name.clone(), parts }
    };
    let bars: Vec<Bar> = runs.iter().zip(names).map(bar).collect();
    let (title, unit) =
        if each { ("CPU per sent item, by process", "microseconds") } else { ("CPU by process", "seconds") };
    plot::bars(title, unit, &process_names(runs), &bars)
}

fn memory(runs: &[&Run], names: &[String]) -> String {
    let bar = |(run, name): (&&Run, &String)| {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let parts = run.processes.iter().map(|usage| (usage.name.clone(), mib(usage.memory_peak))).collect();
        Bar { name: name.clone(), parts }
    };
    let bars: Vec<Bar> = runs.iter().zip(names).map(bar).collect();
    plot::bars("Peak memory, by process", "MiB", &process_names(runs), &bars)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
