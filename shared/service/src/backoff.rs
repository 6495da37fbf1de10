//! Exponential backoff with jitter.

use std::time::Duration;

/// Delays that double from a first one to a maximum, each with jitter in its upper half ("Exponential Backoff And
/// Jitter", AWS Architecture Blog, 2015: equal jitter).
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    last: Duration,
}

impl Backoff {
    /// Creates a backoff whose delays start around `first` and end around `last`.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { next: first, first, last }
    }

    /// Returns the next delay.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.last);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// Starts again with the first delay, after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_reset() {
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, last);
        for around in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.delay().as_millis();
            assert!((around / 2..=around).contains(&delay), "{delay} is not around {around}");
        }
        backoff.reset();
        assert!(backoff.delay() <= first);
    }
}
