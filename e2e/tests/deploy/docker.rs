//! The Dockerfiles and the compose file.

use crate::tools::{installed, must, python, root};
use std::{collections::BTreeSet, fs, process::Command};

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
    let stand_ins = ["rust", "postgres", "nats", "prometheus"];
    must(hadolint.args(stand_ins.map(|image| format!("deploy/images/{image}/Dockerfile"))));
}

#[test]
fn scripts_are_sound() {
    for script in ["deploy/new-env.sh", "deploy/nats/start.sh"] {
        must(Command::new("sh").args(["-n", script]));
    }
    for script in ["deploy/docker/ready", "deploy/images/make.sh", "deploy/images/postgres/start.sh"] {
        must(Command::new("bash").args(["-n", script]));
    }
    let Some(mut shellcheck) = installed("shellcheck") else { return };
    must(shellcheck.args(["deploy/new-env.sh", "deploy/nats/start.sh", "deploy/docker/ready", ".ci/run"]));
    must(shellcheck.args(["deploy/images/make.sh", "deploy/images/postgres/start.sh"]));
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

/// Every program of the image is a member of the workspace that is built, and has a stage of its name.
#[test]
fn the_image_has_a_stage_for_each_service() {
    let dockerfile = read("Dockerfile");
    for service in ["gateway", "chat-service", "notify-service", "typing-service"] {
        assert!(dockerfile.contains(&format!("FROM runtime AS {service}\n")), "{service}");
        assert_eq!(dockerfile.matches(&format!("--package {service}")).count(), 2, "{service}");
        assert!(dockerfile.contains(&format!("COPY --from=build /out/{service} ")), "{service}");
        assert!(read("docker-compose.yml").contains(&format!("target: {service}\n")), "{service}");
    }
    assert!(dockerfile.contains("\nUSER 10001:10001\n") && dockerfile.contains("\nHEALTHCHECK "));
}
