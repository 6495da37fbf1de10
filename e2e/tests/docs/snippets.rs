//! Fenced blocks of the pages in `docs/`. The comment above each block determines its use in tests.

use e2e::Stack;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::{fs, path::Path, time::Duration};

/// A page of `docs/`.
pub struct Page {
    name: &'static str,
    text: &'static str,
}

macro_rules! pages {
    ($($constant:ident = $name:literal),* $(,)?) => {
        $(pub const $constant: Page = Page {
            name: concat!("docs/", $name),
            text: include_str!(concat!("../../../docs/", $name)),
        };)*
    };
}

pages! {
    PUBLISHING = "publishing.md",
    GETTING_STARTED = "getting-started.md",
    PROTOCOL = "protocol.md",
    KINDS = "kinds.md",
    PREFERENCES = "preferences.md",
    REMINDERS = "reminders.md",
    DJANGO = "from-django-channels.md",
    FRENCH = "guide.fr.md",
    OPERATIONS = "operations.md",
    PERSONAL_DATA = "personal-data.md",
    START_DJANGO = "start/django.md",
    START_REACT = "start/react.md",
    START_NODE = "start/node.md",
    START_PYTHON = "start/python.md",
    START_TOKEN = "start/token.md",
    START_CSP = "start/csp.md",
    TROUBLESHOOTING = "troubleshooting.md",
}

/// The page in the root folder.
pub const README: Page = Page { name: "README.md", text: include_str!("../../../README.md") };
/// The page of the JavaScript client.
pub const JS_README: Page =
    Page { name: "clients/js/README.md", text: include_str!("../../../clients/js/README.md") };
/// The page of the Python client.
pub const PYTHON_README: Page =
    Page { name: "clients/python/README.md", text: include_str!("../../../clients/python/README.md") };

/// The pages with snippets. For each, a test compares the names of its snippets with those that tests run.
const ALL: [&Page; 19] = [
    &README,
    &JS_README,
    &PYTHON_README,
    &PUBLISHING,
    &KINDS,
    &PREFERENCES,
    &REMINDERS,
    &GETTING_STARTED,
    &DJANGO,
    &FRENCH,
    &OPERATIONS,
    &PERSONAL_DATA,
    &START_DJANGO,
    &START_REACT,
    &START_NODE,
    &START_PYTHON,
    &START_TOKEN,
    &START_CSP,
    &TROUBLESHOOTING,
];

/// Pages with snippets that tests of the clients run: `clients/js/test/readme.test.js` and
/// `clients/django/tests/test_readme.py`.
const RUN_ELSEWHERE: [&str; 2] = ["clients/js/README.md", "clients/django/README.md"];

/// A fenced block.
pub struct Block {
    pub kind: Kind,
    pub body: String,
}

/// Use of a block, from the comment above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `snippet: NAME`: a test runs it.
    Snippet(String),
    /// `snippet`, without a name: a test of the client runs all of these of its README as one program.
    Unnamed,
    /// `frame: CHANNEL send` (or `receive`): a test checks it against AsyncAPI.
    Frame(String),
    /// `not run: REASON`.
    NotRun,
}

impl Page {
    /// All fenced blocks.
    ///
    /// # Panics
    /// If a block has no comment.
    pub fn blocks(&self) -> Vec<Block> {
        blocks(self.name, self.text)
    }

    /// Text of the page.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// Names of the page's snippets, sorted.
    pub fn names(&self) -> Vec<String> {
        let name = |block: Block| match block.kind {
            Kind::Snippet(name) => Some(name),
            _ => None,
        };
        let mut names: Vec<String> = self.blocks().into_iter().filter_map(name).collect();
        names.sort();
        names
    }

    /// Snippet with this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn snippet(&self, name: &str) -> String {
        let wanted = Kind::Snippet(name.to_owned());
        let found = self.blocks().into_iter().find(|block| block.kind == wanted);
        found.unwrap_or_else(|| panic!("{} has no {name}", self.name)).body
    }
}

/// All fenced blocks of a page.
///
/// # Panics
/// If a block has no comment.
fn blocks(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = String::new();
    let mut events = Parser::new(text);
    while let Some(event) = events.next() {
        match event {
            Event::Html(comment) => comment.trim().clone_into(&mut before),
            Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => {
                let comment = before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                let kind = match comment.and_then(|comment| comment.split_once(": ")) {
                    Some(("snippet", name)) => Kind::Snippet(name.to_owned()),
                    Some(("frame", channel)) => Kind::Frame(channel.to_owned()),
                    Some(("not run", reason)) if !reason.is_empty() => Kind::NotRun,
                    None if comment == Some("snippet") => Kind::Unnamed,
                    _ => panic!("{}: no comment above a block, but {before:?}", name),
                };
                let text =
                    |event| if let Event::Text(text) = event { Some(text.into_string()) } else { None };
                blocks.push(Block { kind, body: events.by_ref().map_while(text).collect() });
                before.clear();
            }
            _ => before.clear(),
        }
    }
    blocks
}

/// Snippet of `docs/publishing.md` with this name.
pub fn snippet(name: &str) -> String {
    PUBLISHING.snippet(name)
}

/// Publishes the events of lines such as `nats req SUBJECT -H 'NAME:VALUE' 'BODY'` without the `nats` tool.
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

/// Pages, by their paths in the repository.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut paths = vec![root.join("README.md")];
    for folder in ["docs", "docs/adr", "docs/start", "clients/js", "clients/python", "clients/django"] {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.extension() == Some("md".as_ref())));
    }
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_block_has_a_comment_and_every_page_with_snippets_a_test() {
    for (name, text) in documents() {
        let has_snippets = blocks(&name, &text).iter().any(|block| matches!(block.kind, Kind::Snippet(_)));
        let is_unnamed = |block: &Block| block.kind == Kind::Unnamed;
        assert!(
            RUN_ELSEWHERE.contains(&name.as_str()) || !blocks(&name, &text).iter().any(is_unnamed),
            "{name}: a snippet has a name"
        );
        let is_known = ALL.iter().any(|page| page.name == name);
        assert!(is_known || !has_snippets, "{name} has snippets, and no test runs them");
    }
}
