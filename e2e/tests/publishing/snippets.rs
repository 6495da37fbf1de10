//! The fenced blocks of `docs/publishing.md`: each stands below a comment with its name.

use e2e::Stack;
use std::time::Duration;

const PAGE: &str = include_str!("../../../docs/publishing.md");

/// All of them, by name.
///
/// # Panics
/// When a block has no name, or no end.
pub fn all() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut lines = PAGE.lines();
    let mut before = "";
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let name = before.strip_prefix("<!-- snippet: ").and_then(|rest| rest.strip_suffix(" -->"));
            let name = name.unwrap_or_else(|| panic!("a block after {before:?} has no name"));
            let body: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            all.push((name.to_owned(), body));
        }
        before = line;
    }
    all
}

/// The one of this name.
///
/// # Panics
/// When there is none.
pub fn snippet(name: &str) -> String {
    let found = all().into_iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("docs/publishing.md has no {name}")).1
}

/// Publishes what lines such as `nats req SUBJECT -H 'NAME:VALUE' 'BODY'` would, where there is no such tool.
pub async fn publish_without_tool(lines: &str, stack: &Stack) {
    let mut jetstream = async_nats::jetstream::new(stack.backend().await);
    jetstream.set_timeout(Duration::from_secs(10));
    for line in lines.lines() {
        let subject = line.split(' ').nth(2).expect("a subject").to_owned();
        let quoted: Vec<&str> = line.split('\'').skip(1).step_by(2).collect();
        let (body, headers) = quoted.split_last().expect("a body");
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers.iter().filter_map(|header| header.split_once(':')) {
            map.insert(name, value);
        }
        let body = body.as_bytes().to_vec();
        let sent = jetstream.publish_with_headers(subject, map, body.into()).await.expect("publish");
        sent.await.expect("an acknowledgement");
    }
}
