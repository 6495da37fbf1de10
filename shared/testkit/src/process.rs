//! Child processes that end with their parent.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, PipeReader, Write, pipe},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use tokio::sync::watch;

use crate::place::User;

/// Starts the program only after its watcher is running, so that the program never outlives this process, whenever this
/// process ends.
const GATE: &str = r#"read -r go && exec "$@" </dev/null"#;

/// Waits for a line, which means that the child has ended, or for the end of the pipe, which means that the parent has
/// ended. The wait for the child's exit is bounded: in a container whose first process doesn't reap, a dead process
/// still answers to `kill -0`.
const WATCHER: &str = r#"
exec 2>/dev/null
read -r ended && exit 0
kin=$(cat "/proc/$1/task/$1/children")
if [ "$2" != KILL ]; then
    kill -s CONT -- "$1" $kin
    kill -s "$2" -- "$1"
    tries=0
    while [ "$tries" -lt 100 ] && kill -0 "$1"; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -0 "$1" || kin=
fi
kill -s KILL -- "-$1" $kin
if [ -n "$3" ]; then
    rm -rf -- "$3" || { sleep 0.5; rm -rf -- "$3"; }
fi
"#;

/// A signal for a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop gracefully.
    Term,
    /// Ctrl-C. For Postgres: stop now, even with clients connected.
    Int,
    /// For Postgres: stop immediately, as after a power failure, but leave nothing in the system.
    Quit,
    /// Reload the configuration.
    Hup,
    /// Exit immediately.
    Kill,
    /// Freeze.
    Stop,
    /// Resume.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Hup => "HUP",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }

    /// Sends this signal to each of `targets`: a process id, or minus the id of a process group.
    pub(crate) fn send(self, targets: &[String]) {
        // Uses the shell's own `kill`, because not every machine has a program of that name. Ignores processes that
        // have just ended.
        let script = r#"signal=$1; shift; for target in "$@"; do kill -s "$signal" -- "$target"; done"#;
        let _ = Command::new("sh")
            .args(["-c", script, "sh", self.name()])
            .args(targets)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Destination of a child's standard output and error.
#[derive(Clone, Default)]
pub enum Output {
    /// Discarded.
    #[default]
    Null,
    /// Same as ours.
    Inherit,
    /// Appended to a file.
    File(PathBuf),
    /// Passed to this function line by line, on a thread of its own.
    Lines(Arc<dyn Fn(&str) + Send + Sync>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Inherit => f.write_str("Inherit"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Lines(_) => f.write_str("Lines"),
        }
    }
}

/// A program to start as a [`Child`].
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    folder: Option<PathBuf>,
    user: Option<User>,
    output: Output,
    stop_signal: Signal,
    remove: Option<PathBuf>,
}

impl Program {
    /// The program at `path` (or found by name on `PATH`), without arguments, with our environment.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            user: None,
            output: Output::Null,
            stop_signal: Signal::Kill,
            remove: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.push((key.into(), None));
        self
    }

    /// Sets the working folder.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets the output; discarded by default.
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Sets the signal that the program receives when its parent has ended, five seconds before it is killed. By
    /// default it is killed immediately.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Sets a folder to remove after the program, if its parent has ended.
    pub fn remove(mut self, folder: impl Into<PathBuf>) -> Self {
        self.remove = Some(folder.into());
        self
    }

    /// Sets the user that runs the program, which requires root; `None` for our own user.
    pub(crate) fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// If the program is missing, or no process can be started.
    pub fn spawn(self) -> anyhow::Result<Child> {
        Child::spawn(self)
    }
}

/// A process that ends with this one, however this one ends, even if it is killed with -9. Dropping it stops it (with
/// its stop signal), and waits for its exit.
///
/// It leads its own process group, so that a terminal's Ctrl-C reaches it only through us.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    status: watch::Receiver<Option<ExitStatus>>,
    lifeline: Lifeline,
    reaper: Option<JoinHandle<()>>,
}

/// Standard input of the watcher; open as long as the child may run.
type Lifeline = Arc<Mutex<Option<ChildStdin>>>;

