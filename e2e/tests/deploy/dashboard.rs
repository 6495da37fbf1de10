//! Checks the dashboard's panels and the alerts with a real Prometheus that scrapes a stack.

use crate::tools::{installed, root};
use e2e::{Kind, Options, Stack, eventually};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};
use testkit::{Child, Output, Program, free_port};

const DASHBOARD: &str = "deploy/observability/grafana/dashboards/vyzio.json";
/// Prefixes of metrics of other exporters: of NATS, which no package provides, and of machines.
const EXPORTERS: [&str; 4] = ["jetstream_", "gnatsd_", "node_", "kubelet_"];

/// A Prometheus with our alerts.
struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Child,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes this stack every second and whose alerts fire without delay.
    async fn start(program: &Path, stack: &Stack, folder: &Path) -> Self {
        let alerts = fs::read_to_string(root().join("deploy/observability/alerts.yml")).unwrap();
        let at_once = alerts.lines().filter(|line| !line.trim().starts_with("for: ")).collect::<Vec<_>>();
        fs::write(folder.join("alerts.yml"), at_once.join("\n")).unwrap();
        let job = |kind: Kind| {
            let (name, admin) = (kind.program(), stack.admin(kind, 0));
            format!("  - job_name: {name}\n    static_configs: [{{ targets: ['{admin}'] }}]\n")
        };
        let jobs: String = Kind::ALL.into_iter().map(job).collect();
        let intervals = "global: { scrape_interval: 1s, evaluation_interval: 1s }";
        let config = format!("{intervals}\nrule_files: [alerts.yml]\nscrape_configs:\n{jobs}");
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let port = free_port().unwrap();
        let process = Program::new(program)
            .args([
                format!("--config.file={}", folder.join("prometheus.yml").display()),
                format!("--storage.tsdb.path={}", folder.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ])
            .output(Output::File(folder.join("log")))
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let prometheus = Self { url, http: stack.http().clone(), _process: process };
        eventually("Prometheus", || async { prometheus.get("/-/ready").await }).await;
        prometheus
    }

    async fn get(&self, path: &str) -> Option<String> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        if response.status().is_success() { response.text().await.ok() } else { None }
    }

    /// Current series of an expression.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let response = self.get(&format!("/api/v1/query?query={encoded}")).await;
        let response = response.unwrap_or_else(|| panic!("Prometheus does not accept {expression}"));
        let response: Value = serde_json::from_str(&response).unwrap();
        response["data"]["result"].as_array().unwrap().clone()
    }

    async fn wait_for_alert(&self, alert: &str) {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        eventually(alert, || async { (!self.query(&firing).await.is_empty()).then_some(()) }).await;
    }
}

/// Title and expressions of each panel.
fn panels(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        let expressions = targets.filter_map(|target| Some(target["expr"].as_str()?.to_owned())).collect();
        all.push((panel["title"].as_str().unwrap_or_default().to_owned(), expressions));
        all.extend(panels(panel));
    }
    all.retain(|(_, expressions): &(String, Vec<String>)| !expressions.is_empty());
    all
}

/// Name and expression of each alert in Prometheus.
async fn alerts(prometheus: &Prometheus) -> Vec<(String, String)> {
    let rules: Value = serde_json::from_str(&prometheus.get("/api/v1/rules").await.unwrap()).unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules.map(|rule| (text(rule, "name"), text(rule, "query"))).collect()
}

/// Metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<String> {
    let mut bare = String::new();
    let mut depth = 0;
    for part in expression.replace(" (", "(").split_inclusive(['{', '}', '[', ']']) {
        if depth == 0 {
            bare += part.trim_end_matches(['{', '[']);
        }
        depth += i32::from(part.ends_with(['{', '['])) - i32::from(part.ends_with(['}', ']']));
    }
    for grouping in ["by(", "without("] {
        while let Some(at) = bare.find(grouping) {
            let end = bare[at..].find(')').map_or(bare.len(), |end| at + end + 1);
            bare.replace_range(at..end, " ");
        }
    }
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let functions = bare.match_indices('(').map(|(at, _)| bare[..at].rsplit(|c| !is_name(c)).next().unwrap());
    let functions: BTreeSet<&str> = functions.collect();
    let words = bare.split(|letter| !is_name(letter));
    let words = words.filter(|word| word.contains('_') || *word == "up" || *word == "ALERTS");
    words.filter(|word| !functions.contains(word)).map(str::to_owned).collect()
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = |expression| metrics(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(
        found(r#"sum by (code_x) (rate(a_total{b_c="d_e"}[5m])) / sum(c_count) > 1"#),
        ["a_total", "c_count"]
    );
    assert_eq!(found("histogram_quantile(0.9, sum by (le) (rate(x_bucket[1m])))"), ["x_bucket"]);
}

/// Whether a service defines this metric. A counter of failures is exposed only after the first failure.
fn is_in_the_source(metric: &str) -> bool {
    let name =
        ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(metric);
    let folders = ["gateway", "chat-service", "notify-service", "typing-service", "shared/service"];
    folders.iter().any(|folder| contains(&root().join(folder).join("src"), &format!("\"{name}\"")))
}

fn contains(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { contains(&path, text) } else { fs::read_to_string(&path).unwrap().contains(text) }
    })
}

