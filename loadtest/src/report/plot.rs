//! Plots as self-contained SVG.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Height of a bar, and distance between the tops of two bars.
const BAR: f64 = 22.0;
const BAR_STEP: f64 = 36.0;

#[derive(Debug, Clone)]
pub struct Axis {
    /// Title with the unit.
    pub name: &'static str,
    /// Positions and texts of the labels. The first and the last one are the ends of the axis.
    pub ticks: Vec<(f64, String)>,
    /// True for a logarithmic scale.
    pub log: bool,
}

#[derive(Debug, Clone)]
pub struct Line {
    /// Name in the legend.
    pub name: String,
    /// Number of the colour in the style sheet.
    pub colour: usize,
    /// True for a dashed line.
    pub dashed: bool,
    /// Points of the line, sorted along the x axis.
    pub points: Vec<(f64, f64)>,
}

impl Axis {
    /// A linear axis from 0 to at least `most`, with about five labels.
    pub fn linear(name: &'static str, most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (most / step).ceil() as u32;
        let ticks =
            (0..=count).map(|tick| f64::from(tick) * step).map(|value| (value, short(value))).collect();
        Self { name, ticks, log: false }
    }

    /// A logarithmic axis with a label for each power of ten around these values.
    pub fn decades(name: &'static str, least: f64, most: f64) -> Self {
        let (first, last) = (least.max(1e-6).log10().floor(), most.max(1e-6).log10().ceil());
        let last = if last > first { last } else { first + 1.0 };
        let count = (last - first) as u32;
        let ticks = (0..=count).map(|step| 10_f64.powf(first + f64::from(step)));
        Self { name, ticks: ticks.map(|value| (value, short(value))).collect(), log: true }
    }

    fn position(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(1e-9).log10() } else { value };
        let (first, last) = (self.ticks.first(), self.ticks.last());
        let (first, last) = (first.map_or(0.0, |tick| scale(tick.0)), last.map_or(1.0, |tick| scale(tick.0)));
        ((scale(value) - first) / (last - first)).clamp(0.0, 1.0)
    }
}

/// A plot of lines.
pub fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let mut out = String::new();
    draw_lines(&mut out, title, x, y, lines).expect("writing to a String doesn't fail");
    out
}

