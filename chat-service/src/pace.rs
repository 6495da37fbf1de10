//! The pace of work in the background, which must not delay the chat.

use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Time of rest for each unit of time of work: so the work takes 5 % of a connection.
const REST: u32 = 19;
/// Maximum time of a rest. Work of more than a second has mostly waited, for a lock or for another service.
const REST_MAX: Duration = Duration::from_secs(20);

/// Measures work, and rests for so long that it takes at most 5 % of the time.
#[derive(Debug, Default)]
pub struct Pace {
    worked: Duration,
}

impl Pace {
    /// Does a part of the work.
    pub async fn work<T>(&mut self, part: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = part.await;
        self.worked += start.elapsed();
        done
    }

    /// Rests after the work so far. Returns false if the token is cancelled.
    pub async fn rest(&mut self, shutdown: &CancellationToken) -> bool {
        let rest = std::mem::take(&mut self.worked).saturating_mul(REST);
        pause(rest.min(REST_MAX), shutdown).await
    }
}

/// Waits for this time. Returns false if the token is cancelled.
pub async fn pause(time: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = sleep(time) => true,
        () = shutdown.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_takes_a_twentieth_of_the_time() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        for part in [10, 100, 3] {
            pace.work(sleep(Duration::from_millis(part))).await;
            pace.work(sleep(Duration::from_millis(part))).await;
            assert!(pace.rest(&CancellationToken::new()).await);
        }
        assert_eq!(start.elapsed(), Duration::from_millis(20 * 2 * 113));

        let start = Instant::now();
        pace.work(sleep(Duration::from_mins(1))).await;
        assert!(pace.rest(&CancellationToken::new()).await);
        assert_eq!(start.elapsed(), Duration::from_mins(1) + REST_MAX);
    }
}
