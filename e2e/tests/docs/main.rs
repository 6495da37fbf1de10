//! Tests of the documentation: they run every snippet of `docs/` and of the READMEs, and every program of `examples/`,
//! against a real stack, and build the site of `docs/`. Also tests `cargo xtask deadletters`, and tokens of Django.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod book;
#[path = "../browser/browser.rs"]
#[expect(dead_code, reason = "shared with the tests of pages in a browser, which use all of it")]
mod browser;
mod deadletters;
mod django;
#[path = "../browser/engine.rs"]
#[expect(dead_code, reason = "as above")]
mod engine;
mod examples;
mod frames;
mod guides;
mod kinds;
mod links;
mod machines;
mod migration;
mod operations;
mod snippets;
mod start;
mod tokens;
mod tools;

use e2e::{Stack, eventually};
use serde_json::{Value, json};
use snippets::snippet;
use std::path::Path;
use tools::{Tool, run};

/// Waits until a user has `count` notifications and returns them, newest first.
async fn notifications(stack: &Stack, user: i64, count: usize) -> Vec<Value> {
    eventually(&format!("{count} notifications of user {user}"), || async {
        let page = stack.get("/api/notifications", user).await;
        let items = page["items"].as_array().expect("a page has items").clone();
        (items.len() == count).then_some(items)
    })
    .await
}

/// `payment_id` of each notification, oldest first.
fn payments(notifications: &[Value]) -> Vec<i64> {
    let payment = |item: &Value| item["data"]["payment_id"].as_i64().expect("a payment");
    notifications.iter().rev().map(payment).collect()
}

