//! The Dockerfiles and the compose file.

use crate::tools::{installed, must, python, root, run};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn compose_is_what_the_specification_says() {
    let Some(mut check) = python("check-jsonschema") else { return };
    must(check.args(["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]));
}

#[test]
fn hadolint_finds_nothing() {
    let Some(mut hadolint) = python("hadolint") else { return };
    must(hadolint.args(["Dockerfile", "deploy/nats/Dockerfile"]));
}

#[test]
fn scripts_are_sound() {
    for script in ["deploy/new-env.sh", "deploy/nats/start.sh"] {
        must(Command::new("sh").args(["-n", script]));
    }
    let Some(mut shellcheck) = installed("shellcheck") else { return };
    must(shellcheck.args(["deploy/new-env.sh", "deploy/nats/start.sh", "deploy/docker/ready", ".ci/run"]));
}

/// `deploy/new-env.sh > .env` is all that compose needs: no password has a default, and none is missing.
#[test]
fn compose_asks_for_no_variable_that_the_new_env_lacks_and_has_no_default_password() {
    let env = must(Command::new("sh").arg("deploy/new-env.sh"));
    let given = env.lines().filter_map(|line| line.split_once('=')).collect::<Vec<_>>();
    let compose = read("docker-compose.yml");
    let variables = compose.split("${").skip(1).map(|rest| rest.split('}').next().unwrap());
    let mut asked = BTreeSet::new();
    for variable in variables {
        let name = variable.split([':', '-', '?']).next().unwrap();
        if variable.contains(":?") {
            asked.insert(name);
        } else if name.ends_with("PASSWORD") || name.ends_with("SECRET") {
            assert_eq!(name, variable, "a password has a default");
        }
    }
    assert!(asked.len() > 10, "{asked:?}");
    for name in asked {
        let value = given.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        assert!(value.is_some_and(|value| value.len() > 40), "{name} in deploy/new-env.sh");
    }
    // Two runs give two sets of passwords, and the example none that would work.
    assert_ne!(env, must(Command::new("sh").arg("deploy/new-env.sh")));
    let example = read(".env.example");
    let filled = example.lines().filter(|line| line.contains("PASSWORD=") || line.contains("SECRET="));
    assert_eq!(filled.filter(|line| !line.ends_with('=')).collect::<Vec<_>>(), [] as [&str; 0]);
}

/// Whether `.dockerignore` keeps a path out of the build, by Docker's rules: the last pattern that fits decides.
fn is_ignored(patterns: &str, path: &str) -> bool {
    let mut ignored = false;
    for line in patterns.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (pattern, ignores) = line.strip_prefix('!').map_or((line, true), |pattern| (pattern, false));
        // A folder that fits takes all below with it.
        let above = Path::new(path).ancestors().filter_map(Path::to_str).filter(|above| !above.is_empty());
        if above.clone().any(|above| fits(pattern.trim_end_matches('/'), above)) {
            ignored = ignores;
        }
    }
    ignored
}

/// Whether a pattern of `.dockerignore` fits exactly this path.
fn fits(pattern: &str, path: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**/") {
        return path
            .match_indices('/')
            .map(|(at, _)| &path[at + 1..])
            .chain([path])
            .any(|end| fits(rest, end));
    }
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, end)) => {
            path.len() >= start.len() + end.len()
                && path.starts_with(start)
                && path.ends_with(end)
                && !path[start.len()..path.len() - end.len()].contains('/')
        }
    }
}

#[test]
fn patterns_fit_as_docker_has_them() {
    assert!(fits("**/*.md", "a/b/README.md") && fits("**/*.md", "README.md"));
    assert!(fits("deploy/*", "deploy/nats") && !fits("deploy/*", "deploy/nats/x"));
    let patterns = "deploy/*\n!deploy/docker\n**/tests\n";
    assert!(is_ignored(patterns, "deploy/nats/x") && !is_ignored(patterns, "deploy/docker/ready"));
    assert!(is_ignored(patterns, "a/tests/it/main.rs"));
}

/// The build sees every file that a program is compiled from, and nothing that should stay out of an image.
#[test]
fn the_build_sees_what_programs_are_compiled_from() {
    let patterns = read(".dockerignore");
    let Ok(tracked) = run(Command::new("git").args(["ls-files"])) else {
        return crate::tools::skip("what .dockerignore leaves", "this is no git checkout");
    };
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 9, "{members:?}");
    let of_programs = |path: &&str| {
        let inside = members.iter().find_map(|member| path.strip_prefix(member)?.strip_prefix('/'));
        match inside {
            Some(inside) => !inside.split('/').any(|part| part == "tests") && !inside.ends_with(".md"),
            None => !path.contains('/') && (path.ends_with(".toml") || path.ends_with(".lock")),
        }
    };
    let missing: Vec<&str> =
        tracked.lines().filter(of_programs).filter(|path| is_ignored(&patterns, path)).collect();
    assert_eq!(missing, [] as [&str; 0], "kept from the build by .dockerignore");
    for secret in [".env", ".git/config", ".local/jwt-secret", "target/debug/gateway"] {
        assert!(is_ignored(&patterns, secret), "{secret} would be sent to the build");
    }
    // What the build copies by name is there.
    for dockerfile in ["Dockerfile", "deploy/nats/Dockerfile"] {
        let folder = Path::new(dockerfile).parent().unwrap();
        let text = read(dockerfile);
        let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
        for copy in copies.filter(|copy| !copy.contains("--from=")) {
            let words: Vec<&str> = copy.split(' ').filter(|word| !word.starts_with("--")).collect();
            for source in &words[..words.len() - 1] {
                assert!(root().join(folder).join(source).exists(), "{dockerfile}: COPY {source}");
                assert!(folder != Path::new("") || !is_ignored(&patterns, source), "{source} is ignored");
            }
        }
    }
}

/// Every program of the image is a member of the workspace that is built, and has a stage of its name.
#[test]
fn the_image_has_a_stage_for_each_service() {
    let dockerfile = read("Dockerfile");
    for service in ["gateway", "chat-service", "notify-service", "typing-service"] {
        assert!(dockerfile.contains(&format!("FROM runtime AS {service}\n")), "{service}");
        assert_eq!(dockerfile.matches(&format!("--package {service}")).count(), 2, "{service}");
        assert!(
            dockerfile.contains(&format!("COPY --from=build /build/target/release/{service} ")),
            "{service}"
        );
        assert!(read("docker-compose.yml").contains(&format!("target: {service}\n")), "{service}");
    }
    assert!(dockerfile.contains("\nUSER 10001:10001\n") && dockerfile.contains("\nHEALTHCHECK "));
}