fn draw_lines(out: &mut String, title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> std::fmt::Result {
    let across = |value: f64| LEFT + x.position(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.position(value) * (HEIGHT - TOP - BOTTOM);
    begin(out, title, HEIGHT)?;
    for (value, label) in &y.ticks {
        let at = up(*value);
        writeln!(
            out,
            r#"<line class="grid" x1="{LEFT}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}"/>"#,
            WIDTH - RIGHT
        )?;
        writeln!(out, r#"<text class="end" x="{:.1}" y="{:.1}">{label}</text>"#, LEFT - 8.0, at + 4.0)?;
    }
    for (value, label) in &x.ticks {
        let (at, below) = (across(*value), HEIGHT - BOTTOM + 16.0);
        writeln!(out, r#"<text class="middle" x="{at:.1}" y="{below:.1}">{label}</text>"#)?;
    }
    writeln!(
        out,
        r#"<text class="middle name" x="{:.1}" y="{:.1}">{}</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0,
        x.name
    )?;
    writeln!(
        out,
        r#"<text class="middle name" transform="translate(13 {:.1}) rotate(-90)">{}</text>"#,
        (HEIGHT - BOTTOM + TOP) / 2.0,
        y.name
    )?;
    for line in lines {
        let mut path = String::new();
        for (index, (at, value)) in line.points.iter().enumerate() {
            write!(path, "{}{:.1} {:.1}", if index == 0 { "M" } else { "L" }, across(*at), up(*value))?;
        }
        let dashed = if line.dashed { " dashed" } else { "" };
        writeln!(
            out,
            r#"<path class="line s{}{dashed}" d="{path}"><title>{}</title></path>"#,
            line.colour, line.name
        )?;
    }
    out.push_str("</svg>\n");
    legend(out, lines.iter().map(|line| (line.name.as_str(), line.colour, line.dashed)))?;
    out.push_str("</figure>\n");
    Ok(())
}

/// A bar with coloured parts.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Label of the bar.
    pub name: String,
    /// Name and value of each part.
    pub parts: Vec<(String, f64)>,
}

/// Plots bars. `names` maps the names of their parts to colours.
pub fn bars(title: &str, unit: &'static str, names: &[(String, usize)], bars: &[Bar]) -> String {
    let mut out = String::new();
    draw_bars(&mut out, title, unit, names, bars).expect("writing to a String doesn't fail");
    out
}

fn draw_bars(
    out: &mut String,
    title: &str,
    unit: &'static str,
    names: &[(String, usize)],
    bars: &[Bar],
) -> std::fmt::Result {
    let total = |bar: &Bar| bar.parts.iter().map(|(_, value)| value).sum::<f64>();
    let x = Axis::linear(unit, bars.iter().map(total).fold(0.0, f64::max));
    let left = 92.0;
    let across = |value: f64| left + x.position(value) * (WIDTH - left - 84.0);
    let height = TOP + bars.len() as f64 * BAR_STEP + BOTTOM;
    begin(out, title, height)?;
    for (value, label) in &x.ticks {
        let (at, foot) = (across(*value), height - BOTTOM);
        writeln!(out, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{foot:.1}"/>"#)?;
        writeln!(out, r#"<text class="middle" x="{at:.1}" y="{:.1}">{label}</text>"#, foot + 16.0)?;
    }
    for (index, bar) in bars.iter().enumerate() {
        let top = TOP + 6.0 + index as f64 * BAR_STEP;
        let middle = top + BAR / 2.0 + 4.0;
        writeln!(out, r#"<text class="end" x="{:.1}" y="{middle:.1}">{}</text>"#, left - 8.0, bar.name)?;
        let mut from = 0.0;
        for (name, value) in &bar.parts {
            let colour = names.iter().find(|(known, _)| known == name).map_or(0, |(_, colour)| *colour);
            let (start, end) = (across(from), across(from + value));
            // A gap between parts, so that they can be distinguished without colours.
            let width = (end - start - 1.5).max(0.0);
            writeln!(
                out,
                r#"<rect class="fill s{colour}" x="{start:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}" rx="2"><title>{name}: {}</title></rect>"#,
                super::table::amount(*value, unit)
            )?;
            from += value;
        }
        let end = across(from) + 8.0;
        let all = super::table::amount(from, "");
        writeln!(out, r#"<text class="value" x="{end:.1}" y="{middle:.1}">{}</text>"#, all.trim())?;
    }
    writeln!(
        out,
        r#"<text class="middle name" x="{:.1}" y="{:.1}">{unit}</text>"#,
        (left + WIDTH - 84.0) / 2.0,
        height - 6.0
    )?;
    out.push_str("</svg>\n");
    legend(out, names.iter().map(|(name, colour)| (name.as_str(), *colour, false)))?;
    out.push_str("</figure>\n");
    Ok(())
}

fn begin(out: &mut String, title: &str, height: f64) -> std::fmt::Result {
    writeln!(out, "<figure><figcaption>{title}</figcaption>")?;
    writeln!(out, r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">"#)
}

fn legend<'a>(out: &mut String, items: impl Iterator<Item = (&'a str, usize, bool)>) -> std::fmt::Result {
    out.push_str("<p class=\"legend\">");
    for (name, colour, dashed) in items {
        let dashed = if dashed { " dashed" } else { "" };
        write!(out, r#"<span><i class="s{colour}{dashed}"></i>{name}</span>"#)?;
    }
    out.push_str("</p>\n");
    Ok(())
}

/// Formats a number for a label.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", trimmed(value / 1e6)),
        1e4.. => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_labels_and_reaches_far_enough() {
        for most in [0.03, 0.7, 1.0, 9.0, 23.0, 48_000.0] {
            let axis = Axis::linear("", most);
            assert!((4..=8).contains(&axis.ticks.len()), "{most}: {:?}", axis.ticks);
            assert!(axis.ticks.last().unwrap().0 >= most);
        }
        let labels: Vec<String> = Axis::decades("", 0.3, 47.0).ticks.into_iter().map(|tick| tick.1).collect();
        assert_eq!(labels, ["0.1", "1", "10", "100"]);
    }
}
