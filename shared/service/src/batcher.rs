//! Batches: requests that arrive close together are handled together.
//!
//! At a few hundred requests a second, most of the cost of a request is waking each process on its way. So a request
//! that arrives alone is handled at once; those that follow within a short interval wait for its end and form one
//! batch.

use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

/// Limits of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub struct Limits<Q> {
    /// Maximum number of queued requests. Further callers wait, or are refused.
    pub waiting: usize,
    /// Maximum number of requests in one batch.
    pub items: usize,
    /// Maximum sum of weights in one batch. A single heavier request forms a batch of its own.
    pub weight: usize,
    /// Returns the weight of a request, in the unit of `weight`.
    pub weigh: fn(&Q) -> usize,
    /// Minimum time between two batches that are not full.
    pub interval: Duration,
    /// Counter that is incremented whenever the queue is full.
    pub full_metric: &'static str,
}

impl<Q> Limits<Q> {
    /// Creates limits without weights, and without a pause between batches.
    pub const fn new(waiting: usize, items: usize, full_metric: &'static str) -> Self {
        let (weight, interval) = (usize::MAX, Duration::ZERO);
        Self { waiting, items, weight, weigh: |_| 0, interval, full_metric }
    }
}

/// A request with its reply channel.
pub struct Call<Q, R> {
    /// Request of the caller.
    pub request: Q,
    reply: oneshot::Sender<R>,
}

impl<Q, R> Call<Q, R> {
    /// Replies to the caller, unless it has given up.
    pub fn reply(self, reply: R) {
        self.reply.send(reply).ok();
    }

    /// Separates the request from its reply channel.
    pub fn split(self) -> (Q, Reply<R>) {
        (self.request, Reply(self.reply))
    }

    /// Whether the caller has given up.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// The reply channel of a request.
pub struct Reply<R>(oneshot::Sender<R>);

impl<R> Reply<R> {
    /// Replies to the caller, unless it has given up.
    pub fn send(self, reply: R) {
        self.0.send(reply).ok();
    }
}

/// The reason why a request has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The queue is full.
    #[error("the queue is full")]
    Full,
    /// All batches have ended, or the request was dropped.
    #[error("the request was dropped")]
    Dropped,
}

/// The sending end. Cheap to clone. The batches end after every clone is dropped and every request is handled.
pub struct Batcher<Q, R> {
    calls: mpsc::Sender<Call<Q, R>>,
    full_metric: &'static str,
}

impl<Q, R> Clone for Batcher<Q, R> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone(), full_metric: self.full_metric }
    }
}

/// The receiving end.
pub struct Batches<Q, R> {
    calls: mpsc::Receiver<Call<Q, R>>,
    limits: Limits<Q>,
    /// Batch in progress. It is stored here, so that a cancelled `next` loses nothing.
    batch: Vec<Call<Q, R>>,
    weight: usize,
    /// Request that was too heavy for the last batch.
    held: Option<Call<Q, R>>,
    next: Instant,
}

/// Creates both ends.
pub fn batcher<Q, R>(limits: Limits<Q>) -> (Batcher<Q, R>, Batches<Q, R>) {
    let (sender, calls) = mpsc::channel(limits.waiting);
    let batcher = Batcher { calls: sender, full_metric: limits.full_metric };
    (batcher, Batches { calls, limits, batch: Vec::new(), weight: 0, held: None, next: Instant::now() })
}

impl<Q, R> Batcher<Q, R> {
    /// Sends a request and waits for its reply. Waits first if the queue is full.
    ///
    /// # Errors
    /// [`CallError::Dropped`].
    pub async fn call(&self, request: Q) -> Result<R, CallError> {
        if self.calls.capacity() == 0 {
            metrics::counter!(self.full_metric).increment(1);
        }
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { request, reply }).await.map_err(|_| CallError::Dropped)?;
        answer.await.map_err(|_| CallError::Dropped)
    }

    /// Sends a request and returns the receiver of its reply, without waiting.
    ///
    /// # Errors
    /// [`CallError`] if the queue is full, or the batches have ended.
    pub fn try_call(&self, request: Q) -> Result<oneshot::Receiver<R>, CallError> {
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(Call { request, reply }) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => {
                metrics::counter!(self.full_metric).increment(1);
                Err(CallError::Full)
            }
            Err(TrySendError::Closed(_)) => Err(CallError::Dropped),
        }
    }

    /// Returns a function that counts the queued requests. It does not keep the batches alive.
    pub fn depth(&self) -> impl Fn() -> usize + Send + Sync + use<Q, R>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        let calls = self.calls.downgrade();
        move || calls.upgrade().map_or(0, |calls| calls.max_capacity() - calls.capacity())
    }
}