fn cut(lifeline: &Lifeline) -> Option<ChildStdin> {
    lifeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
}

impl Child {
    fn spawn(program: Program) -> anyhow::Result<Self> {
        let shown = program.path.display().to_string();
        let path = find_program(&program.path).with_context(|| format!("find {shown}"))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", GATE, "sh"])
            .arg(&path)
            .args(&program.args)
            .stdin(Stdio::piped())
            .process_group(0);
        for (key, value) in &program.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(folder) = &program.folder {
            command.current_dir(folder);
        }
        if let Some(user) = program.user {
            command.uid(user.uid).gid(user.gid);
        }
        if let Some(lines) = set_output(&mut command, &program.output)? {
            let Output::Lines(on_line) = program.output.clone() else { unreachable!("only lines are piped") };
            thread::Builder::new().name("output".to_owned()).spawn(move || read_lines(lines, &*on_line))?;
        }
        let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
        drop(command); // It holds our copy of the output pipe, which would otherwise stay open.
        let pid = child.id();
        let gate = child.stdin.take();

        let mut watcher = Command::new("sh")
            .args(["-c", WATCHER, "sh", &pid.to_string(), program.stop_signal.name()])
            .arg(program.remove.unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start the watcher of {shown}"))?;
        let lifeline: Lifeline = Arc::new(Mutex::new(watcher.stdin.take()));
        let (ended, status) = watch::channel(None);
        let at_end = Arc::clone(&lifeline);
        let reaper = thread::Builder::new().name("reaper".to_owned()).spawn(move || {
            let status = child.wait();
            if let Some(mut lifeline) = cut(&at_end) {
                let _ = lifeline.write_all(b"ended\n"); // The watcher may have ended already.
            }
            let _ = watcher.wait();
            ended.send_replace(status.ok());
        })?;
        gate.context("the gate has no pipe")?.write_all(b"go\n").with_context(|| format!("start {shown}"))?;
        Ok(Self { pid, status, lifeline, reaper: Some(reaper) })
    }

    /// Process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Exit status, if it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Whether it is still running.
    pub fn is_running(&self) -> bool {
        self.status.borrow().is_none() && self.status.has_changed().is_ok()
    }

    /// Waits for its exit. Cancel safe.
    pub fn wait(&self) -> impl Future<Output = Option<ExitStatus>> + Send + use<> {
        let mut status = self.status.clone();
        async move { status.wait_for(Option::is_some).await.ok().and_then(|status| *status) }
    }

    /// Waits for its exit, blocking this thread.
    pub(crate) fn wait_blocking(mut self) -> Option<ExitStatus> {
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
        self.status()
    }

    /// Sends a signal to it and to its process group. Does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            signal.send(&[format!("-{}", self.pid)]);
        }
    }

    /// Kills it, and waits for its exit.
    pub async fn kill(&self) {
        self.signal(Signal::Kill);
        self.wait().await;
    }

    /// Sends `signal`, and kills it after `timeout`. Returns its exit status.
    pub async fn terminate(&self, signal: Signal, timeout: Duration) -> Option<ExitStatus> {
        self.signal(signal);
        if let Ok(status) = tokio::time::timeout(timeout, self.wait()).await {
            return status;
        }
        self.kill().await;
        self.status()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(cut(&self.lifeline)); // The watcher now stops the child, as after our own end.
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

/// Path of the program. A missing program is thus an error here, not in the shell that executes it.
fn find_program(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 {
        anyhow::ensure!(program.is_file(), "no such program");
        return Ok(program.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .context("not on PATH")
}

/// Sets the output of `command`. Returns the reading end of a pipe.
fn set_output(command: &mut Command, output: &Output) -> anyhow::Result<Option<PipeReader>> {
    match output {
        Output::Null => {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        Output::Inherit => {}
        Output::File(path) => {
            let open = || File::options().create(true).append(true).open(path);
            let file = open().with_context(|| format!("open {}", path.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        Output::Lines(_) => {
            let (reader, writer) = pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            return Ok(Some(reader));
        }
    }
    Ok(None)
}

fn read_lines(pipe: PipeReader, on_line: &dyn Fn(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
