//! Cargo, run by cargo.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, ensure};
use testkit::{Output, Program, place};

/// Cargo in the workspace, its output shown. It ends with us.
pub fn cargo(args: &[&str]) -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let program = Program::new(cargo).args(args).folder(place::workspace()).output(Output::Inherit);
    // What cargo said about xtask's own package is not meant for what it builds now.
    let about_us = std::env::vars_os().map(|(key, _)| key).filter(|key| {
        let key = key.to_string_lossy();
        key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") || key == "CARGO_BIN_NAME"
    });
    about_us.fold(program, Program::env_remove)
}

/// Builds every program of the workspace. Returns the folder that they are in.
pub async fn programs(release: bool) -> anyhow::Result<PathBuf> {
    let us = std::env::current_exe().context("find our own program")?;
    let profiles =
        us.parent().and_then(|folder| folder.parent()).context("cargo puts programs into two folders")?;
    let folder = profiles.join(if release { "release" } else { "debug" });
    // The whole workspace, so that the features of what is shared don't depend on what is built.
    let mut args = vec!["build", "--workspace", "--bins"];
    if release {
        args.push("--release");
    }
    let status = cargo(&args).spawn()?.wait().await;
    ensure!(status.is_some_and(|status| status.success()), "the build failed");
    Ok(folder)
}
