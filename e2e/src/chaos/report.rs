//! What a run came to.

use super::world::{Counters, Violation};
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    sync::Arc,
    time::Duration,
};

/// Columns of the first table.
const COLUMNS: [&str; 4] = ["kills", "stops", "terms", "cuts"];
/// Violations that are shown.
const SHOWN: usize = 12;

/// What a run came to.
pub struct Report {
    /// What its random choices came from.
    pub seed: u64,
    /// How long people chatted.
    pub chatted: Duration,
    /// How long it took until everyone had caught up.
    pub settled: Duration,
    /// What was done to the stack, by part and column.
    pub faults: BTreeMap<(&'static str, &'static str), u64>,
    /// Numbers.
    pub counters: Arc<Counters>,
    /// Rows of messages and of notifications at the end.
    pub stored: (usize, usize),
    /// What was done, and when.
    pub notes: Vec<(Duration, String)>,
    /// What was found wrong.
    pub violations: Vec<Violation>,
    /// How to do the same again.
    pub again: String,
}

impl Report {
    /// Whether nothing was found wrong.
    pub fn is_clean(&self) -> bool {
        Counters::get(&self.counters.violations) == 0
    }

    fn table(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<16} {:>6} {:>6} {:>6} {:>6}", "", COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3])?;
        let mut parts: Vec<&str> = self.faults.keys().map(|(part, _)| *part).collect();
        parts.dedup();
        for part in parts {
            write!(out, "{part:<16}")?;
            for column in COLUMNS {
                write!(out, " {:>6}", self.faults.get(&(part, column)).copied().unwrap_or(0))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn numbers(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let counters = &self.counters;
        let rows = [
            ("messages", &counters.messages),
            ("acknowledged", &counters.acked),
            ("sent again", &counters.resent),
            ("told unavailable", &counters.unavailable),
            ("reads", &counters.reads),
            ("events", &counters.events),
            ("frames seen", &counters.frames),
            ("notifications seen", &counters.notifications),
            ("reconnects", &counters.reconnects),
            ("resumes", &counters.resumes),
            ("VIOLATIONS", &counters.violations),
        ];
        for (name, counter) in rows {
            writeln!(out, "{name:<20} {:>8}", Counters::get(counter))?;
        }
        let (messages, notifications) = self.stored;
        writeln!(
            out,
            "{:<20} {messages:>8}\n{:<20} {notifications:>8}",
            "messages stored", "notifications stored"
        )
    }

    fn found(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for Violation { at, fault } in self.violations.iter().take(SHOWN) {
            writeln!(out, "\n{:.3} s  {}: {}", at.as_secs_f64(), fault.rule, fault.what)?;
            for line in &fault.evidence {
                writeln!(out, "    {line:.300}")?;
            }
            let around = self
                .notes
                .iter()
                .filter(|(noted, _)| *noted <= *at && at.saturating_sub(*noted) < Duration::from_secs(15));
            for (noted, what) in around {
                writeln!(out, "    done at {:.3} s: {what}", noted.as_secs_f64())?;
            }
        }
        let more = Counters::get(&self.counters.violations).saturating_sub(SHOWN as u64);
        if more > 0 {
            writeln!(out, "\nand {more} more")?;
        }
        writeln!(out, "\nThe same again: {}", self.again)
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (chatted, settled) = (self.chatted.as_secs_f32(), self.settled.as_secs_f32());
        writeln!(
            out,
            "seed {}: {chatted:.0} s of chat, whole again and caught up {settled:.1} s later\n",
            self.seed
        )?;
        self.table(out)?;
        writeln!(out)?;
        self.numbers(out)?;
        if self.is_clean() { Ok(()) } else { self.found(out) }
    }
}
