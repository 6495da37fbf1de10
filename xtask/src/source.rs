//! Version, commit and time of the checked-out source.

use std::process::Command;

use anyhow::Context;
use testkit::place;

/// The checked-out source.
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

    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether every file is as the commit has it.
    pub fn is_committed(&self) -> bool {
        self.commit.is_some() && !self.is_dirty
    }

    /// Tag with the short commit id: the same source gets the same tag.
    pub fn tag(&self) -> Option<String> {
        let commit = self.commit.as_ref()?.get(..12)?;
        Some(if self.is_dirty { format!("{commit}-dirty") } else { commit.to_owned() })
    }

    /// Arguments of the build command that describe the source.
    pub fn arguments(&self) -> Vec<String> {
        let label = |name: &str, value: &str| format!("--label=org.opencontainers.image.{name}={value}");
        let mut arguments = vec![label("version", &self.version)];
        if let Some(commit) = &self.commit {
            let revision = format!("{commit}{}", if self.is_dirty { "-dirty" } else { "" });
            arguments.push(label("revision", &revision));
            arguments.push(format!("--build-arg=GIT_COMMIT={revision}"));
        }
        if let Some(time) = self.time {
            arguments.push(format!("--build-arg=SOURCE_DATE_EPOCH={time}"));
            arguments.extend(rfc3339(time).map(|created| label("created", &created)));
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
    fn a_modified_checkout_gets_a_different_tag() {
        assert_eq!(source(false).tag().unwrap(), "0123456789ab");
        assert_eq!(source(true).tag().unwrap(), "0123456789ab-dirty");
        assert!(source(true).arguments()[1].ends_with("67-dirty"));
    }

    #[test]
    fn an_image_gets_the_time_of_its_commit() {
        let arguments = source(false).arguments();
        assert!(arguments.contains(&"--build-arg=SOURCE_DATE_EPOCH=1700000000".to_owned()), "{arguments:?}");
        let created = "--label=org.opencontainers.image.created=2023-11-14T22:13:20Z";
        assert!(arguments.contains(&created.to_owned()), "{arguments:?}");
    }
}
