//! Tests each alert with promtool on made-up series, and compares the alerts with the operators' guide.

use crate::tools::{installed, must, root};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

const TESTS: &str = "deploy/observability/tests";

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(root().join(path)).unwrap()).unwrap()
}

/// Paths of the files with promtool's tests.
fn test_files() -> Vec<String> {
    let entries = fs::read_dir(root().join(TESTS)).unwrap();
    entries.map(|entry| format!("{TESTS}/{}", entry.unwrap().file_name().to_str().unwrap())).collect()
}

/// The alerts by name.
fn alerts() -> BTreeMap<String, Value> {
    let file = yaml("deploy/observability/alerts.yml");
    let rules =
        file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone())).collect()
}

/// A test of promtool that expects an alert to fire, or not to.
struct Case {
    alert: String,
    /// Labels of the firing alert; `None` if it is silent.
    firing: Option<BTreeSet<String>>,
}

/// Every test of promtool. Each is about one alert and has series.
fn cases() -> Vec<Case> {
    let files = test_files();
    let tests = files.iter().flat_map(|file| yaml(file)["tests"].as_array().unwrap().clone());
    let of_test = |test: Value| {
        let name = test["name"].as_str().unwrap();
        assert!(!test["input_series"].as_array().unwrap().is_empty(), "{name} has no series");
        let [check] = &test["promql_expr_test"].as_array().unwrap()[..] else { panic!("{name}: one check") };
        let expression = check["expr"].as_str().unwrap();
        let samples = check["exp_samples"].as_array().unwrap();
        // A silent alert must not have fired before either.
        let (start, end) = if samples.is_empty() { ("present_over_time(", "[1h])") } else { ("", "") };
        let alert = expression
            .strip_prefix(&format!("{start}ALERTS{{alertname=\""))
            .and_then(|rest| rest.strip_suffix(&format!("\",alertstate=\"firing\"}}{end}")))
            .unwrap_or_else(|| panic!("{name} asks for {expression}"));
        assert!(name.starts_with(&format!("{alert} ")), "{name} is about {alert}");
        let firing = samples.first().map(|sample| {
            let labels = sample["labels"].as_str().unwrap();
            labels.split(['{', ',']).filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect()
        });
        Case { alert: alert.to_owned(), firing }
    };
    tests.map(of_test).collect()
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let Some(mut promtool) = installed("promtool") else { return };
    must(promtool.args(["test", "rules"]).args(test_files()));
}

#[test]
fn every_alert_has_a_firing_and_a_silent_case() {
    let cases = cases();
    let alerts = alerts();
    let unknown: Vec<_> =
        cases.iter().map(|case| &case.alert).filter(|name| !alerts.contains_key(*name)).collect();
    assert_eq!(unknown, [] as [&String; 0], "no such alerts");
    let lacking: Vec<_> = alerts
        .keys()
        .flat_map(|name| {
            let has = |fires| cases.iter().any(|case| case.alert == *name && case.firing.is_some() == fires);
            let lacks_firing = (!has(true)).then(|| format!("{name} lacks a firing case"));
            let lacks_silent = (!has(false)).then(|| format!("{name} lacks a silent case"));
            lacks_firing.into_iter().chain(lacks_silent)
        })
        .collect();
    assert_eq!(lacking, [] as [&str; 0]);
}

/// A label that the expression has aggregated away would leave a gap in the text.
#[test]
fn every_label_in_the_text_of_an_alert_is_there_when_it_fires() {
    let alerts = alerts();
    let cases = cases();
    for (name, rule) in &alerts {
        let text = rule["annotations"].to_string();
        let named: BTreeSet<_> = text
            .split("$labels.")
            .skip(1)
            .map(|rest| {
                rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next().unwrap()
            })
            .collect();
        let firing = cases.iter().filter(|case| case.alert == *name).filter_map(|case| case.firing.as_ref());
        let present: BTreeSet<_> = firing.flatten().map(String::as_str).collect();
        let missing: Vec<_> = named.difference(&present).collect();
        assert!(missing.is_empty(), "{name} names {missing:?}, but fires with {present:?}");
    }
}

#[test]
fn every_alert_has_an_action_and_a_row_in_the_operators_guide() {
    let guide = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, section) = guide.split_once("\n## Alerts\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let documented: BTreeSet<(String, String)> = section
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("`, ")?;
            Some((name.to_owned(), rest.split_once(" |")?.0.to_owned()))
        })
        .collect();
    let severity = |rule: &Value| rule["labels"]["severity"].as_str().unwrap().to_owned();
    let defined: BTreeSet<_> = alerts().iter().map(|(name, rule)| (name.clone(), severity(rule))).collect();
    assert_eq!(documented, defined);
    for (name, rule) in alerts() {
        for annotation in ["summary", "action"] {
            assert!(rule["annotations"][annotation].is_string(), "{name} has no {annotation}");
        }
    }
}
