//! What every channel needs now and then, so that none has a task or a timer of its own while it is quiet.

use crate::{nats::connection::Events, topic::Topic};
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

/// How long a channel outlives its last member: pages are reloaded.
const LINGER: Duration = Duration::from_secs(5);
/// Repairs that read from the services at once; the others wait.
const REPAIRS: usize = 128;

/// What channels share.
pub struct Maintenance {
    /// NATS, to ask.
    pub bus: Bus,
    /// NATS, to listen.
    pub events: Events,
    /// One permit for each repair that reads.
    pub repairs: Semaphore,
    mending: AtomicUsize,
    /// Channels to be looked at, and when: the first is the earliest. Each channel is in it once at most.
    lingering: Mutex<VecDeque<(Instant, Topic)>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Maintenance {
    /// `shutdown` ends what is done for channels.
    pub fn new(bus: Bus, events: Events, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self {
            bus,
            events,
            repairs: Semaphore::new(REPAIRS),
            mending: AtomicUsize::new(0),
            lingering: Mutex::default(),
            tasks,
            shutdown,
        }
    }

    /// Does something for a channel, until the gateway ends.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// Counts a channel that lacks something, until the guard is dropped.
    pub fn mending(&self) -> impl Drop + Send + '_ {
        struct Mending<'a>(&'a AtomicUsize);
        impl Drop for Mending<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.mending.fetch_add(1, Ordering::Relaxed);
        Mending(&self.mending)
    }

    /// Sets the metrics of channels.
    pub fn measure(&self) {
        metrics::gauge!("gateway_channels_mending").set(self.mending.load(Ordering::Relaxed) as f64);
    }

    /// Has a channel looked at after a while: nobody is on it, or not yet.
    pub fn linger(&self, topic: Topic) {
        self.lingering().push_back((Instant::now() + LINGER, topic));
    }

    /// The next channel that is to be looked at now.
    pub fn lingered(&self, now: Instant) -> Option<Topic> {
        let mut lingering = self.lingering();
        let due = lingering.front().is_some_and(|(at, _)| *at <= now);
        if !due && lingering.is_empty() {
            *lingering = VecDeque::new(); // A herd that has left needs no room.
        }
        if due { lingering.pop_front().map(|(_, topic)| topic) } else { None }
    }

    fn lingering(&self) -> MutexGuard<'_, VecDeque<(Instant, Topic)>> {
        self.lingering.lock().expect("no holder of this lock panics")
    }
}
