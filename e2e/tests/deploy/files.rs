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

/// Free ports of 127.0.0.1.
fn ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| testkit::free_port().unwrap())
}

/// The status of a request through a proxy whose gateway does not run: 502 if the proxy would pass it on.
fn status(scheme: &str, port: u16, path: &str) -> Option<String> {
    let url = format!("{scheme}://realtime.example.com:{port}{path}");
    let resolve = format!("realtime.example.com:{port}:127.0.0.1");
    let mut curl = Command::new("curl");
    let curl =
        curl.args(["--silent", "--insecure", "--path-as-is", "--noproxy", "*", "--output", "/dev/null"]);
    let output = curl.args(["--write-out", "%{http_code}", "--resolve", &resolve, &url]).output().ok()?;
    let status = String::from_utf8(output.stdout).ok()?;
    (status != "000").then_some(status)
}

/// Checks that a running proxy passes everything on but the API for backends.
fn keeps_backends_off(scheme: &str, port: u16) {
    let began = std::time::Instant::now();
    while status(scheme, port, "/api/unread").is_none() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the proxy does not answer");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (mut passed, mut kept) = (Vec::new(), Vec::new());
    for path in ["/api/unread", "/ws/", "/"] {
        passed.push(status(scheme, port, path).unwrap());
    }
    assert!(passed.iter().all(|status| status.starts_with("50")), "{passed:?}");
    for path in
        ["/backend", "/backend/whoami", "/%62ackend/whoami", "/api/../backend/whoami", "//backend/whoami"]
    {
        kept.push(status(scheme, port, path).unwrap());
    }
    assert!(kept.iter().all(|status| ["404", "308"].contains(&status.as_str())), "{kept:?}");
}

#[test]
fn nginx_keeps_the_api_for_backends_off_the_public_address() {
    let (Some(_), Some(mut nginx), Some(mut openssl)) =
        (installed("curl"), installed("nginx"), installed("openssl"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_str().unwrap();
    let certificate = openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]);
    must(certificate.args(["-keyout", &format!("{home}/key.pem"), "-out", &format!("{home}/cert.pem")]));
    let [tls, plain, gateway] = ports();
    let snippet = fs::read_to_string(root().join("deploy/nginx/vyzio.conf")).unwrap();
    let snippet = snippet
        .replace("/etc/letsencrypt/live/realtime.example.com/fullchain.pem", &format!("{home}/cert.pem"))
        .replace("/etc/letsencrypt/live/realtime.example.com/privkey.pem", &format!("{home}/key.pem"))
        .replace("/var/log/nginx", home)
        .replace("127.0.0.1:8000", &format!("127.0.0.1:{gateway}"))
        .replace("listen 443 ssl http2", &format!("listen 127.0.0.1:{tls} ssl"))
        .replace("listen 80;", &format!("listen 127.0.0.1:{plain};"))
        .replace("    listen [::]:443 ssl http2;\n", "")
        .replace("    listen [::]:80;\n", "");
    let config = format!(
        "pid {home}/pid;\nerror_log {home}/log;\ndaemon off;\nmaster_process off;\nevents {{}}\nhttp {{\n{}{snippet}\n}}\n",
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {home}/{name};\n"))
            .concat()
    );
    fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let mut running = nginx.args(["-c", &format!("{home}/nginx.conf")]).spawn().unwrap();
    let checked = std::panic::catch_unwind(|| keeps_backends_off("https", tls));
    running.kill().unwrap();
    running.wait().unwrap();
    checked.unwrap();
}

#[test]
fn caddy_keeps_the_api_for_backends_off_the_public_address() {
    let (Some(_), Some(mut caddy)) = (installed("curl"), installed("caddy")) else { return };
    let [port, gateway] = ports();
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("deploy/caddy/Caddyfile")).unwrap();
    let text = text
        .replace("\t\tstream_close_delay 1h\n", "")
        .replacen("{\n", "{\n\tadmin off\n\tauto_https off\n", 1)
        .replace("realtime.example.com {", &format!("http://realtime.example.com:{port} {{"))
        .replace("lb_try_duration 3s", "lb_try_duration 0s")
        .replace("127.0.0.1:8000", &format!("127.0.0.1:{gateway}"));
    let file = folder.path().join("Caddyfile");
    fs::write(&file, text).unwrap();
    let home = folder.path();
    let caddy = caddy.env("HOME", home).env("XDG_DATA_HOME", home).env("XDG_CONFIG_HOME", home);
    let mut running = caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).spawn().unwrap();
    let checked = std::panic::catch_unwind(|| keeps_backends_off("http", port));
    running.kill().unwrap();
    running.wait().unwrap();
    checked.unwrap();
}

/// On platforms whose router passes every path on, the public gateway has no keys of backends.
#[test]
fn public_gateways_without_a_proxy_have_no_keys_of_backends() {
    for file in ["deploy/render.yaml", "deploy/railway/gateway.toml"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert!(settings.into_iter().all(|line| !line.contains("BACKEND_KEYS")), "{file}");
    }
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
