//! Tools and packages of the snippets, with exact versions. Each is installed once, in cargo's target folder.

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

/// Packages of the Python environment.
pub const PIP: [&str; 14] = [
    "nats-py==2.16.0",
    "Django==5.2.19",
    "psycopg[binary]==3.3.9",
    "channels==4.3.2",
    "djangorestframework-simplejwt==5.5.1",
    "cryptography==50.0.2",
    "pywebpush==2.5.0",
    "websockets==17.4",
    "openapi-spec-validator==0.9.0",
    "check-jsonschema==0.39.0",
    "schemathesis==4.32.5",
    "jsonschema==4.26.0",
    "rfc3339-validator==0.1.4",
    "standardwebhooks==1.1.0",
];
const NPM: [&str; 10] = [
    "@nats-io/transport-node@3.4.0",
    "@nats-io/jetstream@3.4.0",
    "ws@8.23.0",
    "wscat@6.1.0",
    "@asyncapi/specs@6.11.1",
    "jsonwebtoken@9.0.3",
    "react@19.3.1",
    "react-test-renderer@19.3.1",
    "esbuild@0.28.2",
    "standardwebhooks@1.1.1",
];
const NATS: &str = "github.com/nats-io/natscli/nats@v0.4.0";
/// Time limit of an installation or a snippet.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A program to run.
pub struct Tool {
    program: OsString,
    folder: PathBuf,
    arguments: Vec<OsString>,
    input: bool,
}

impl Tool {
    /// A program that runs in this folder.
    pub fn new(program: impl AsRef<Path>, folder: &Path) -> Self {
        Self {
            program: program.as_ref().into(),
            folder: folder.to_owned(),
            arguments: Vec::new(),
            input: false,
        }
    }

    /// A program that runs a snippet. Writes the snippet to the folder under its name.
    pub fn script(program: &Path, folder: &Path, name: &str) -> Self {
        fs::write(folder.join(name), snippet(name)).expect("write a snippet");
        Self::new(program, folder).arg(name)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<const N: usize>(self, arguments: [&str; N]) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Keeps the standard input open, like a terminal.
    pub fn with_input(self) -> Self {
        Self { input: true, ..self }
    }

    /// Runs the program and returns its output.
    ///
    /// # Errors
    /// If it fails.
    pub async fn output(self, env: &[(&str, &str)]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder).envs(env.iter().copied());
        command.env_remove("PYTHONPATH").kill_on_drop(true);
        command.stdin(if self.input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = self.program.to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let _input = child.stdin.take();
        let output = match tokio::time::timeout(TIMEOUT, child.wait_with_output()).await {
            Ok(output) => output.map_err(|error| format!("{name}: {error}"))?,
            Err(_) => return Err(format!("{name} did not end in {TIMEOUT:?}")),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{name}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// Checks that the program runs. The error is one line.
    async fn check(self) -> Result<(), String> {
        self.output(&[]).await.map(drop).map_err(|error| error.lines().next().unwrap_or_default().to_owned())
    }
}

/// Runs a tool with the address of the stack's NATS and returns its output.
///
/// # Panics
/// If it fails.
pub async fn run(tool: Tool, stack: &Stack, env: &[(&str, &str)]) -> String {
    let url = stack.nats_urls("operator").join(",");
    let gateway = format!("http://{}", stack.host(0));
    let own = [("NATS_URL", url.as_str()), ("REALTIME_URL", &gateway), ("REALTIME_KEY", e2e::BACKEND_KEY)];
    let env = [env, &own].concat();
    tool.output(&env).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Reports that something was not tested.
pub fn skip(subject: &str, reason: &str) {
    // Not `eprintln!`, whose output is shown only if a test fails.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {subject}: {reason} ***\n\n").as_bytes()).ok();
}

/// Folder of this workspace's programs.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    test.parent().and_then(Path::parent).expect("the folder of the programs").to_owned()
}

/// Folder in which a tool is installed. Creates it.
fn tool_folder(name: &str) -> PathBuf {
    let folder = target().parent().expect("the target folder").join("tools").join(name);
    fs::create_dir_all(&folder).expect("create a folder for tools");
    folder
}

/// Installs `packages` in a folder, unless exactly these are installed. Concurrent calls wait.
async fn install_once(folder: &Path, packages: &str, install: impl AsyncFnOnce() -> Result<(), String>) {
    let lock = fs::File::create(folder.join(".lock")).expect("create a lock");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("a thread");
    let _lock = lock.expect("lock a folder of tools");
    let done = folder.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == packages) {
        return;
    }
    install().await.unwrap_or_else(|error| panic!("install {packages}: {error}"));
    fs::write(done, packages).expect("record the installed packages");
}

/// Checks that a program is installed.
///
/// # Errors
/// If it doesn't run.
pub async fn check_installed(program: &str, argument: &str) -> Result<(), String> {
    Tool::new(program, Path::new("/")).arg(argument).check().await
}

/// Path of a Python with the packages.
///
/// # Errors
/// If there is no Python.
pub async fn python() -> Result<PathBuf, String> {
    let folder = tool_folder("python");
    Tool::new("python3", &folder).args(["-c", "import ensurepip, venv"]).check().await?;
    install_once(&folder, &PIP.join(" "), async || {
        Tool::new("python3", &folder).args(["-m", "venv", "--clear", "venv"]).output(&[]).await?;
        let pip =
            Tool::new("venv/bin/pip", &folder).args(["install", "--quiet", "--disable-pip-version-check"]);
        pip.args(PIP).output(&[]).await.map(drop)
    })
    .await;
    Ok(folder.join("venv/bin/python"))
}

/// Path of Node, and a folder with the packages.
///
/// # Errors
/// If Node or npm is missing.
pub async fn node() -> Result<(PathBuf, PathBuf), String> {
    let folder = tool_folder("node");
    Tool::new("node", &folder).arg("--version").check().await?;
    Tool::new("npm", &folder).arg("--version").check().await?;
    install_once(&folder, &NPM.join(" "), async || {
        fs::write(folder.join("package.json"), r#"{"private": true}"#).map_err(|error| error.to_string())?;
        let npm = Tool::new("npm", &folder).args(["install", "--no-audit", "--no-fund", "--save-exact"]);
        npm.args(NPM).output(&[]).await.map(drop)
    })
    .await;
    Ok(("node".into(), folder))
}

/// Folder with the `nats` tool.
///
/// # Errors
/// If it is neither installed nor can be built, because Go is missing.
pub async fn nats() -> Result<PathBuf, String> {
    let folder = tool_folder("nats");
    let on_path = Tool::new("nats", &folder).arg("--version").check().await;
    if let Err(reason) = Tool::new("go", &folder).arg("version").check().await {
        return on_path.map(|()| folder).map_err(|_| format!("neither nats nor go is installed ({reason})"));
    }
    install_once(&folder, NATS, async || {
        let bin = folder.to_string_lossy().into_owned();
        Tool::new("go", &folder).args(["install", NATS]).output(&[("GOBIN", &bin)]).await.map(drop)
    })
    .await;
    Ok(folder)
}
