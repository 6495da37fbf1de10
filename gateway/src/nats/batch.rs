//! Queues whose tasks wake once for what comes close together.
//!
//! At a few hundred things a second, what each of them costs is mostly that every process on its way wakes for it. So
//! one that comes alone goes at once, and what follows it soon waits for a moment, to go together.

use std::time::Duration;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

/// The receiving end of a queue.
pub struct Gather<T> {
    queue: mpsc::Receiver<T>,
    /// Between two batches, unless one is full.
    every: Duration,
    /// Things in a batch, at most.
    most: usize,
    next: Instant,
}

impl<T> Gather<T> {
    /// Gathers what comes from this queue into batches of at most `most`, of which one that isn't full follows another
    /// no sooner than after `every`.
    pub fn new(queue: mpsc::Receiver<T>, every: Duration, most: usize) -> Self {
        Self { queue, every, most, next: Instant::now() }
    }

    /// The next batch, in the order in which it came; `None` once every sender is gone and everything is taken.
    pub async fn next(&mut self) -> Option<Vec<T>> {
        let mut batch = vec![self.queue.recv().await?];
        // Those who woke with the one who sent it have their turn first.
        yield_now().await;
        if self.queue.len() + 1 < self.most {
            sleep_until(self.next).await;
        }
        while batch.len() < self.most
            && let Ok(more) = self.queue.try_recv()
        {
            batch.push(more);
        }
        self.next = Instant::now() + self.every;
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_alone_goes_at_once_and_what_follows_soon_goes_together() {
        let (sender, queue) = mpsc::channel(100);
        let mut gather = Gather::new(queue, EVERY, 100);
        let start = Instant::now();
        for at_ms in [0, 50] {
            sender.try_send(at_ms).unwrap();
            assert_eq!(gather.next().await, Some(vec![at_ms]));
            assert_eq!(start.elapsed(), Duration::from_millis(at_ms));
            sender.try_send(at_ms + 1).unwrap();
            let later = sender.clone();
            tokio::spawn(async move {
                for more in 2..5 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    later.try_send(at_ms + more).unwrap();
                }
            });
            assert_eq!(gather.next().await, Some((1..5).map(|more| at_ms + more).collect()));
            assert_eq!(start.elapsed(), Duration::from_millis(at_ms) + EVERY);
            tokio::time::sleep_until(start + Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_waits_for_nothing_and_nothing_is_left_behind() {
        let (sender, queue) = mpsc::channel(100);
        let mut gather = Gather::new(queue, EVERY, 3);
        let start = Instant::now();
        (0..8).for_each(|number| sender.try_send(number).unwrap());
        drop(sender);
        assert_eq!(gather.next().await, Some(vec![0, 1, 2]));
        assert_eq!(gather.next().await, Some(vec![3, 4, 5]));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(gather.next().await, Some(vec![6, 7]));
        assert_eq!(start.elapsed(), EVERY);
        assert_eq!(gather.next().await, None);
    }
}
