//! The source that images are built from: its version, commit and time.

use std::process::Command;

use anyhow::Context;
use testkit::place;

/// The checkout.
pub struct Source {
    version: String,
    commit: Option<String>,
    is_dirty: bool,
    time: Option<i64>,
}

impl Source {
    pub fn read() -> anyhow::Result<Self> {
        let commit = git(&["rev-parse", "HEAD"]);
        let is_dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
        let time = git(&["log", "-1", "--format=%ct"]).and_then(|seconds| seconds.parse().ok());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { version, commit, is_dirty, time })
    }

    /// The commit, in short: the same source has the same tag.
    pub fn tag(&self) -> Option<String> {
        let commit = self.commit.as_ref()?.get(..12)?;
        Some(if self.is_dirty { format!("{commit}-dirty") } else { commit.to_owned() })
    }

    /// The arguments of the Dockerfile that describe the source.
    pub fn build_args(&self) -> Vec<String> {
        let mut arguments = vec![format!("VERSION={}", self.version)];
        if let Some(commit) = &self.commit {
            let dirty = if self.is_dirty { "-dirty" } else { "" };
            arguments.push(format!("GIT_COMMIT={commit}{dirty}"));
        }
        if let Some(time) = self.time {
            arguments.push(format!("SOURCE_DATE_EPOCH={time}"));
            if let Ok(created) = rfc3339(time) {
                arguments.push(format!("CREATED={created}"));
            }
        }
        arguments
    }
}

fn rfc3339(seconds: i64) -> anyhow::Result<String> {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds)?;
    time.format(&time::format_description::well_known::Rfc3339).context("format a time")
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(place::workspace()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
