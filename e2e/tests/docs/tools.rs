//! What other backends are written with: each is installed once, below cargo's target folder, at an exact version.

use crate::snippets::snippet;
use e2e::Stack;
use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// What Python finds installed.
pub const PIP: [&str; 9] = [
    "nats-py==2.16.0",
    "Django==5.2.19",
    "psycopg[binary]==3.3.9",
    "djangorestframework-simplejwt==5.5.1",
    "cryptography==50.0.2",
    "websockets==17.4",
    "openapi-spec-validator==0.9.0",
    "check-jsonschema==0.39.0",
    "schemathesis==4.32.5",
];
const NPM: [&str; 5] = [
    "@nats-io/transport-node@3.4.0",
    "@nats-io/jetstream@3.4.0",
    "ws@8.23.0",
    "wscat@6.1.0",
    "@asyncapi/specs@6.11.1",
];
const NATS: &str = "github.com/nats-io/natscli/nats@v0.4.0";
/// How long an installation or a snippet may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A program to run.
pub struct Tool {
    program: OsString,
    folder: PathBuf,
    arguments: Vec<OsString>,
    input: bool,
}

impl Tool {
    /// It, to be run in this folder.
    pub fn new(program: impl AsRef<Path>, folder: &Path) -> Self {
        Self {
            program: program.as_ref().into(),
            folder: folder.to_owned(),
            arguments: Vec::new(),
            input: false,
        }
    }

    /// With a snippet, which is written to the folder under its own name.
    pub fn script(program: &Path, folder: &Path, name: &str) -> Self {
        fs::write(folder.join(name), snippet(name)).expect("write a snippet");
        Self::new(program, folder).arg(name)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds several.
    pub fn args<const N: usize>(self, arguments: [&str; N]) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// With an input that doesn't end, as a terminal's.
    pub fn with_input(self) -> Self {
        Self { input: true, ..self }
    }

    /// Runs it to its end: what it printed, or what it said when it failed.
    pub async fn output(self, env: &[(&str, &str)]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder).envs(env.iter().copied());
        command.env_remove("PYTHONPATH").kill_on_drop(true);
        command.stdin(if self.input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = self.program.to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let _input = child.stdin.take();
        let output = match tokio::time::timeout(PATIENCE, child.wait_with_output()).await {
            Ok(output) => output.map_err(|error| format!("{name}: {error}"))?,
            Err(_) => return Err(format!("{name} did not end in {PATIENCE:?}")),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        Err(format!("{name}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    async fn try_out(self) -> Result<(), String> {
        self.output(&[]).await.map(drop).map_err(|error| error.lines().next().unwrap_or_default().to_owned())
    }
}

/// Runs a tool that finds the stack's NATS, and returns what it printed.
///
/// # Panics
/// When it fails.
pub async fn run(tool: Tool, stack: &Stack, env: &[(&str, &str)]) -> String {
    let url = stack.nats_urls("operator").join(",");
    let env = [env, &[("NATS_URL", url.as_str())]].concat();
    tool.output(&env).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Says loudly that something was not tested.
pub fn skip(what: &str, why: &str) {
    // Not captured, as what a test prints is.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {what}: {why} ***\n\n").as_bytes()).ok();
}

/// Where cargo has put the programs of this workspace.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    test.parent().and_then(Path::parent).expect("the folder of the programs").to_owned()
}

/// Where tools are installed.
fn place(name: &str) -> PathBuf {
    let place = target().parent().expect("the target folder").join("tools").join(name);
    fs::create_dir_all(&place).expect("create a folder for tools");
    place
}

/// Installs into a folder, unless exactly this was installed there; whoever asks at the same time waits.
async fn once(place: &Path, what: &str, install: impl AsyncFnOnce() -> Result<(), String>) {
    let lock = fs::File::create(place.join(".lock")).expect("create a lock");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("a thread");
    let _lock = lock.expect("lock a folder of tools");
    let done = place.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == what) {
        return;
    }
    install().await.unwrap_or_else(|error| panic!("install {what}: {error}"));
    fs::write(done, what).expect("note what is installed");
}

/// Whether a program is there, or why not.
pub async fn there(program: &str, argument: &str) -> Result<(), String> {
    Tool::new(program, Path::new("/")).arg(argument).try_out().await
}

/// A Python with what backends use, or why there is none.
pub async fn python() -> Result<PathBuf, String> {
    let place = place("python");
    Tool::new("python3", &place).args(["-c", "import ensurepip, venv"]).try_out().await?;
    once(&place, &PIP.join(" "), async || {
        Tool::new("python3", &place).args(["-m", "venv", "--clear", "venv"]).output(&[]).await?;
        let pip =
            Tool::new("venv/bin/pip", &place).args(["install", "--quiet", "--disable-pip-version-check"]);
        pip.args(PIP).output(&[]).await.map(drop)
    })
    .await;
    Ok(place.join("venv/bin/python"))
}

/// A Node and a folder in which it finds NATS' packages, or why there is none.
pub async fn node() -> Result<(PathBuf, PathBuf), String> {
    let place = place("node");
    Tool::new("node", &place).arg("--version").try_out().await?;
    Tool::new("npm", &place).arg("--version").try_out().await?;
    once(&place, &NPM.join(" "), async || {
        fs::write(place.join("package.json"), r#"{"private": true}"#).map_err(|error| error.to_string())?;
        let npm = Tool::new("npm", &place).args(["install", "--no-audit", "--no-fund", "--save-exact"]);
        npm.args(NPM).output(&[]).await.map(drop)
    })
    .await;
    Ok(("node".into(), place))
}

/// A folder with the `nats` tool, or why there is none.
pub async fn nats() -> Result<PathBuf, String> {
    let place = place("nats");
    let on_path = Tool::new("nats", &place).arg("--version").try_out().await;
    if let Err(why) = Tool::new("go", &place).arg("version").try_out().await {
        return on_path.map(|()| place).map_err(|_| format!("neither nats nor go is there ({why})"));
    }
    once(&place, NATS, async || {
        let bin = place.to_string_lossy().into_owned();
        Tool::new("go", &place).args(["install", NATS]).output(&[("GOBIN", &bin)]).await.map(drop)
    })
    .await;
    Ok(place)
}
