//! The timers and repairs that channels share, so that a quiet channel has neither a task nor a timer.

use crate::{nats::connection::Link, topic::Subscriber};
use service::Bus;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a channel outlives its last member, so that a page can be reloaded.
const LINGER: Duration = Duration::from_secs(5);
/// Number of repairs that read from services at the same time; the others wait.
const REPAIRS: usize = 128;

/// The resources that channels share.
pub struct Maintenance {
    /// The NATS client for rare requests.
    pub bus: Bus,
    /// The gateway's own connection.
    pub link: Link,
    /// One permit for each repair that reads.
    pub repairs: Semaphore,
    repairing: AtomicUsize,
    /// Channels to check, earliest first. Each channel is in it at most once.
    lingering: Mutex<VecDeque<(Instant, Subscriber)>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Maintenance {
    /// `shutdown` ends every task of a channel.
    pub fn new(bus: Bus, link: Link, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self {
            bus,
            link,
            repairs: Semaphore::new(REPAIRS),
            repairing: AtomicUsize::new(0),
            lingering: Mutex::default(),
            tasks,
            shutdown,
        }
    }

    /// Runs a task of a channel until the gateway ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// Counts a channel with a gap until the guard is dropped.
    pub fn repairing(&self) -> impl Drop + Send + '_ {
        struct Repairing<'a>(&'a AtomicUsize);
        impl Drop for Repairing<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.repairing.fetch_add(1, Ordering::Relaxed);
        Repairing(&self.repairing)
    }

    /// Sets the gauges of channels.
    pub fn measure(&self) {
        metrics::gauge!("gateway_channels_repairing").set(self.repairing.load(Ordering::Relaxed) as f64);
    }

    /// Schedules a check of a channel without members.
    pub fn linger(&self, channel: Subscriber) {
        self.lingering().push_back((Instant::now() + LINGER, channel));
    }

    /// The next channel whose check is due.
    pub fn lingered(&self, now: Instant) -> Option<Subscriber> {
        let mut lingering = self.lingering();
        let due = lingering.front().is_some_and(|(at, _)| *at <= now);
        if !due && lingering.is_empty() {
            *lingering = VecDeque::new(); // Frees the memory after many channels ended at once.
        }
        if due { lingering.pop_front().map(|(_, channel)| channel) } else { None }
    }

    fn lingering(&self) -> MutexGuard<'_, VecDeque<(Instant, Subscriber)>> {
        self.lingering.lock().expect("no holder of this lock panics")
    }
}
