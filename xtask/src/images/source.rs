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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(is_dirty: bool) -> Source {
        let commit = Some("0123456789abcdef0123456789abcdef01234567".to_owned());
        Source { version: "1.2.3".to_owned(), commit, is_dirty, time: Some(1_700_000_000) }
    }

    #[test]
    fn a_changed_checkout_has_another_tag_than_its_commit() {
        assert_eq!(source(false).tag().unwrap(), "0123456789ab");
        assert_eq!(source(true).tag().unwrap(), "0123456789ab-dirty");
        assert!(source(true).build_args()[1].ends_with("67-dirty"));
    }

    #[test]
    fn an_image_has_the_time_of_its_commit() {
        let arguments = source(false).build_args();
        assert!(arguments.contains(&"SOURCE_DATE_EPOCH=1700000000".to_owned()), "{arguments:?}");
        assert!(arguments.contains(&"CREATED=2023-11-14T22:13:20Z".to_owned()), "{arguments:?}");
    }
}
