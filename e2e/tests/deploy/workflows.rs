//! The workflows of the hosted CI, and Renovate's configuration.

use crate::tools::{ACTIONLINT, go, must, python, root};
use serde_json::Value;
use std::{fs, path::PathBuf};

fn workflows() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(".github/workflows")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// The steps of all jobs of all workflows.
fn steps() -> Vec<Value> {
    let mut steps = Vec::new();
    for path in workflows() {
        let workflow: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let jobs = workflow["jobs"].as_object().unwrap().values();
        steps.extend(jobs.filter_map(|job| job["steps"].as_array()).flatten().cloned());
    }
    steps
}

#[test]
fn actionlint_finds_nothing() {
    let Some(mut actionlint) = go(ACTIONLINT) else { return };
    must(actionlint.args(workflows()));
}

/// So that each step can be tried on any machine.
#[test]
fn each_command_is_a_script_or_an_xtask() {
    let steps = steps();
    let commands: Vec<&str> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        assert!(command.starts_with("cargo xtask ") || command.starts_with(".ci/"), "{command}");
        assert_eq!(command.trim().lines().count(), 1, "{command}");
    }
}

#[test]
fn each_action_is_pinned_to_a_commit() {
    for step in steps() {
        let Some(action) = step["uses"].as_str() else { continue };
        let commit = action.split_once('@').map_or("", |(_, commit)| commit);
        assert!(commit.len() == 40 && commit.chars().all(|char| char.is_ascii_hexdigit()), "{action}");
    }
}

#[test]
fn renovate_takes_its_configuration() {
    let Some(mut check) = python("check-jsonschema") else { return };
    must(check.args(["--builtin-schema", "vendor.renovate", "renovate.json"]));
}
