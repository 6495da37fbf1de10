//! The Python client, `clients/python`: a clean environment installs its wheel and runs its tests against a real stack.

use crate::{control, node};
use e2e::{Options, Stack};
use serde_json::json;
use std::path::{Path, PathBuf};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients");

/// Builds the wheel of a package in `clients/` from a copy, `folder/source`, and installs it into a new environment with
/// `packages`, which are arguments of pip. Returns the environment's Python.
///
/// # Errors
/// If Python is missing.
pub async fn installed(package: &str, folder: &Path, packages: &[&str]) -> Result<String, String> {
    node::run("python3", &["-c", "import ensurepip, venv"], folder, &[]).await?;
    let must = async |program: &str, arguments: &[&str]| {
        node::run(program, arguments, folder, &[]).await.unwrap_or_else(|error| panic!("{error}"))
    };
    // A copy, because the build writes beside its sources.
    std::fs::create_dir(folder.join("source")).expect("create a folder");
    node::copy(&Path::new(CLIENTS).join(package), &folder.join("source"));
    must("python3", &["-m", "venv", "venv"]).await;
    let pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"];
    let python = folder.join("venv/bin/python").display().to_string();
    must(&python, &[&pip[..], &["wheel", "--no-deps", "--wheel-dir", "wheels", "./source"]].concat()).await;
    let wheels = std::fs::read_dir(folder.join("wheels")).expect("a folder of wheels");
    let wheels: Vec<PathBuf> = wheels.map(|entry| entry.expect("a wheel").path()).collect();
    assert_eq!(wheels.len(), 1, "{wheels:?}");
    let wheel = wheels[0].to_str().expect("a path");
    must(&python, &[&pip[..], &["install", wheel], packages].concat()).await;
    Ok(python)
}

#[tokio::test]
async fn the_python_clients_wheel_passes_its_tests() {
    let folder = tempfile::tempdir().expect("create a folder");
    let python = match installed("python", folder.path(), &["mypy==2.4.1"]).await {
        Ok(python) => python,
        Err(reason) => return node::skip("the tests of clients/python", &reason),
    };
    let must = async |arguments: &[&str], env: &[(&str, &str)]| {
        let output = node::run(&python, arguments, folder.path(), env).await;
        output.unwrap_or_else(|error| panic!("{error}"))
    };
    must(&["-m", "mypy", "--strict", "source/src", "source/tests"], &[]).await;
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let gateways = [stack.host(0), stack.host(1)];
    let control = control::serve(stack).await;
    let env = json!({ "gateways": gateways, "control": control }).to_string();
    println!("{}", must(&["-X", "dev", "source/tests/test_client.py"], &[("STACK", &env)]).await);
}
