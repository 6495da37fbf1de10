//! Fenced blocks of the pages in `docs/`. The comment above each block determines its use in tests.

use e2e::Stack;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::time::Duration;

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
    DJANGO = "from-django-channels.md",
    FRENCH = "guide.fr.md",
}

/// The page in the root folder.
pub const README: Page = Page { name: "README.md", text: include_str!("../../../README.md") };

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
        let mut blocks = Vec::new();
        let mut before = String::new();
        let mut events = Parser::new(self.text);
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
                        _ => panic!("{}: no comment above a block, but {before:?}", self.name),
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
