//! The dashboard's panels and the alerts, on a real Prometheus that scrapes a stack at work.

use crate::tools::{installed, root};
use e2e::{Kind, Options, Stack, eventually};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};
use testkit::{Child, Output, Program, free_port};

const DASHBOARD: &str = "deploy/observability/grafana/dashboards/vyzio.json";
/// What the exporter beside nats-server tells, which is in no package.
const OF_NATS: [&str; 2] = ["jetstream_", "gnatsd_"];

/// A Prometheus with our alerts.
struct Prometheus {
    url: String,
    http: reqwest::Client,
    _process: Child,
}

impl Prometheus {
    /// One that scrapes this stack every second, and in which alerts fire at once.
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
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    }

    /// The series that an expression comes to now.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}")).await;
        let answer = answer.unwrap_or_else(|| panic!("Prometheus does not take {expression}"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }

    async fn fires(&self, alert: &str) {
        let firing = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        eventually(alert, || async { (!self.query(&firing).await.is_empty()).then_some(()) }).await;
    }
}

/// The title of each panel, with its expressions.
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

/// Each alert's name and expression, as Prometheus has read them.
async fn alerts(prometheus: &Prometheus) -> Vec<(String, String)> {
    let rules: Value = serde_json::from_str(&prometheus.get("/api/v1/rules").await.unwrap()).unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules.map(|rule| (text(rule, "name"), text(rule, "query"))).collect()
}

/// The metrics that an expression is about.
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

/// Whether a program of ours has such a metric: one that counts failures is told of once there was one.
fn is_in_the_source(metric: &str) -> bool {
    let name =
        ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(metric);
    let folders = ["gateway", "chat-service", "notify-service", "typing-service", "shared/service"];
    folders.iter().any(|folder| holds(&root().join(folder).join("src"), &format!("\"{name}\"")))
}

fn holds(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, text) } else { fs::read_to_string(&path).unwrap().contains(text) }
    })
}

/// A little of everything that is counted.
async fn work(stack: &Stack) {
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let mut inbox = stack.socket("/ws/notifications/", 2).await;
    let mut types = stack.socket(&format!("/ws/typing/{id}/"), 1).await;
    types.send(json!({"is_typing": true})).await;
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
async fn every_panel_and_alert_is_about_metrics_that_there_are() {
    let Some(program) = installed("prometheus") else { return };
    let mut stack = Stack::with(Options::one_of_each()).await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(Path::new(program.get_program()), &stack, folder.path()).await;
    // A rate needs a sample before and one after.
    for _ in 0..2 {
        work(&stack).await;
        let seen = stack.metric(Kind::Chat, 0, "chat_messages_total").await;
        let scraped = || async {
            let value = prometheus.query("chat_messages_total").await.pop()?;
            (value["value"][1].as_str()?.parse::<f64>().ok()? >= seen).then_some(())
        };
        eventually("a scrape of what was done", scraped).await;
    }
    let dashboard = serde_json::from_str(&fs::read_to_string(root().join(DASHBOARD)).unwrap()).unwrap();
    let mut unknown = Vec::new();
    let (mut with_data, mut without) = (0, 0);
    let mut look = async |title: &str, expression: &str| {
        let series = prometheus.query(expression).await;
        let first = series.first().map_or("-", |first| first["value"][1].as_str().unwrap());
        println!("{title:<24} {:>2} series, {first:<12.12} {expression}", series.len());
        let (known, missing) = if series.is_empty() { (&mut without, true) } else { (&mut with_data, false) };
        *known += 1;
        for metric in metrics(expression) {
            let is_of_nats = OF_NATS.iter().any(|start| metric.starts_with(start));
            let told = ["up", "ALERTS"].contains(&metric.as_str()) || is_of_nats;
            if missing && !told && prometheus.query(&metric).await.is_empty() && !is_in_the_source(&metric) {
                unknown.push(format!("{title}: {metric}"));
            }
        }
    };
    for (title, expressions) in panels(&dashboard) {
        for expression in expressions {
            look(&title, &expression).await;
        }
    }
    let alerts = alerts(&prometheus).await;
    for (name, expression) in &alerts {
        look(name, expression).await;
    }
    println!("{with_data} expressions have data, {without} have none while all is well");
    assert_eq!(unknown, [] as [&str; 0], "no metric of ours");
    assert!(with_data >= 15 && alerts.len() > 10, "{with_data} {}", alerts.len());

    // What can't be used, and a service that is gone, are told.
    let backend = stack.backend().await;
    backend.publish("events.unheard_of", r#"{"user_id":2}"#.into()).await.unwrap();
    prometheus.fires("DeadLetters").await;
    stack.kill(Kind::Notify, 0).await;
    prometheus.fires("ServiceDown").await;
    stack.restart(Kind::Notify, 0);
    let well =
        || async { prometheus.query(r#"ALERTS{alertname="ServiceDown"}"#).await.is_empty().then_some(()) };
    eventually("the alert to end", well).await;
}
