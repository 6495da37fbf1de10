//! Node, a copy of the client's folder with its packages, and copies of examples, in cargo's target folder.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js");
/// What programs leave in the folders of clients and examples.
const LEFT_BEHIND: [&str; 4] = ["node_modules", "__pycache__", ".venv", "shop.sqlite3"];
/// Time limit of npm, and of all tests of the client together.
const TIMEOUT: Duration = Duration::from_secs(1_200);

/// Node and npm in a copy of the client's folder.
pub struct Tools {
    folder: PathBuf,
}

/// Reports that something was not tested.
pub fn skip(subject: &str, reason: &str) {
    // Not `eprintln!`, whose output is shown only if a test fails.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {subject}: {reason} ***\n\n").as_bytes()).ok();
}

/// Checks that Node and npm run. Returns a folder in cargo's target folder.
async fn target() -> Result<PathBuf, String> {
    let test = std::env::current_exe().expect("this test");
    let target = test.ancestors().nth(3).expect("the target folder").join("client");
    fs::create_dir_all(&target).expect("create a folder");
    run("node", &["--version"], &target, &[]).await?;
    run("npm", &["--version"], &target, &[]).await?;
    Ok(target)
}

/// Copies the client's folder for one test and installs its packages.
///
/// # Errors
/// If Node or npm is missing.
pub async fn tools() -> Result<Tools, String> {
    let target = target().await?;
    let manifest = fs::read_to_string(Path::new(CLIENT).join("package.json")).expect("read package.json");
    let packages = target.join("packages");
    install(&packages, &manifest).await;
    let folder = tempfile::tempdir_in(&target).expect("create a folder").keep();
    copy(Path::new(CLIENT), &folder);
    std::os::unix::fs::symlink(packages.join("node_modules"), folder.join("node_modules"))
        .expect("link the packages");
    Ok(Tools { folder })
}

/// Copies an example beside a copy of the client, as in the checkout, and installs its packages. Returns its folder.
///
/// # Errors
/// If Node or npm is missing.
pub async fn example(name: &str) -> Result<PathBuf, String> {
    let root = target().await?.join("checkout");
    let folder = root.join("examples").join(name);
    let source = Path::new(CLIENT).join("../../examples").join(name);
    let manifest = fs::read_to_string(source.join("package.json")).expect("read package.json");
    fs::create_dir_all(root.join("clients/js")).expect("create a folder");
    copy(Path::new(CLIENT), &root.join("clients/js"));
    install(&folder, &manifest).await;
    copy(&source, &folder);
    Ok(folder)
}

/// Installs the packages of a manifest in a folder, unless they are installed. Concurrent calls wait.
async fn install(folder: &Path, manifest: &str) {
    fs::create_dir_all(folder).expect("create a folder");
    let lock = fs::File::create(folder.join(".lock")).expect("create a lock");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("a thread");
    let _lock = lock.expect("lock the folder");
    let done = folder.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == manifest) {
        return;
    }
    fs::write(folder.join("package.json"), manifest).expect("write package.json");
    let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
    run("npm", &npm, folder, &[]).await.unwrap_or_else(|error| panic!("install packages: {error}"));
    fs::write(done, manifest).expect("record the installed packages");
}

/// Copies the content of a folder, without installed packages.
///
/// # Panics
/// If that is not permitted.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("read a folder").map(|entry| entry.expect("an entry")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if LEFT_BEHIND.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if path.is_dir() {
            fs::create_dir_all(&to).expect("create a folder");
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("copy a file");
        }
    }
}

impl Tools {
    /// Runs Node and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub async fn node(&self, arguments: &[&str], env: &[(&str, &str)]) -> String {
        run("node", arguments, &self.folder, env).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs npm and returns its output.
    ///
    /// # Errors
    /// If it fails.
    pub async fn npm(&self, arguments: &[&str]) -> Result<String, String> {
        run("npm", arguments, &self.folder, &[]).await
    }

    /// The copy.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads a file of the copy.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Runs a program and returns its output.
///
/// # Errors
/// If it fails.
pub async fn run(
    program: &str,
    arguments: &[&str],
    folder: &Path,
    env: &[(&str, &str)],
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).envs(env.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|error| format!("{program}: {error}"))?,
        Err(_) => return Err(format!("{program} did not end in {TIMEOUT:?}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
