//! Deadlines: the moment at which a requester stops waiting. Services skip work that is past its deadline.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, num::ParseIntError, str::FromStr, time::Duration};

/// NATS header with the deadline of a request. A request without it has no deadline.
pub const DEADLINE: &str = "Vyzio-Deadline";

/// A moment in wall-clock time, in Unix milliseconds. Its text and JSON form is that number.
///
/// It crosses machines, so their clocks must differ by much less than [`crate::limits::SEND_DEADLINE`] (use NTP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Deadline(i64);

impl Deadline {
    /// The deadline after this time from now.
    pub fn after(wait: Duration) -> Self {
        Self(now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Remaining time; zero once the deadline has passed.
    pub fn remaining(self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now_ms())).unwrap_or_default())
    }

    /// Whether the deadline has passed.
    pub fn is_past(self) -> bool {
        self.0 <= now_ms()
    }

    /// Deadline in Unix milliseconds.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }
}

fn now_ms() -> i64 {
    Timestamp::now().unix_micros() / 1_000
}

impl fmt::Display for Deadline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Deadline {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.trim().parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_and_survives_its_text_form() {
        let deadline = Deadline::after(Duration::from_secs(60));
        assert!(!deadline.is_past() && deadline.remaining() > Duration::from_secs(50));
        assert_eq!(deadline.to_string().parse(), Ok(deadline));
        assert_eq!(serde_json::to_string(&deadline).unwrap(), deadline.to_string());
        assert!(Deadline::after(Duration::ZERO).is_past());
        assert_eq!(Deadline::after(Duration::ZERO).remaining(), Duration::ZERO);
    }
}
