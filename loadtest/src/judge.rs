//! Checks that each item arrives exactly once and in order.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, ops::AddAssign};

/// Checks one numbered stream of a socket.
#[derive(Debug, Default, Clone)]
pub struct Judge {
    next: u64,
    /// Skipped numbers, which may still arrive.
    missing: BTreeSet<u64>,
    verdict: Verdict,
}

/// Number of errors.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Items that never arrived.
    pub lost: u64,
    /// Items that arrived again.
    pub repeated: u64,
    /// Items that arrived after a later one.
    pub out_of_order: u64,
}

impl Verdict {
    /// Whether there are no errors.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
    }
}

impl Judge {
    /// Creates a check of a stream that starts with this number.
    pub fn from(first: u64) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// Records the arrival of a number. Returns whether it is new.
    pub fn receive(&mut self, number: u64) -> bool {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            return true;
        }
        if self.missing.remove(&number) {
            self.verdict.out_of_order += 1;
            return true;
        }
        self.verdict.repeated += 1;
        false
    }

    /// Returns the errors, if all numbers before `end` were sent.
    pub fn verdict(&self, end: u64) -> Verdict {
        let skipped = u64::try_from(self.missing.len()).unwrap_or(u64::MAX);
        Verdict { lost: skipped + end.saturating_sub(self.next), ..self.verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(received: &[u64], end: u64) -> (u64, u64, u64) {
        let mut judge = Judge::default();
        for number in received {
            judge.receive(*number);
        }
        let Verdict { lost, repeated, out_of_order } = judge.verdict(end);
        (lost, repeated, out_of_order)
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        assert_eq!(judged(&[0, 1, 2, 3], 4), (0, 0, 0));
        assert_eq!(judged(&[], 0), (0, 0, 0));
    }

    #[test]
    fn missing_numbers_are_lost() {
        assert_eq!(judged(&[0, 2, 3], 4), (1, 0, 0));
        assert_eq!(judged(&[0, 1], 4), (2, 0, 0));
        assert_eq!(judged(&[1, 4], 6), (4, 0, 0));
    }

    #[test]
    fn repetitions_are_counted() {
        assert_eq!(judged(&[0, 1, 1, 2, 0], 3), (0, 2, 0));
    }

    #[test]
    fn late_numbers_are_out_of_order_and_not_lost() {
        assert_eq!(judged(&[0, 2, 1, 3], 4), (0, 0, 1));
        assert_eq!(judged(&[2, 1, 0, 0], 3), (0, 1, 2));
    }

    #[test]
    fn a_stream_may_start_later() {
        let mut judge = Judge::from(17);
        assert!(judge.receive(17) && judge.receive(18) && !judge.receive(18) && !judge.receive(5));
        assert_eq!(judge.verdict(19), Verdict { lost: 0, repeated: 2, out_of_order: 0 });
    }
}
