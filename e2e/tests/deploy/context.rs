//! The build context of the images: what `.dockerignore` leaves of the checkout.

use crate::tools::{must, root, run, skip};
use globset::{GlobBuilder, GlobMatcher};
use std::{
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

/// The packages that an image is compiled from.
const SERVICES: [&str; 4] = ["gateway", "chat-service", "notify-service", "typing-service"];

/// A line of `.dockerignore`: where it matches, and whether it is an exception.
type Rule = (GlobMatcher, bool);

fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rule = |line: &str| {
        let pattern = line.trim_start_matches('!').trim_matches('/');
        let glob = GlobBuilder::new(pattern).literal_separator(true).build().unwrap();
        (glob.compile_matcher(), line.starts_with('!'))
    };
    lines.map(rule).collect()
}

/// As Docker has it, and git doesn't: a pattern starts at the root, and the last line that matches the path or a folder
/// above it decides.
fn in_context(rules: &[Rule], path: &str) -> bool {
    let matches = |glob: &GlobMatcher| Path::new(path).ancestors().any(|place| glob.is_match(place));
    rules.iter().rfind(|(glob, _)| matches(glob)).is_none_or(|(_, exception)| *exception)
}

/// Copies the files of the build context.
fn copy_context(tracked: &str, context: &Path) {
    let rules = rules();
    for path in tracked.lines().filter(|path| in_context(&rules, path)) {
        let (from, to) = (root().join(path), context.join(path));
        if from.exists() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// The target folder that this test was compiled into.
fn target() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_path_buf()
}

/// Copies the build context to this folder, which is removed at the end. `None` without git.
fn context(name: &str) -> Option<tempfile::TempDir> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let Ok(tracked) = run(Command::new("git").args(arguments)) else {
        skip("the build context of the images", "this is no git checkout");
        return None;
    };
    let context = tempfile::Builder::new().prefix(name).tempdir_in(testkit::place::local()).unwrap();
    copy_context(&tracked, context.path());
    Some(context)
}

/// Runs cargo in a copy of the build context.
fn cargo(context: &Path, command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([command, "--locked", "--offline", "--manifest-path"]).arg(context.join("Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", target());
    cargo
}

/// The files of the workspace from which a service was compiled, relative to its root: those that rustc read, so also
/// embedded ones.
fn compiled_from(service: &str) -> Vec<PathBuf> {
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf();
    let rule = fs::read_to_string(folder.join(service).with_extension("d")).unwrap();
    let (_, files) = rule.trim_end().split_once(": ").unwrap();
    let inside = |file: &str| {
        let mut path = PathBuf::new();
        for part in Path::new(file).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                part => path.push(part),
            }
        }
        let is_built = path.starts_with(target());
        path.strip_prefix(root()).ok().filter(|_| !is_built).map(Path::to_path_buf)
    };
    // A space in a name is escaped.
    let files = files.replace("\\ ", "\0");
    files.split(' ').filter_map(|file| inside(&file.replace('\0', " "))).collect()
}

#[test]
fn services_are_compiled_from_files_of_the_build_context() {
    let rules = rules();
    for service in SERVICES {
        let files = compiled_from(service);
        assert!(files.contains(&Path::new(service).join("src/main.rs")), "{service}: {files:?}");
        for file in files {
            assert!(in_context(&rules, file.to_str().unwrap()), "{} is missing", file.display());
        }
    }
    let embedded = compiled_from("gateway");
    assert!(embedded.contains(&PathBuf::from("clients/js/dist/realtime.min.js")), "{embedded:?}");
    let Some(context) = context("metadata") else { return };
    must(cargo(context.path(), "metadata").args(["--format-version", "1", "--no-deps"]));
}

#[test]
#[ignore = "compiles the services with all of their dependencies"]
fn services_compile_from_the_build_context() {
    let Some(context) = context("check") else { return };
    must(cargo(context.path(), "check").args(SERVICES.iter().flat_map(|service| ["--package", service])));
}

#[test]
fn secrets_stay_out_of_the_build_context() {
    let rules = rules();
    for secret in
        [".env", ".git/config", ".local/jwt-secret", "target/debug/gateway", "deploy/nats/accounts.conf"]
    {
        assert!(!in_context(&rules, secret), "{secret} would be sent to the build");
    }
    for needed in ["deploy/docker/ready", "gateway/docs/index.html"] {
        assert!(in_context(&rules, needed), "{needed} is missing in the build");
    }
}

/// Each file that a Dockerfile copies by name exists in its context.
#[test]
fn dockerfiles_copy_only_files_of_their_context() {
    let rules = rules();
    for dockerfile in ["Dockerfile", "deploy/nats/Dockerfile"] {
        let folder = Path::new(dockerfile).parent().unwrap();
        let text = fs::read_to_string(root().join(dockerfile)).unwrap();
        let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
        for copy in copies.filter(|copy| !copy.contains("--from=")) {
            let words: Vec<&str> = copy.split(' ').filter(|word| !word.starts_with("--")).collect();
            for source in &words[..words.len() - 1] {
                assert!(root().join(folder).join(source).exists(), "{dockerfile}: COPY {source}");
                assert!(folder != Path::new("") || in_context(&rules, source), "{source} is ignored");
            }
        }
    }
}