/// Causes a few events for each kind of metric.
async fn generate_traffic(stack: &Stack) {
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let mut inbox = stack.socket("/ws/notifications/", 2).await;
    let mut typist = stack.socket(&format!("/ws/typing/{id}/"), 1).await;
    typist.send(json!({"is_typing": true})).await;
    for number in 0..50 {
        ada.say(&number.to_string()).await;
        ben.next().await;
        ada.next().await;
    }
    assert_eq!(inbox.next().await["type"], "message_received");
    let mut refused = e2e::Socket::open(&format!("ws://{}/ws/notifications/?token=x", stack.host(0))).await;
    assert_eq!(refused.closed().await, Some(4401));
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", r#"{"user_id":2,"data":{}}"#.into()).await.unwrap();
    backend.flush().await.unwrap();
}

#[tokio::test]
async fn every_panel_and_alert_uses_existing_metrics() {
    let Some(program) = installed("prometheus") else { return };
    let mut stack = Stack::with(Options::one_of_each()).await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(Path::new(program.get_program()), &stack, folder.path()).await;
    // A rate needs two samples.
    for _ in 0..2 {
        generate_traffic(&stack).await;
        let seen = stack.metric(Kind::Chat, 0, "chat_messages_total").await;
        let scraped = || async {
            let value = prometheus.query("chat_messages_total").await.pop()?;
            (value["value"][1].as_str()?.parse::<f64>().ok()? >= seen).then_some(())
        };
        eventually("a scrape of the new values", scraped).await;
    }
    let dashboard = serde_json::from_str(&fs::read_to_string(root().join(DASHBOARD)).unwrap()).unwrap();
    let mut unknown = Vec::new();
    let (mut with_data, mut without) = (0, 0);
    let mut check = async |title: &str, expression: &str| {
        let series = prometheus.query(expression).await;
        let first = series.first().map_or("-", |first| first["value"][1].as_str().unwrap());
        println!("{title:<24} {:>2} series, {first:<12.12} {expression}", series.len());
        let (count, is_empty) =
            if series.is_empty() { (&mut without, true) } else { (&mut with_data, false) };
        *count += 1;
        for metric in metrics(expression) {
            let is_exporter = EXPORTERS.iter().any(|start| metric.starts_with(start));
            let is_external = ["up", "ALERTS"].contains(&metric.as_str()) || is_exporter;
            if is_empty
                && !is_external
                && prometheus.query(&metric).await.is_empty()
                && !is_in_the_source(&metric)
            {
                unknown.push(format!("{title}: {metric}"));
            }
        }
    };
    for (title, expressions) in panels(&dashboard) {
        for expression in expressions {
            check(&title, &expression).await;
        }
    }
    let alerts = alerts(&prometheus).await;
    for (name, expression) in &alerts {
        check(name, expression).await;
    }
    println!("{with_data} expressions have data, {without} have none without failures");
    assert_eq!(unknown, [] as [&str; 0], "no service defines these metrics");
    assert!(with_data >= 15 && alerts.len() > 10, "{with_data} {}", alerts.len());

    // Alerts fire for a dead letter and for a service that is down.
    let backend = stack.backend().await;
    backend.publish("events.unheard_of", r#"{"user_id":2}"#.into()).await.unwrap();
    prometheus.wait_for_alert("DeadLetters").await;
    stack.kill(Kind::Notify, 0).await;
    prometheus.wait_for_alert("ServiceDown").await;
    stack.restart(Kind::Notify, 0);
    let is_resolved =
        || async { prometheus.query(r#"ALERTS{alertname="ServiceDown"}"#).await.is_empty().then_some(()) };
    eventually("the alert to be resolved", is_resolved).await;
}
