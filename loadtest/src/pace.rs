//! Schedules of a fixed rate.
//!
//! The runtime's timers have a resolution of a millisecond, which is as long as the measured latencies. So a separate
//! thread sleeps until each instant and then wakes the runtime.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Minimum time between two wake-ups. Items that are due in between are sent together.
const MIN_TICK: Duration = Duration::from_micros(200);

/// A schedule of a fixed rate: item k is due k periods after the start, whether or not earlier items are done.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    period: Duration,
    length: Duration,
    next: u32,
    wake: Arc<Notify>,
}

impl Schedule {
    /// Creates a schedule of `rate` items per second that starts now.
    pub fn new(rate: f64, length: Duration) -> Self {
        let (start, period) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let wake = Arc::new(Notify::new());
        let (ours, tick) = (wake.clone(), period.max(MIN_TICK));
        thread::spawn(move || {
            let mut at = start;
            // When this thread holds the only reference, nobody waits any more.
            while Arc::strong_count(&ours) > 1 {
                at += tick;
                thread::sleep(at.saturating_duration_since(Instant::now()));
                ours.notify_one();
            }
        });
        Self { start, period, length, next: 0, wake }
    }

    /// Waits until the next item is due, and returns the time at which it was due; `None` at the end.
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
    async fn a_late_schedule_catches_up() {
        let mut schedule = Schedule::new(1_000.0, Duration::from_millis(50));
        thread::sleep(Duration::from_millis(20)); // Blocks the runtime.
        let mut due = Vec::new();
        while let Some(at) = schedule.next().await {
            due.push(at);
        }
        assert_eq!(due.len(), 50);
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(1)));
        assert!(schedule.start.elapsed() >= Duration::from_millis(49));
    }
}
