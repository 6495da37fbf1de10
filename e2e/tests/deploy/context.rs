//! The build context of the images: what `.dockerignore` leaves of the checkout.

use crate::tools::{must, root, run, skip};
use globset::{GlobBuilder, GlobMatcher};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

/// Copies the files of the build context, with their times, so that cargo compiles only changed files again.
fn copy_context(tracked: &str, context: &Path) {
    let rules = rules();
    fs::remove_dir_all(context).ok();
    for path in tracked.lines().filter(|path| in_context(&rules, path)) {
        let (from, to) = (root().join(path), context.join(path));
        let Ok(modified) = fs::metadata(&from).and_then(|file| file.modified()) else { continue };
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&from, &to).unwrap();
        fs::File::options().write(true).open(&to).unwrap().set_modified(modified).unwrap();
    }
}

/// The target folder that this test was compiled into.
fn target() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_path_buf()
}

#[test]
fn services_compile_from_the_build_context() {
    let Ok(tracked) =
        run(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))
    else {
        return skip("the build context of the images", "this is no git checkout");
    };
    let context = testkit::place::local().join("build-context");
    copy_context(&tracked, &context);
    let manifest = context.join("Cargo.toml");
    let cargo = |command: &str| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([command, "--locked", "--offline", "--manifest-path"]).arg(&manifest);
        // The workspace's own: an unchanged package is not compiled again.
        cargo.env("CARGO_TARGET_DIR", target());
        cargo
    };
    must(cargo("metadata").args(["--format-version", "1", "--no-deps"]));
    let services = ["gateway", "chat-service", "notify-service", "typing-service"];
    must(cargo("check").args(services.iter().flat_map(|service| ["--package", service])));
    fs::remove_dir_all(&context).unwrap();
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
