//! Runs cargo to build the workspace's programs.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context, ensure};
use e2e::Kind;
use testkit::{Output, Program, place};

/// Cargo in the workspace, with visible output. It ends with us.
pub fn cargo(args: &[&str]) -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let program = Program::new(cargo).args(args).folder(place::workspace()).output(Output::Inherit);
    // Cargo's variables about the package xtask must not reach the packages that are built now.
    let ours = std::env::vars_os().map(|(key, _)| key).filter(|key| {
        let key = key.to_string_lossy();
        key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") || key == "CARGO_BIN_NAME"
    });
    ours.fold(program, Program::env_remove)
}

/// Builds all programs of the workspace. Returns their folder.
pub async fn programs(release: bool) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("find our own program")?;
    let profiles = program
        .parent()
        .and_then(|folder| folder.parent())
        .context("cargo's program is not in the usual folder")?;
    let folder = profiles.join(if release { "release" } else { "debug" });
    build(release, |cargo| cargo).await?;
    Ok(folder)
}

/// Builds all programs of another revision of this repository, below `target/revisions`. Returns their folder.
pub async fn programs_of(revision: &str, release: bool) -> anyhow::Result<PathBuf> {
    let commit = git(&["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")])
        .with_context(|| format!("find the revision {revision}"))?;
    let revisions = place::workspace().join("target/revisions");
    let source = revisions.join(commit.trim());
    let path = source.to_str().context("the workspace's path is not UTF-8")?;
    if !source.is_dir() {
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--detach", path, commit.trim()])?;
    }
    // One target folder for all revisions, which share most dependencies; the programs are copied out of it.
    let target = revisions.join("target");
    build(release, |cargo| cargo.folder(&source).env("CARGO_TARGET_DIR", &target)).await?;
    let programs = source.join("target");
    std::fs::create_dir_all(&programs).context("create the folder of the programs")?;
    for service in Kind::ALL.map(Kind::program) {
        let built = target.join(if release { "release" } else { "debug" }).join(service);
        std::fs::copy(&built, programs.join(service)).with_context(|| format!("copy {service}"))?;
    }
    Ok(programs)
}

async fn build(release: bool, configure: impl FnOnce(Program) -> Program) -> anyhow::Result<()> {
    // The whole workspace, so that the features of shared crates don't depend on the selection.
    let mut args = vec!["build", "--workspace", "--bins"];
    if release {
        args.push("--release");
    }
    let status = configure(cargo(&args)).spawn()?.wait().await;
    ensure!(status.is_some_and(|status| status.success()), "the build failed");
    Ok(())
}

fn git(args: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new("git").args(args).current_dir(place::workspace()).output().context("run git")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