impl<Q, R> Batches<Q, R> {
    /// Returns the next batch, in the order of arrival. Returns `None` after every sender is dropped and every request
    /// is returned. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Call<Q, R>>> {
        if self.batch.is_empty() {
            let first = match self.held.take() {
                Some(held) => held,
                None => self.calls.recv().await?,
            };
            self.weight = (self.limits.weigh)(&first.request);
            self.batch.push(first);
        }
        if !self.limits.interval.is_zero() {
            // Tasks that woke together with the sender run first, so that their requests join the same batch.
            yield_now().await;
            if self.calls.len() + self.batch.len() < self.limits.items {
                sleep_until(self.next).await;
            }
        }
        self.fill();
        self.next = Instant::now() + self.limits.interval;
        Some(std::mem::take(&mut self.batch))
    }

    /// Adds the queued requests that fit.
    fn fill(&mut self) {
        while self.batch.len() < self.limits.items
            && let Ok(call) = self.calls.try_recv()
        {
            self.weight = self.weight.saturating_add((self.limits.weigh)(&call.request));
            if self.weight > self.limits.weight {
                self.held = Some(call);
                return;
            }
            self.batch.push(call);
        }
    }

    /// Handles every batch, with at most `concurrency` batches at a time. Requests that arrive meanwhile form the next
    /// batch.
    ///
    /// `handle` receives a [`Permit`] with each batch. Dropping it early lets the next batch start.
    pub async fn run<F: Future<Output = ()> + Send + 'static>(
        mut self,
        concurrency: usize,
        tasks: TaskTracker,
        handle: impl Fn(Vec<Call<Q, R>>, Permit) -> F,
    ) {
        let permits = Arc::new(Semaphore::new(concurrency));
        loop {
            let permit = permits.clone().acquire_owned().await.expect("this semaphore is never closed");
            let Some(batch) = self.next().await else { return };
            tasks.spawn(handle(batch, Permit(permit)));
        }
    }
}

/// The right to handle a batch. Dropping it lets the next batch start.
pub struct Permit(#[expect(dead_code, reason = "held, not read")] tokio::sync::OwnedSemaphorePermit);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);
    const METRIC: &str = "test_batcher_full_total";

    fn paced(items: usize) -> (Batcher<u64, ()>, Batches<u64, ()>) {
        batcher(Limits { interval: INTERVAL, ..Limits::new(100, items, METRIC) })
    }

    async fn next(batches: &mut Batches<u64, ()>) -> Option<Vec<u64>> {
        Some(batches.next().await?.into_iter().map(|call| call.request).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_request_is_handled_at_once_and_later_ones_form_a_batch() {
        let (batcher, mut batches) = paced(100);
        let start = Instant::now();
        for at_ms in [0, 50] {
            batcher.try_call(at_ms).unwrap();
            assert_eq!(next(&mut batches).await, Some(vec![at_ms]));
            assert_eq!(start.elapsed(), Duration::from_millis(at_ms));
            batcher.try_call(at_ms + 1).unwrap();
            let later = batcher.clone();
            tokio::spawn(async move {
                for more in 2..5 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    later.try_call(at_ms + more).unwrap();
                }
            });
            assert_eq!(next(&mut batches).await, Some((1..5).map(|more| at_ms + more).collect()));
            assert_eq!(start.elapsed(), Duration::from_millis(at_ms) + INTERVAL);
            sleep_until(start + Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait_and_no_request_is_lost() {
        let (batcher, mut batches) = paced(3);
        let start = Instant::now();
        for number in 0..8 {
            batcher.try_call(number).unwrap();
        }
        drop(batcher);
        assert_eq!(next(&mut batches).await, Some(vec![0, 1, 2]));
        assert_eq!(next(&mut batches).await, Some(vec![3, 4, 5]));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(next(&mut batches).await, Some(vec![6, 7]));
        assert_eq!(start.elapsed(), INTERVAL);
        assert_eq!(next(&mut batches).await, None);
    }

    #[tokio::test]
    async fn a_batch_exceeds_its_weight_limit_only_for_a_single_heavier_request() {
        let limits = Limits { weight: 10, weigh: |weight| *weight, ..Limits::new(100, 100, METRIC) };
        let (batcher, mut batches) = batcher::<usize, ()>(limits);
        for weight in [4, 6, 1, 20, 9] {
            batcher.try_call(weight).unwrap();
        }
        drop(batcher);
        let mut seen = Vec::new();
        while let Some(batch) = batches.next().await {
            seen.push(batch.into_iter().map(|call| call.request).collect::<Vec<_>>());
        }
        assert_eq!(seen, [vec![4, 6], vec![1], vec![20], vec![9]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_loses_no_request() {
        let (batcher, mut batches) = paced(100);
        batcher.try_call(1).unwrap();
        assert_eq!(next(&mut batches).await, Some(vec![1]));
        batcher.try_call(2).unwrap();
        assert!(tokio::time::timeout(INTERVAL / 2, batches.next()).await.is_err());
        assert_eq!(next(&mut batches).await, Some(vec![2]));
    }

    #[tokio::test]
    async fn a_request_to_a_full_queue_is_refused() {
        let (batcher, _batches) = batcher::<u64, ()>(Limits::new(1, 1, METRIC));
        batcher.try_call(1).unwrap();
        assert_eq!(batcher.try_call(2).unwrap_err(), CallError::Full);
    }

    #[tokio::test]
    async fn at_most_the_allowed_number_of_batches_is_handled_at_once() {
        let (batcher, batches) = batcher::<u64, u64>(Limits::new(100, 1, METRIC));
        let tasks = TaskTracker::new();
        let permits = Arc::new(std::sync::Mutex::new(Vec::new()));
        let held = permits.clone();
        tasks.spawn(batches.run(2, tasks.clone(), move |batch, permit| {
            held.lock().unwrap().push(permit);
            async move {
                for call in batch {
                    let request = call.request;
                    call.reply(request);
                }
            }
        }));
        assert_eq!(batcher.call(1).await, Ok(1));
        assert_eq!(batcher.call(2).await, Ok(2));
        let third = batcher.call(3);
        tokio::pin!(third);
        assert!(futures_util::poll!(&mut third).is_pending());
        permits.lock().unwrap().clear();
        assert_eq!(third.await, Ok(3));
    }
}
