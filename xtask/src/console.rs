//! Output of the parts: the shared terminal, and a log file for each part.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use testkit::Output;

use crate::local;

/// Width of the column of part names.
const WIDTH: usize = 16;

/// Output of one part.
#[derive(Clone)]
pub struct PartOutput {
    name: String,
    colour: Option<u8>,
    log: Arc<Mutex<File>>,
    last: Arc<Mutex<String>>,
}

impl PartOutput {
    /// Creates the output of the part with this name, with an empty log.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = local::logs().join(format!("{name}.log"));
        testkit::place::create(&local::logs())?;
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let colour =
            colourful.then(|| [36, 35, 33, 32, 34, 31][name.bytes().map(usize::from).sum::<usize>() % 6]);
        Ok(Self { name: name.to_owned(), colour, log: Arc::new(Mutex::new(log)), last: Arc::default() })
    }

    /// Receives a part's output: all lines go to its log, and those that match `is_shown` to the terminal.
    pub fn output(&self, is_shown: fn(&str) -> bool) -> Output {
        let part = self.clone();
        Output::Lines(Arc::new(move |line| {
            let plain = without_colours(line);
            let line = if part.colour.is_some() { line } else { &plain };
            let mut log = part.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let _ = writeln!(log, "{plain}"); // A full disk must not stop the part.
            drop(log);
            if is_shown(line) {
                part.print(line);
            }
            if !plain.trim().is_empty() {
                plain.clone_into(&mut part.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            }
        }))
    }

    /// Prints a note about the part.
    pub fn note(&self, text: &str) {
        self.print(&format!("— {text}"));
    }

    /// Last line of the part's output.
    pub fn last(&self) -> String {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn print(&self, line: &str) {
        let name = &self.name;
        let mut out = std::io::stdout().lock();
        // A closed terminal must not stop the part either.
        let _ = match self.colour {
            Some(colour) => writeln!(out, "\x1b[{colour}m{name:WIDTH$}│\x1b[0m {line}"),
            None => writeln!(out, "{name:WIDTH$}| {line}"),
        };
    }
}

/// Removes terminal colours from a text.
fn without_colours(line: &str) -> String {
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
    use super::without_colours;

    #[test]
    fn logs_contain_no_colours() {
        assert_eq!(
            without_colours("\x1b[2m10:30\x1b[0m \x1b[32m INFO\x1b[0m it's up [1]"),
            "10:30  INFO it's up [1]"
        );
        assert_eq!(without_colours("unchanged"), "unchanged");
    }
}
