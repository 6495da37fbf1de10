//! Runs cargo to build the workspace's programs.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, ensure};
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
    // The whole workspace, so that the features of shared crates don't depend on the selection.
    let mut args = vec!["build", "--workspace", "--bins"];
    if release {
        args.push("--release");
    }
    let status = cargo(&args).spawn()?.wait().await;
    ensure!(status.is_some_and(|status| status.success()), "the build failed");
    Ok(folder)
}
