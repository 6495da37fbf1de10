//! The terminal, shared by all parts, and each part's log file.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use testkit::Output;

use crate::local;

/// Wide enough for every part's name.
const WIDTH: usize = 16;

/// One part's voice.
#[derive(Clone)]
pub struct Voice {
    name: String,
    colour: Option<u8>,
    log: Arc<Mutex<File>>,
    last: Arc<Mutex<String>>,
}

impl Voice {
    /// The voice of the part of that name; its log starts anew.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = local::logs().join(format!("{name}.log"));
        testkit::place::create(&local::logs())?;
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let colour =
            colourful.then(|| [36, 35, 33, 32, 34, 31][name.bytes().map(usize::from).sum::<usize>() % 6]);
        Ok(Self { name: name.to_owned(), colour, log: Arc::new(Mutex::new(log)), last: Arc::default() })
    }

    /// Takes a part's output: all of it goes to its log, and what is `worth_showing` to the terminal.
    pub fn output(&self, worth_showing: fn(&str) -> bool) -> Output {
        let voice = self.clone();
        Output::Lines(Arc::new(move |line| {
            let plain = plain(line);
            let line = if voice.colour.is_some() { line } else { &plain };
            let mut log = voice.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let _ = writeln!(log, "{plain}"); // A full disk must not stop the part.
            drop(log);
            if worth_showing(line) {
                voice.print(line);
            }
            if !plain.trim().is_empty() {
                plain.clone_into(&mut voice.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            }
        }))
    }

    /// Says something about the part.
    pub fn note(&self, text: &str) {
        self.print(&format!("— {text}"));
    }

    /// The last thing that the part said.
    pub fn last(&self) -> String {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn print(&self, line: &str) {
        let name = &self.name;
        let mut out = std::io::stdout().lock();
        // A terminal that has gone must not stop the part either.
        let _ = match self.colour {
            Some(colour) => writeln!(out, "\x1b[{colour}m{name:WIDTH$}│\x1b[0m {line}"),
            None => writeln!(out, "{name:WIDTH$}| {line}"),
        };
    }
}

/// The text without the colours that it has for a terminal.
fn plain(line: &str) -> String {
    let mut pieces = line.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(
            piece.split_once(|end: char| end.is_ascii_alphabetic()).map_or(piece, |(_, text)| text),
        );
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn a_log_has_no_colours() {
        assert_eq!(plain("\x1b[2m10:30\x1b[0m \x1b[32m INFO\x1b[0m it's up [1]"), "10:30  INFO it's up [1]");
        assert_eq!(plain("as it is"), "as it is");
    }
}