#[tokio::test]
async fn the_terminal_snippets_of_publishing_over_http_work() {
    if let Err(reason) = tools::check_installed("curl", "--version").await {
        return tools::skip("the curl snippets of docs/publishing.md", &reason);
    }
    let stack = Stack::start().await;
    let lines = format!("{}{}", snippet("publish_http.sh"), snippet("cloudevents_http.sh"));
    for _ in 0..2 {
        let output = run(Tool::new("sh", Path::new("/")).arg("-ec").arg(&lines), &stack, &[]).await;
        assert!(output.contains(r#""event_id":"payment-788-completed""#), "{output}");
        assert!(output.contains(r#""event_id":"listing-11-published""#), "{output}");
    }
    let shown = notifications(&stack, 456, 2).await;
    assert_eq!(payments(&shown[1..]), [788]);
    assert_eq!(shown[0]["data"]["listing_id"], 11);
    let conversation = snippet("conversation_http.sh");
    let output = run(Tool::new("sh", Path::new("/")).arg("-ec").arg(conversation), &stack, &[]).await;
    assert!(output.contains(r#""conversation_id":"#), "{output}");
}

#[tokio::test]
async fn the_terminal_snippets_of_publishing_work() {
    let stack = Stack::start().await;
    let lines = format!("{}{}", snippet("publish.sh"), snippet("cloudevents.sh"));
    match tools::nats().await {
        Ok(folder) => {
            let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
            let output =
                run(Tool::new("sh", Path::new("/")).arg("-ec").arg(&lines), &stack, &[("PATH", &path)]).await;
            assert!(output.contains(r#""stream":"EVENTS""#), "{output}");
            let output = run(
                Tool::new("sh", Path::new("/")).arg("-ec").arg(snippet("conversation.sh")),
                &stack,
                &[("PATH", &path)],
            )
            .await;
            assert!(output.contains(r#""conversation_id":"#), "{output}");
        }
        Err(reason) => {
            tools::skip("the nats tool in docs/publishing.md; its events are published without it", &reason);
            snippets::publish_without_tool(&lines, &stack).await;
        }
    }
    let shown = notifications(&stack, 456, 4).await;
    assert_eq!(payments(&shown[2..]), [789, 790]);
    let listings: Vec<&Value> = shown[..2].iter().map(|item| &item["data"]["listing_id"]).collect();
    assert_eq!(listings, [13, 12]);
    assert!(shown[..2].iter().all(|item| item["type"] == "listing_published"));
}

#[tokio::test]
async fn the_snippets_of_personal_data_work() {
    assert_eq!(snippets::PERSONAL_DATA.names(), ["erase.sh", "export.sh"]);
    let folder = match tools::nats().await {
        Ok(folder) => folder,
        Err(reason) => return tools::skip("the nats tool in docs/personal-data.md", &reason),
    };
    let stack = Stack::start().await;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    for (name, expected) in
        [("export.sh", r#"{"items":[],"next":null}"#), ("erase.sh", r#"{"erasure_id":1}"#)]
    {
        let lines = snippets::PERSONAL_DATA.snippet(name);
        let tool = Tool::new("sh", Path::new("/")).arg("-ec").arg(&lines);
        let output = run(tool, &stack, &[("PATH", &path)]).await;
        assert!(output.contains(expected), "{name}: {output}");
    }
}

#[tokio::test]
async fn the_python_snippets_of_publishing_work() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the Python snippets of docs/publishing.md", &reason),
    };
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    // The second time, the event and the message are repeats.
    for _ in 0..2 {
        let output = run(Tool::script(&python, folder.path(), "publish_http.py"), &stack, &[]).await;
        let lines: Vec<&str> = output.lines().collect();
        assert!(lines[0].starts_with("stored as number"), "{output}");
        assert!(
            lines[1].starts_with("message ") && lines[1].contains(", number 1 of conversation "),
            "{output}"
        );
        assert_eq!(lines[2], "403 forbidden", "{output}");
    }
    // Beside the notification of the message.
    assert_eq!(payments(&notifications(&stack, 456, 2).await[1..]), [788]);
    let stack = Stack::start().await;
    for _ in 0..2 {
        let output = run(Tool::script(&python, folder.path(), "publish.py"), &stack, &[]).await;
        assert!(output.contains("stored as number"), "{output}");
    }
    assert_eq!(
        payments(&notifications(&stack, 456, 1).await),
        [789],
        "a repeat creates no second notification"
    );

    let output = run(Tool::script(&python, folder.path(), "conversation.py"), &stack, &[]).await;
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with("message ") && lines[0].contains(", number 1 of conversation "), "{output}");
    assert!(lines[1].starts_with("403 forbidden: "), "{output}");
    let listed = stack.get("/api/conversations", 456).await;
    assert_eq!(
        listed["items"][0]["last_message"]["client_id"],
        Value::Null,
        "the client_id is shown only to its sender, user 457"
    );
    assert_eq!(listed["items"][0]["listing_id"], 12);
}

#[tokio::test]
async fn the_node_snippets_of_publishing_work() {
    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("the Node snippets of docs/publishing.md", &reason),
    };
    let stack = Stack::start().await;
    // In the folder of the packages, because Node looks for them there.
    let folder = tempfile::tempdir_in(folder).unwrap();
    for _ in 0..2 {
        let output = run(Tool::script(&node, folder.path(), "publish_http.mjs"), &stack, &[]).await;
        assert!(output.contains("stored as number"), "{output}");
    }
    assert_eq!(payments(&notifications(&stack, 456, 1).await), [788]);
    let stack = Stack::start().await;
    for _ in 0..2 {
        let output = run(Tool::script(&node, folder.path(), "publish.mjs"), &stack, &[]).await;
        assert!(output.contains("stored as number"), "{output}");
    }
    assert_eq!(
        payments(&notifications(&stack, 456, 1).await),
        [789],
        "a repeat creates no second notification"
    );
    let output = run(Tool::script(&node, folder.path(), "conversation.mjs"), &stack, &[]).await;
    assert!(output.contains(", number 1 of conversation "), "{output}");
}

#[tokio::test]
async fn the_rust_snippet_of_publishing_works() {
    assert_eq!(
        snippet("publish.rs"),
        include_str!("../../examples/publish.rs"),
        "e2e/examples/publish.rs differs from docs/publishing.md"
    );
    let program = tools::target().join("examples/publish");
    if !program.exists() {
        return tools::skip("the Rust snippet", "its example is not built; `cargo xtask test` builds it");
    }
    let stack = Stack::start().await;
    for _ in 0..2 {
        run(Tool::new(&program, Path::new("/")), &stack, &[]).await;
    }
    assert_eq!(
        payments(&notifications(&stack, 456, 1).await),
        [789],
        "a repeat creates no second notification"
    );
}

/// The receivers of the page verify each delivery with the reference libraries of Standard Webhooks, and print those that
/// are valid. During the rotation of its secret, each receiver accepts the deliveries with one of the two.
#[tokio::test]
async fn the_webhook_receivers_of_publishing_accept_the_signatures() {
    const SECRETS: [&str; 2] =
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_bmV3LXNlY3JldC1vZi10aGUtdGVzdHMtMzI="];
    let (python, (node, packages)) = match (tools::python().await, tools::node().await) {
        (Ok(python), Ok(node)) => (python, node),
        (Err(reason), _) | (_, Err(reason)) => return tools::skip("the receivers of webhooks", &reason),
    };
    let folder = tempfile::tempdir_in(packages).unwrap();
    let printed: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let mut endpoints = String::new();
    let mut receivers = Vec::new();
    for (name, program, secret) in [
        ("python", &python, SECRETS[0]),
        ("node", &node, SECRETS[1]),
        ("stranger", &node, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    ] {
        let script = if name == "python" { "webhook.py" } else { "webhook.mjs" };
        let (path, port) = (folder.path().join(script), testkit::free_port().unwrap());
        std::fs::write(&path, snippet(script)).unwrap();
        let lines = printed.clone();
        // Python's server also logs each request.
        let line = move |line: &str| {
            if line.starts_with("chat.") {
                lines.lock().unwrap().push(format!("{name} {line}"));
            }
        };
        let receiver = testkit::Program::new(program).arg(&path);
        let receiver = receiver.env("PORT", port.to_string()).env("WEBHOOK_SECRET", secret);
        receivers.push(receiver.output(testkit::Output::Lines(std::sync::Arc::new(line))).spawn().unwrap());
        let secrets = SECRETS.map(|secret| format!("{secret:?}")).join(", ");
        endpoints +=
            &format!("[endpoints.{name}]\nurl = \"http://127.0.0.1:{port}/\"\nsecrets = [{secrets}]\n");
        eventually("the receiver", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
    }
    let file = folder.path().join("webhooks.toml");
    std::fs::write(&file, endpoints).unwrap();
    let env = vec![
        ("WEBHOOKS", file.display().to_string()),
        ("TELL", "sent".to_owned()),
        ("TELL_TEXT", "yes".to_owned()),
    ];
    let stack = Stack::with(e2e::Options { env, ..e2e::Options::default() }).await;
    let conversation = stack.conversation(&[1, 2]).await;
    let messages = format!("/api/conversations/{conversation}/messages");
    let text = json!({"message": "Ça coûte 45 € 👍"});
    let sent = stack.post(&messages, 1, text).await.expect(201);
    stack
        .post("/api/reports", 2, json!({"message_id": sent["message_id"], "reason": "rude"}))
        .await
        .expect(201);
    let expected =
        ["chat.reported report-1".to_owned(), format!("chat.sent chat.sent-{}", sent["message_id"])];
    let expected = ["node", "python"]
        .into_iter()
        .flat_map(|name| expected.iter().map(move |line| format!("{name} {line}")));
    let expected: Vec<String> = expected.collect();
    eventually("all deliveries", || async {
        let mut lines = printed.lock().unwrap().clone();
        lines.sort();
        (lines == expected).then_some(())
    })
    .await;
    drop(receivers);
}

#[test]
fn every_snippet_is_run_by_a_test() {
    let mut known = vec!["publish.sh", "cloudevents.sh", "conversation.sh", "publish.py", "conversation.py"];
    known.extend(["publish.mjs", "conversation.mjs", "publish.rs"]);
    known.extend(["publish_http.sh", "cloudevents_http.sh", "conversation_http.sh"]);
    known.extend(["publish_http.py", "publish_http.mjs", "webhook.py", "webhook.mjs"]);
    known.extend(django::SNIPPETS);
    known.sort_unstable();
    assert_eq!(snippets::PUBLISHING.names(), known);
}
