//! Comparison of runs.

use super::table::{aligned, amount};
use crate::run::{Figure, Run};

/// Compares two runs, figure by figure, with the ratio of the second to the first.
pub fn side_by_side(base: &Run, other: &Run, names: [&str; 2]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (figure, theirs) in figures(base).iter().filter_map(|figure| {
        let theirs = figures(other).into_iter().find(|theirs| theirs.name == figure.name)?;
        Some((figure.clone(), theirs))
    }) {
        let ratio = if figure.value == 0.0 { "–".to_owned() } else { ratio(theirs.value / figure.value) };
        rows.push(vec![
            figure.name,
            amount(figure.value, &figure.unit),
            amount(theirs.value, &theirs.unit),
            ratio,
        ]);
    }
    let wrong = |run: &Run| {
        let verdict = run.verdict;
        format!("{} · {} · {}", verdict.lost, verdict.repeated, verdict.out_of_order)
    };
    rows.push(vec!["lost · repeated · out of order".to_owned(), wrong(base), wrong(other), String::new()]);
    let mut out = format!("{}: {}\n\n", base.scenario, base.load);
    aligned(&mut out, &["", names[0], names[1], "ratio"], &rows).expect("writing to a String doesn't fail");
    out
}

/// Figures of a run, including its latencies.
fn figures(run: &Run) -> Vec<Figure> {
    let mut figures = run.figures.clone();
    if let Some(latency) = &run.latency {
        for (name, micros) in [("latency p50", latency.p50), ("latency p99", latency.p99)] {
            figures.push(Figure::cost(name, micros as f64 / 1e3, "ms"));
        }
    }
    figures
}

/// Formats a ratio, with as many digits as are significant.
pub fn ratio(ratio: f64) -> String {
    match ratio {
        10.0.. => format!("{ratio:.0}×"),
        _ => format!("{ratio:.2}×"),
    }
}

/// Compares the runs of two reports, in order. Only runs with the same scenario, load and system are compared.
pub fn reports(before: &[Run], after: &[Run]) -> String {
    let mut left: Vec<&Run> = after.iter().collect();
    let mut out = String::new();
    for run in before {
        let same = |other: &&Run| {
            (&other.scenario, &other.system, &other.load) == (&run.scenario, &run.system, &run.load)
        };
        match left.iter().position(same) {
            Some(position) => {
                out.push_str(&format!(
                    "{} on {}\n",
                    side_by_side(run, left.remove(position), ["before", "after"]),
                    run.system
                ));
            }
            None => {
                out.push_str(&format!("{} on {} ({}): only before\n", run.scenario, run.system, run.load))
            }
        }
    }
    for run in left {
        out.push_str(&format!("{} on {} ({}): only after\n", run.scenario, run.system, run.load));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_have_only_significant_digits() {
        assert_eq!(ratio(0.5), "0.50×");
        assert_eq!(ratio(93.4), "93×");
    }
}
