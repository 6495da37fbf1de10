//! The Django package, `clients/django`: clean environments install its wheel and run its tests, with the oldest Django
//! that it supports on SQLite, and with a newer one on Postgres and against a real stack.

use crate::{node, python};
use e2e::{Options, SECRET, Stack};
use serde_json::json;
use testkit::{TestDatabase, free_port};

/// The key of the backend, and one that only publishes events.
const KEY: &str = "the-key-of-the-end-to-end-tests-0123456789";
const EVENTS_KEY: &str = "the-key-of-the-end-to-end-tests-for-events";
const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The oldest Django, and the newest one for each Python that this project supports.
const OLDEST: &str = "Django==4.2.30";
const NEWER: &str = "Django==5.2.19";

/// Installs the package with a Django and runs its tests.
async fn run_tests(django: &str, checks_types: bool, options: &[&str], env: &[(&str, &str)]) {
    let folder = tempfile::tempdir().expect("create a folder");
    let packages = [django, "--requirement", "source/tests/requirements.txt"];
    let python = match python::installed("django", folder.path(), &packages).await {
        Ok(python) => python,
        Err(reason) => return node::skip("the tests of clients/django", &reason),
    };
    let must = async |arguments: &[&str], subfolder: &str, env: &[(&str, &str)]| {
        let output = node::run(&python, arguments, &folder.path().join(subfolder), env).await;
        output.unwrap_or_else(|error| panic!("{error}"))
    };
    if checks_types {
        let pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install"];
        must(&[&pip[..], &["--requirement", "tests/mypy-requirements.txt"]].concat(), "source", &[]).await;
        must(&["-m", "mypy", "--strict", "src", "tests"], "source", &[("PYTHONPATH", "src:tests")]).await;
    }
    must(&["manage.py", "makemigrations", "--check", "vyzio_realtime"], "source/tests", env).await;
    println!("{}", must(&[&["-X", "dev", "manage.py", "test"], options].concat(), "source/tests", env).await);
}

#[tokio::test]
async fn the_django_package_passes_its_tests_with_the_oldest_django_on_sqlite() {
    // The servers start slowly, and behave alike on every Django.
    run_tests(OLDEST, false, &["--exclude-tag", "servers"], &[]).await;
}

#[tokio::test]
async fn the_django_package_passes_its_tests_on_postgres_and_against_a_stack() {
    let port = free_port().expect("a port");
    let env = vec![
        ("BACKEND_KEYS", format!("shop:{KEY},notifier:{EVENTS_KEY}:events")),
        ("WEBHOOK_URL", format!("http://127.0.0.1:{port}/realtime/webhook/")),
        ("WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
        ("WEBHOOK_EVENTS", "chat.reported".to_owned()),
        ("SYSTEM_USER_ID", "9000000000".to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let database = TestDatabase::create().await.expect("a database");
    let url = format!("http://{}", stack.host(0));
    let nats = stack.nats_urls("operator").join(",");
    let stack_of_test = json!({
        "url": url, "nats": nats, "key": KEY, "events_key": EVENTS_KEY, "secret": SECRET,
        "webhook_port": port, "webhook_secret": WEBHOOK_SECRET,
    });
    let env = stack_of_test.to_string();
    run_tests(NEWER, true, &[], &[("STACK", &env), ("DATABASE_URL", &database.url())]).await;
}
