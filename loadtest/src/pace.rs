//! When the next thing is due.
//!
//! The runtime's timers are good to a millisecond, which is as long as what is measured. So a thread of its own sleeps
//! until each instant, and wakes the runtime then.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The shortest time between two wake-ups; what is due in between is sent together.
const GRAIN: Duration = Duration::from_micros(200);

/// A schedule of a fixed rate: the k-th thing is due k periods after the start, whether or not those before are done.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    period: Duration,
    length: Duration,
    next: u32,
    wake: Arc<Notify>,
}

impl Schedule {
    /// A schedule of so many things per second, that starts now and is this long.
    pub fn new(rate: f64, length: Duration) -> Self {
        let (start, period) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let wake = Arc::new(Notify::new());
        let (ours, tick) = (wake.clone(), period.max(GRAIN));
        thread::spawn(move || {
            let mut at = start;
            // Alone with it, nobody waits any more.
            while Arc::strong_count(&ours) > 1 {
                at += tick;
                thread::sleep(at.saturating_duration_since(Instant::now()));
                ours.notify_one();
            }
        });
        Self { start, period, length, next: 0, wake }
    }

    /// Waits until the next thing is due, and says when that was; `None` at the end.
    pub async fn next(&mut self) -> Option<Instant> {
        let offset = self.period * self.next;
        if offset >= self.length {
            return None;
        }
        let due = self.start + offset;
        while Instant::now() < due {
            self.wake.notified().await;
        }
        self.next += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_schedule_catches_up_with_what_was_due() {
        let mut schedule = Schedule::new(1_000.0, Duration::from_millis(50));
        thread::sleep(Duration::from_millis(20)); // The runtime is held up.
        let mut due = Vec::new();
        while let Some(at) = schedule.next().await {
            due.push(at);
        }
        assert_eq!(due.len(), 50);
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(1)));
        assert!(schedule.start.elapsed() >= Duration::from_millis(49));
    }
}
