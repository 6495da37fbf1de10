//! The Dockerfiles and the compose file.

use crate::tools::{installed, must, python, root};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, process::Command};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The services of the compose file, by name.
fn services() -> Value {
    let compose: Value = serde_saphyr::from_str(&read("docker-compose.yml")).unwrap();
    compose["services"].clone()
}

#[test]
fn the_compose_file_is_valid() {
    let Some(mut check) = python("check-jsonschema") else { return };
    must(check.args(["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]));
}

/// A gateway's port has no TLS and serves `/backend/`, and Docker's rules come before those of a firewall.
#[test]
fn compose_publishes_ports_on_this_machine_only() {
    let services = services();
    let published = |service: &Value| service["ports"].as_array().cloned().unwrap_or_default();
    for gateway in ["gateway", "gateway-2"] {
        assert_eq!(published(&services[gateway]).len(), 1, "{gateway}");
    }
    for (name, service) in services.as_object().unwrap() {
        assert_eq!(service["network_mode"], Value::Null, "{name}");
        for port in published(service) {
            let port = port.as_str().unwrap();
            let is_local = port.starts_with("127.0.0.1:") || port.starts_with("${GATEWAY_HOST:-127.0.0.1}:");
            assert!(is_local, "{name}: {port}");
        }
    }
    let example = read(".env.example");
    assert!(example.lines().all(|line| !line.starts_with("GATEWAY_HOST")), "{example}");
}

/// In `.env`, a variable names a folder or file of this machine; in the container, the place where that is mounted.
#[test]
fn compose_mounts_kinds_texts_and_endpoints_of_webhooks() {
    let services = services();
    for (service, variable, default, target) in [
        ("chat-service", "KINDS_DIR", "./deploy/kinds", "/etc/vyzio/kinds"),
        ("notify-service", "CATALOGUE_DIR", "./deploy/catalogue", "/etc/vyzio/catalogue"),
        ("notify-service", "WEBHOOKS", "/dev/null", "/etc/vyzio/webhooks.toml"),
    ] {
        assert!(root().join(default).exists(), "{default}");
        for service in [service.to_owned(), format!("{service}-2")] {
            let Value::Object(service) = &services[&service] else { panic!("no {service}") };
            let mount = json!({
                "type": "bind",
                "source": format!("${{{variable}:-{default}}}"),
                "target": target,
                "read_only": true,
                "bind": {"create_host_path": false},
            });
            assert!(service["volumes"].as_array().unwrap().contains(&mount), "{variable}: {service:?}");
            // Without a file, WEBHOOK_URL may be set.
            let path = match variable {
                "WEBHOOKS" => format!("${{WEBHOOKS:+{target}}}"),
                _ => target.to_owned(),
            };
            assert_eq!(service["environment"][variable], path);
        }
    }
}

#[test]
fn hadolint_finds_nothing() {
    let Some(mut hadolint) = python("hadolint") else { return };
    must(hadolint.args(["Dockerfile", "deploy/nats/Dockerfile"]));
    let images = ["rust", "postgres", "nats", "prometheus"];
    must(hadolint.args(images.map(|image| format!("deploy/images/{image}/Dockerfile"))));
}

#[test]
fn scripts_have_no_syntax_errors_or_warnings() {
    for script in ["deploy/new-env.sh", "deploy/nats/start.sh"] {
        must(Command::new("sh").args(["-n", script]));
    }
    for script in ["deploy/docker/ready", "deploy/images/make.sh", "deploy/images/postgres/start.sh"] {
        must(Command::new("bash").args(["-n", script]));
    }
    let Some(mut shellcheck) = installed("shellcheck") else { return };
    must(shellcheck.args(["deploy/new-env.sh", "deploy/nats/start.sh", "deploy/docker/ready"]));
    must(shellcheck.args(["deploy/images/make.sh", "deploy/images/postgres/start.sh"]));
    must(shellcheck.args([".ci/run", ".ci/deny", ".ci/publish"]));
}

/// `deploy/new-env.sh > .env` is the only setup that compose needs. No password has a default, and none is missing.
#[test]
fn new_env_sets_every_required_variable_of_compose_and_no_password_has_a_default() {
    let env = must(Command::new("sh").arg("deploy/new-env.sh"));
    let generated = env.lines().filter_map(|line| line.split_once('=')).collect::<Vec<_>>();
    let compose = read("docker-compose.yml");
    let variables = compose.split("${").skip(1).map(|rest| rest.split('}').next().unwrap());
    let mut required = BTreeSet::new();
    for variable in variables {
        let name = variable.split([':', '-', '?']).next().unwrap();
        if variable.contains(":?") {
            required.insert(name);
        } else if name.ends_with("PASSWORD") || name.ends_with("SECRET") {
            assert_eq!(name, variable, "a password has a default");
        }
    }
    assert!(required.len() > 10, "{required:?}");
    for name in required {
        let value = generated.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        assert!(value.is_some_and(|value| value.len() > 40), "deploy/new-env.sh does not set {name}");
    }
    // Each run generates new passwords, and the example contains none.
    assert_ne!(env, must(Command::new("sh").arg("deploy/new-env.sh")));
    let example = read(".env.example");
    let filled = example.lines().filter(|line| line.contains("PASSWORD=") || line.contains("SECRET="));
    assert_eq!(filled.filter(|line| !line.ends_with('=')).collect::<Vec<_>>(), [] as [&str; 0]);
}

/// The image builds each service and has a stage with its name.
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
