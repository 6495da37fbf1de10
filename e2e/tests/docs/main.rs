//! Every snippet of the pages in `docs/`, run as it stands there against a real stack; `examples/`; the dead letters'
//! tool; tokens as Django makes them.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod deadletters;
mod django;
mod examples;
mod frames;
mod guides;
mod links;
mod machines;
mod migration;
mod snippets;
mod tokens;
mod tools;

use e2e::{Stack, eventually};
use serde_json::Value;
use snippets::snippet;
use std::path::Path;
use tools::{Tool, run};

/// The notifications of a user, newest first, once there are so many.
async fn notifications(stack: &Stack, user: i64, count: usize) -> Vec<Value> {
    eventually(&format!("{count} notifications of user {user}"), || async {
        let page = stack.get("/api/notifications", user).await;
        let items = page["items"].as_array().expect("a page has items").clone();
        (items.len() == count).then_some(items)
    })
    .await
}

fn payments(notifications: &[Value]) -> Vec<i64> {
    let of = |item: &Value| item["data"]["payment_id"].as_i64().expect("a payment");
    notifications.iter().rev().map(of).collect()
}

#[tokio::test]
async fn from_a_terminal() {
    let stack = Stack::start().await;
    let lines = format!("{}{}", snippet("publish.sh"), snippet("cloudevents.sh"));
    match tools::nats().await {
        Ok(folder) => {
            let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
            let said =
                run(Tool::new("sh", Path::new("/")).arg("-ec").arg(&lines), &stack, &[("PATH", &path)]).await;
            assert!(said.contains(r#""stream":"EVENTS""#), "{said}");
            let said = run(
                Tool::new("sh", Path::new("/")).arg("-ec").arg(snippet("conversation.sh")),
                &stack,
                &[("PATH", &path)],
            )
            .await;
            assert!(said.contains(r#""conversation_id":"#), "{said}");
        }
        Err(why) => {
            tools::skip("the nats tool in docs/publishing.md; its events are published without it", &why);
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
async fn from_python() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(why) => return tools::skip("the Python snippets of docs/publishing.md", &why),
    };
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let said = run(Tool::script(&python, folder.path(), "publish.py"), &stack, &[]).await;
        assert!(said.contains("stored as number"), "{said}");
    }
    assert_eq!(payments(&notifications(&stack, 456, 1).await), [789], "twice is once");

    let said = run(Tool::script(&python, folder.path(), "conversation.py"), &stack, &[]).await;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("message ") && lines[0].contains(", number 1 of conversation "), "{said}");
    assert!(lines[1].starts_with("403 forbidden: "), "{said}");
    let listed = stack.get("/api/conversations", 456).await;
    assert_eq!(listed["items"][0]["last_message"]["client_id"], Value::Null, "user 457's own");
    assert_eq!(listed["items"][0]["listing_id"], 12);
}

#[tokio::test]
async fn from_node() {
    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(why) => return tools::skip("the Node snippets of docs/publishing.md", &why),
    };
    let stack = Stack::start().await;
    // Beside the packages, where Node looks for them.
    let folder = tempfile::tempdir_in(folder).unwrap();
    for _ in 0..2 {
        let said = run(Tool::script(&node, folder.path(), "publish.mjs"), &stack, &[]).await;
        assert!(said.contains("stored as number"), "{said}");
    }
    assert_eq!(payments(&notifications(&stack, 456, 1).await), [789], "twice is once");
    let said = run(Tool::script(&node, folder.path(), "conversation.mjs"), &stack, &[]).await;
    assert!(said.contains(", number 1 of conversation "), "{said}");
}

#[tokio::test]
async fn from_rust() {
    assert_eq!(
        snippet("publish.rs"),
        include_str!("../../examples/publish.rs"),
        "the example and the page differ"
    );
    let program = tools::target().join("examples/publish");
    if !program.exists() {
        return tools::skip("the Rust snippet", "its example is not built; `cargo xtask test` builds it");
    }
    let stack = Stack::start().await;
    for _ in 0..2 {
        run(Tool::new(&program, Path::new("/")), &stack, &[]).await;
    }
    assert_eq!(payments(&notifications(&stack, 456, 1).await), [789], "twice is once");
}

#[test]
fn every_snippet_is_run_by_a_test() {
    let mut known = vec!["publish.sh", "cloudevents.sh", "conversation.sh", "publish.py", "conversation.py"];
    known.extend(["publish.mjs", "conversation.mjs", "publish.rs"]);
    known.extend(django::SNIPPETS);
    known.sort_unstable();
    assert_eq!(snippets::PUBLISHING.names(), known);
}
