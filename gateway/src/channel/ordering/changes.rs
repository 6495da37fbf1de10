//! The changes of a log's entries, which have numbers of their own.

use crate::channel::entry::Change;
use contract::Seq;
use std::collections::BTreeMap;

/// Number of changes that wait behind a gap. The service is asked for later ones.
const PENDING: usize = 256;

/// Delivers changes in the order of their numbers.
#[derive(Default)]
pub struct Changes {
    /// Number of the last delivered change.
    last: i64,
    /// Boxed, because most logs have none.
    ahead: Option<Box<Ahead>>,
}

/// Changes that are not delivered yet.
#[derive(Default)]
struct Ahead {
    /// The highest number that is known to exist.
    known: i64,
    /// Changes behind a gap, or of entries that are not delivered yet.
    pending: BTreeMap<i64, Change>,
}

impl Changes {
    /// Number of the last delivered change.
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Whether a change exists that is not delivered.
    pub fn is_missing(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.known > self.last)
    }

    /// Takes a number that exists.
    pub fn know(&mut self, number: i64) {
        if number > self.last {
            let ahead = self.ahead.get_or_insert_default();
            ahead.known = ahead.known.max(number);
        }
    }

    /// Takes a change, to deliver it in its turn.
    pub fn hold(&mut self, change: Change) {
        if change.number <= self.last {
            return;
        }
        self.know(change.number);
        let ahead = self.ahead.get_or_insert_default();
        if ahead.pending.len() < PENDING {
            ahead.pending.insert(change.number, change);
        } else {
            metrics::counter!("gateway_pending_full_total").increment(1);
        }
    }

    /// The next change, if every earlier one is delivered and its entry is, too.
    pub fn next_due(&mut self, delivered: Seq) -> Option<Change> {
        let ahead = self.ahead.as_mut()?;
        while let Some(first) = ahead.pending.first_entry() {
            if *first.key() <= self.last {
                first.remove();
            } else if *first.key() == self.last + 1 && first.get().entry.at.seq <= delivered {
                let change = first.remove();
                self.advance(change.number);
                return Some(change);
            } else {
                return None;
            }
        }
        None
    }

    /// Records that every change up to this number is delivered, or replaced by a later one.
    pub fn advance(&mut self, number: i64) {
        self.last = self.last.max(number);
        self.ahead.take_if(|ahead| ahead.known <= self.last);
    }
}
