//! The fenced blocks of the pages in `docs/`: each stands below a comment that says what becomes of it.

use e2e::Stack;
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

/// A fenced block.
pub struct Block {
    pub kind: Kind,
    pub body: String,
}

/// What the comment above a block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `snippet: NAME`: a test runs it.
    Snippet(String),
    /// `frame: CHANNEL send` (or `receive`): it is checked against AsyncAPI.
    Frame(String),
    /// `not run: REASON`.
    NotRun,
}

impl Page {
    /// All of them.
    ///
    /// # Panics
    /// When a block says nothing of itself.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines();
        let mut before = "";
        while let Some(line) = lines.next() {
            if line.starts_with("```") {
                let comment = before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                let kind = match comment.and_then(|comment| comment.split_once(": ")) {
                    Some(("snippet", name)) => Kind::Snippet(name.to_owned()),
                    Some(("frame", channel)) => Kind::Frame(channel.to_owned()),
                    Some(("not run", reason)) if !reason.is_empty() => Kind::NotRun,
                    _ => panic!("{}: a block after {before:?} says nothing of itself", self.name),
                };
                let lines = lines.by_ref().take_while(|line| *line != "```");
                blocks.push(Block { kind, body: lines.map(|line| format!("{line}\n")).collect() });
            }
            before = line;
        }
        blocks
    }

    /// The page as it stands.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The names of its snippets, sorted.
    pub fn names(&self) -> Vec<String> {
        let name = |block: Block| match block.kind {
            Kind::Snippet(name) => Some(name),
            _ => None,
        };
        let mut names: Vec<String> = self.blocks().into_iter().filter_map(name).collect();
        names.sort();
        names
    }

    /// The snippet of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn snippet(&self, name: &str) -> String {
        let wanted = Kind::Snippet(name.to_owned());
        let found = self.blocks().into_iter().find(|block| block.kind == wanted);
        found.unwrap_or_else(|| panic!("{} has no {name}", self.name)).body
    }
}

/// The one of `docs/publishing.md` of this name.
pub fn snippet(name: &str) -> String {
    PUBLISHING.snippet(name)
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
