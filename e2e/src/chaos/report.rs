//! Report of a run.

use super::world::{Counters, Violation};
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    sync::Arc,
    time::Duration,
};

/// Columns of the table of faults.
const COLUMNS: [&str; 4] = ["kills", "stops", "terms", "cuts"];
/// Maximum number of printed violations.
const SHOWN_MAX: usize = 12;

/// Report of a run.
pub struct Report {
    /// Seed of all random choices.
    pub seed: u64,
    /// Duration of the chat.
    pub chatted: Duration,
    /// Time until all clients had caught up.
    pub settled: Duration,
    /// Number of injected faults, by part and column.
    pub faults: BTreeMap<(&'static str, &'static str), u64>,
    /// Counters of the run.
    pub counters: Arc<Counters>,
    /// Numbers of stored messages and notifications at the end.
    pub stored: (usize, usize),
    /// Injected faults with their times.
    pub notes: Vec<(Duration, String)>,
    /// Detected violations.
    pub violations: Vec<Violation>,
    /// Command line that repeats the run.
    pub again: String,
}

impl Report {
    /// Whether there are no violations.
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
            ("changes", &counters.changes),
            ("changes made", &counters.changed),
            ("users erased", &counters.erased),
            ("sent again", &counters.resent),
            ("unavailable errors", &counters.unavailable),
            ("reads", &counters.reads),
            ("events", &counters.events),
            ("frames received", &counters.frames),
            ("notifications", &counters.notifications),
            ("reminders", &counters.reminders),
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
        for Violation { at, fault } in self.violations.iter().take(SHOWN_MAX) {
            writeln!(out, "\n{:.3} s  {}: {}", at.as_secs_f64(), fault.rule, fault.what)?;
            for line in &fault.evidence {
                writeln!(out, "    {line:.300}")?;
            }
            let recent_faults = self
                .notes
                .iter()
                .filter(|(noted, _)| *noted <= *at && at.saturating_sub(*noted) < Duration::from_secs(15));
            for (noted, what) in recent_faults {
                writeln!(out, "    fault at {:.3} s: {what}", noted.as_secs_f64())?;
            }
        }
        let more = Counters::get(&self.counters.violations).saturating_sub(SHOWN_MAX as u64);
        if more > 0 {
            writeln!(out, "\nand {more} more")?;
        }
        writeln!(out, "\nTo repeat this run: {}", self.again)
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (chatted, settled) = (self.chatted.as_secs_f32(), self.settled.as_secs_f32());
        writeln!(
            out,
            "seed {}: {chatted:.0} s of chat, repaired and caught up {settled:.1} s later\n",
            self.seed
        )?;
        self.table(out)?;
        writeln!(out)?;
        self.numbers(out)?;
        if self.is_clean() { Ok(()) } else { self.found(out) }
    }
}
