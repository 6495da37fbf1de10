//! The files for NATS, Prometheus, nginx and Caddy.

use crate::tools::{installed, must, root, run, skip};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// Checks each configuration in `deploy/nats` with a value for every variable, and `accounts.conf` without one.
#[test]
fn nats_server_accepts_its_configurations() {
    let server = testkit::provision::nats_server(&testkit::provision::print).unwrap();
    let accounts = fs::read_to_string(root().join("deploy/nats/accounts.conf")).unwrap();
    let names = accounts.split('$').skip(1).filter_map(|rest| rest.split_whitespace().next());
    let passwords = names.filter(|name| name.ends_with("_PASSWORD"));
    let mut env: BTreeMap<&str, String> = passwords.map(|name| (name, format!("p{name}"))).collect();
    let folder = tempfile::tempdir().unwrap();
    env.insert("NATS_STORE_DIR", folder.path().to_str().unwrap().to_owned());
    env.insert("NATS_SERVER_NAME", "nats-1".to_owned());
    env.insert("NATS_ROUTE_PASSWORD", "pr".to_owned());
    for (number, route) in ["NATS_ROUTE_1", "NATS_ROUTE_2", "NATS_ROUTE_3"].into_iter().enumerate() {
        env.insert(route, format!("nats://route:pr@nats-{number}:6222"));
    }
    let test = |file: &str, env: &BTreeMap<&str, String>| {
        run(Command::new(&server).args(["-t", "-c"]).arg(root().join("deploy/nats").join(file)).envs(env))
    };
    for file in ["single.conf", "cluster.conf"] {
        test(file, &env).unwrap();
    }
    // If a password is not set, nats-server must not start with an empty one.
    env.remove("NATS_BILLING_PASSWORD");
    assert!(test("single.conf", &env).unwrap_err().contains("NATS_BILLING_PASSWORD"));
}

#[test]
fn prometheus_accepts_its_configuration_and_rules() {
    let Some(mut promtool) = installed("promtool") else { return };
    must(promtool.args(["check", "config", "deploy/observability/prometheus.yml"]));
}

#[test]
fn nginx_accepts_its_snippet() {
    let Some(mut nginx) = installed("nginx") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let Some(mut openssl) = installed("openssl") else { return };
    let certificate = openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]);
    must(certificate.arg("-keyout").arg(path("key.pem")).arg("-out").arg(path("cert.pem")));
    let snippet = fs::read_to_string(root().join("deploy/nginx/vyzio.conf")).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let snippet = snippet
        .replace("/etc/letsencrypt/live/realtime.example.com/fullchain.pem", &text(&path("cert.pem")))
        .replace("/etc/letsencrypt/live/realtime.example.com/privkey.pem", &text(&path("key.pem")))
        .replace("/var/log/nginx", &text(folder.path()));
    fs::write(path("vyzio.conf"), snippet).unwrap();
    let config = format!(
        "pid {0}/pid;\nerror_log {0}/log;\nevents {{}}\nhttp {{\n  include {0}/vyzio.conf;\n}}\n",
        text(folder.path())
    );
    fs::write(path("nginx.conf"), config).unwrap();
    must(nginx.args(["-t", "-q", "-c"]).arg(path("nginx.conf")));
}

#[test]
fn caddy_accepts_its_file() {
    let Some(mut caddy) = installed("caddy") else { return };
    let version = must(caddy.arg("version"));
    let mut text = fs::read_to_string(root().join("deploy/caddy/Caddyfile")).unwrap();
    let minor = version.trim_start_matches('v').split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor < 7) {
        skip("stream_close_delay of the Caddyfile", "this Caddy is older than 2.7");
        text = text.replace("\t\tstream_close_delay 1h\n", "");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Caddyfile");
    fs::write(&file, text).unwrap();
    let Some(mut caddy) = installed("caddy") else { return };
    let home = folder.path();
    let caddy = caddy.env("HOME", home).env("XDG_DATA_HOME", home).env("XDG_CONFIG_HOME", home);
    must(caddy.args(["validate", "--adapter", "caddyfile", "--config"]).arg(file));
}
