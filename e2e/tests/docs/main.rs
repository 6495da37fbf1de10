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
use serde_json::Value;
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

#[test]
fn every_snippet_is_run_by_a_test() {
    let mut known = vec!["publish.sh", "cloudevents.sh", "conversation.sh", "publish.py", "conversation.py"];
    known.extend(["publish.mjs", "conversation.mjs", "publish.rs"]);
    known.extend(django::SNIPPETS);
    known.sort_unstable();
    assert_eq!(snippets::PUBLISHING.names(), known);
}
