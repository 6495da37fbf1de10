//! Whether what came is what was sent: each thing once, and in order.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, ops::AddAssign};

/// What a socket heard of one numbered stream, which starts at a number it knows.
#[derive(Debug, Default, Clone)]
pub struct Judge {
    next: u64,
    /// Passed over, and perhaps still to come.
    missing: BTreeSet<u64>,
    verdict: Verdict,
}

/// What was wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Sent, and never seen.
    pub lost: u64,
    /// Seen again.
    pub repeated: u64,
    /// Seen after a later one.
    pub out_of_order: u64,
}

impl Verdict {
    /// Whether nothing was wrong.
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
    /// A judge of a stream whose first number is this one.
    pub fn from(first: u64) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// This number came. Returns whether it is new.
    pub fn hear(&mut self, number: u64) -> bool {
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

    /// The verdict, if every number before `end` was to come.
    pub fn verdict(&self, end: u64) -> Verdict {
        let passed_over = u64::try_from(self.missing.len()).unwrap_or(u64::MAX);
        Verdict { lost: passed_over + end.saturating_sub(self.next), ..self.verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(heard: &[u64], end: u64) -> (u64, u64, u64) {
        let mut judge = Judge::default();
        for number in heard {
            judge.hear(*number);
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
    fn what_never_came_is_lost() {
        assert_eq!(judged(&[0, 2, 3], 4), (1, 0, 0));
        assert_eq!(judged(&[0, 1], 4), (2, 0, 0));
        assert_eq!(judged(&[1, 4], 6), (4, 0, 0));
    }

    #[test]
    fn what_came_again_is_repeated() {
        assert_eq!(judged(&[0, 1, 1, 2, 0], 3), (0, 2, 0));
    }

    #[test]
    fn what_came_late_is_out_of_order_and_not_lost() {
        assert_eq!(judged(&[0, 2, 1, 3], 4), (0, 0, 1));
        assert_eq!(judged(&[2, 1, 0, 0], 3), (0, 1, 2));
    }

    #[test]
    fn a_stream_may_start_later() {
        let mut judge = Judge::from(17);
        assert!(judge.hear(17) && judge.hear(18) && !judge.hear(18) && !judge.hear(5));
        assert_eq!(judge.verdict(19), Verdict { lost: 0, repeated: 2, out_of_order: 0 });
    }
}
