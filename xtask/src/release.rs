//! `cargo xtask release`

use std::{fs, process::ExitCode};

use anyhow::Context;
use clap::Args;
use testkit::place;
use time::{Date, format_description::well_known::Iso8601};

use crate::source::Source;

/// Check that the checkout can be released, or print the notes of its release.
///
/// A release is a commit with a tag: `v` and the version. `cargo release` makes both; see CONTRIBUTING.md.
#[derive(Args)]
pub struct Release {
    /// Check that every file is committed, that clients/js has the version of Cargo.toml, and that CHANGELOG.md has a
    /// section with that version and a date
    #[arg(long, required_unless_present = "notes", conflicts_with = "notes")]
    check: bool,
    /// Also check that this is the tag of the version
    #[arg(long, value_name = "TAG", requires = "check")]
    tag: Option<String>,
    /// Print the section of CHANGELOG.md with the version
    #[arg(long)]
    notes: bool,
}

impl Release {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let source = Source::read()?;
        let version = source.version();
        let changelog = read("CHANGELOG.md")?;
        if self.notes {
            let notes = notes(&changelog, version);
            println!("{}", notes.with_context(|| format!("CHANGELOG.md has no section {version}"))?);
            return Ok(ExitCode::SUCCESS);
        }
        let package = read("clients/js/package.json")?;
        let mut problems = problems(version, &package, &changelog);
        if !source.is_committed() {
            problems.push("some files are not committed".to_owned());
        }
        if let Some(tag) = self.tag.filter(|tag| *tag != format!("v{version}")) {
            problems.push(format!("the tag is {tag}; it should be v{version}"));
        }
        for problem in &problems {
            eprintln!("{problem}");
        }
        if problems.is_empty() {
            println!("{version} can be released");
        }
        Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(place::workspace().join(path)).with_context(|| format!("read {path}"))
}

/// What disagrees with the version.
fn problems(version: &str, package: &str, changelog: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let package: serde_json::Value = serde_json::from_str(package).unwrap_or_default();
    if package["version"] != version {
        problems
            .push(format!("clients/js/package.json has the version {}, not {version}", package["version"]));
    }
    if notes(changelog, version).is_none() {
        problems.push(format!("CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` with entries"));
    }
    problems
}

/// The text of a version's section, if that has a date and entries.
fn notes<'a>(changelog: &'a str, version: &str) -> Option<&'a str> {
    let heading = format!("[{version}] - ");
    let mut sections = changelog.split("\n## ").skip(1);
    let (date, text) = sections.find_map(|section| section.strip_prefix(&heading)?.split_once('\n'))?;
    Date::parse(date, &Iso8601::DATE).ok()?;
    Some(text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = r#"{"version": "1.2.3"}"#;
    const CHANGELOG: &str = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-28\n\n### Fixed\n\n- A thing.\n\n\
                             ## [1.2.2] - 2026-11-27\n\n- Another.\n";

    #[test]
    fn the_checkout_has_one_version_and_notes_for_it() {
        let version = env!("CARGO_PKG_VERSION");
        let (package, changelog) = (read("clients/js/package.json").unwrap(), read("CHANGELOG.md").unwrap());
        assert_eq!(problems(version, &package, &changelog), [] as [&str; 0]);
    }

    #[test]
    fn notes_end_where_the_next_version_begins() {
        assert_eq!(notes(CHANGELOG, "1.2.3"), Some("### Fixed\n\n- A thing."));
        assert_eq!(notes(CHANGELOG, "1.2.2"), Some("- Another."));
    }

    #[test]
    fn another_version_or_a_missing_section_is_a_problem() {
        assert_eq!(problems("1.2.3", PACKAGE, CHANGELOG), [] as [&str; 0]);
        assert_eq!(problems("1.2.4", PACKAGE, CHANGELOG).len(), 2);
        for section in
            ["## [1.2.3]\n\n- A thing.\n", "## [1.2.3] - soon\n\n- A thing.\n", "## [1.2.3] - 2026-11-28\n"]
        {
            let found = problems("1.2.3", PACKAGE, &format!("# Changelog\n\n{section}"));
            assert!(found.len() == 1 && found[0].starts_with("CHANGELOG.md"), "{section}: {found:?}");
        }
    }
}
