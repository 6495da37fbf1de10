//! Node, and a copy of the client's folder with what its tests need, below cargo's target folder.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js");
/// How long npm, or all of the client's tests, may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Node in the copy.
pub struct Tools {
    folder: PathBuf,
}

/// Says loudly that something was not tested.
pub fn skip(what: &str, why: &str) {
    // Not captured, as what a test prints is.
    std::io::stderr().write_all(format!("\n*** SKIPPED: {what}: {why} ***\n\n").as_bytes()).ok();
}

/// Node and npm with the client's packages, or why there are none. Each call has a copy of its own.
pub async fn tools() -> Result<Tools, String> {
    let test = std::env::current_exe().expect("this test");
    let target = test.ancestors().nth(3).expect("the target folder").join("client");
    fs::create_dir_all(&target).expect("create a folder");
    run("node", &["--version"], &target, &[]).await?;
    run("npm", &["--version"], &target, &[]).await?;
    let installed = install(&target).await;
    let folder = tempfile::tempdir_in(&target).expect("create a folder").keep();
    copy(Path::new(CLIENT), &folder);
    std::os::unix::fs::symlink(installed, folder.join("node_modules")).expect("link the packages");
    Ok(Tools { folder })
}

/// Installs what package.json names, once; whoever asks at the same time waits.
async fn install(target: &Path) -> PathBuf {
    let lock = fs::File::create(target.join(".lock")).expect("create a lock");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.expect("a thread");
    let _lock = lock.expect("lock the folder");
    let wanted = fs::read_to_string(Path::new(CLIENT).join("package.json")).expect("read package.json");
    let packages = target.join("packages");
    let done = packages.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return packages.join("node_modules");
    }
    fs::create_dir_all(&packages).expect("create a folder");
    fs::write(packages.join("package.json"), &wanted).expect("write package.json");
    let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
    run("npm", &npm, &packages, &[]).await.unwrap_or_else(|error| panic!("install packages: {error}"));
    fs::write(done, wanted).expect("note what is installed");
    packages.join("node_modules")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("read a folder").map(|entry| entry.expect("an entry")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "node_modules" {
            continue;
        }
        if path.is_dir() {
            fs::create_dir(&to).expect("create a folder");
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("copy a file");
        }
    }
}

impl Tools {
    /// Runs Node to its end; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn node(&self, arguments: &[&str], env: &[(&str, &str)]) -> String {
        run("node", arguments, &self.folder, env).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs npm to its end; what it printed, or what it said when it failed.
    pub async fn npm(&self, arguments: &[&str]) -> Result<String, String> {
        run("npm", arguments, &self.folder, &[]).await
    }

    /// A file of the copy.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

async fn run(
    program: &str,
    arguments: &[&str],
    folder: &Path,
    env: &[(&str, &str)],
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).envs(env.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => output.map_err(|error| format!("{program}: {error}"))?,
        Err(_) => return Err(format!("{program} did not end in {PATIENCE:?}")),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{program}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
