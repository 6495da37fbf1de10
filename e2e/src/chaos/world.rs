//! State shared by all tasks of a run.

use super::{
    frame::Channel,
    ledger::{Deliveries, Ledger},
    rules::Fault,
    view::Views,
};
use contract::log::Head;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Number of violations of one rule that are kept with their evidence.
const KEPT: usize = 8;

/// Phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients chat while faults occur.
    Chatting,
    /// All faults are repaired, and clients send nothing new.
    Settling,
    /// Clients disconnect.
    Over,
}

/// Counters of a run, which are updated while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that clients wrote.
    pub messages: AtomicU64,
    /// Acknowledged messages.
    pub acked: AtomicU64,
    /// Requested edits and deletions.
    pub changes: AtomicU64,
    /// Acknowledged edits and deletions.
    pub changed: AtomicU64,
    /// Users whose erasure was acknowledged.
    pub erased: AtomicU64,
    /// Repeated sends of a message.
    pub resent: AtomicU64,
    /// Received frames.
    pub frames: AtomicU64,
    /// Reconnects of clients.
    pub reconnects: AtomicU64,
    /// Channels resumed with `after`.
    pub resumes: AtomicU64,
    /// Reads sent by clients.
    pub reads: AtomicU64,
    /// Received notifications.
    pub notifications: AtomicU64,
    /// Published and acknowledged events.
    pub events: AtomicU64,
    /// Published reminders.
    pub reminders: AtomicU64,
    /// Received `unavailable` errors.
    pub unavailable: AtomicU64,
    /// Injected faults.
    pub faults: AtomicU64,
    /// Detected violations.
    pub violations: AtomicU64,
}

impl Counters {
    pub fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A detected violation, with its time.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Time since the start of the run.
    pub at: Duration,
    /// Description of the violation.
    pub fault: Fault,
}

/// Position of a client on a channel.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// Last received entry.
    pub last: Option<Head>,
    /// User of the client.
    pub user: i64,
}

/// Intervals in which a process was paused.
#[derive(Debug, Default)]
struct Pauses(Vec<(Instant, Option<Instant>)>);

impl Pauses {
    fn within(&self, from: Instant, until: Instant) -> Duration {
        let overlap = |(begin, end): &(Instant, Option<Instant>)| {
            let end = end.unwrap_or(until).min(until);
            end.saturating_duration_since((*begin).max(from))
        };
        self.0.iter().map(overlap).sum()
    }
}

/// State shared by all tasks of a run.
pub struct World {
    /// Hosts and ports of the gateways.
    pub hosts: Vec<String>,
    /// Client for HTTP calls.
    pub http: reqwest::Client,
    /// Start of the run.
    pub began: Instant,
    /// Counters of the run.
    pub counters: Arc<Counters>,
    /// Whether all programs are of this release. An earlier one lacks HTTP for backends, kinds, and seen notifications.
    pub is_new: bool,
    phase: watch::Sender<Phase>,
    ledger: Mutex<Ledger>,
    deliveries: Mutex<Deliveries>,
    violations: Mutex<Vec<Violation>>,
    notes: Mutex<Vec<(Duration, String)>>,
    positions: Mutex<BTreeMap<(usize, Channel), Position>>,
    views: Mutex<BTreeMap<(usize, i64), Views>>,
    /// Pauses of each gateway; the last element holds those of this process.
    pauses: Mutex<Vec<Pauses>>,
}

impl World {
    /// Creates the state in the phase [`Phase::Chatting`].
    pub fn new(hosts: Vec<String>, counters: Arc<Counters>, is_new: bool) -> Arc<Self> {
        let pauses = (0..=hosts.len()).map(|_| Pauses::default()).collect();
        let timeout = Duration::from_secs(40);
        Arc::new(Self {
            hosts,
            http: reqwest::Client::builder().timeout(timeout).build().expect("an HTTP client"),
            began: Instant::now(),
            counters,
            is_new,
            phase: watch::Sender::new(Phase::Chatting),
            ledger: Mutex::default(),
            deliveries: Mutex::default(),
            violations: Mutex::default(),
            notes: Mutex::default(),
            positions: Mutex::default(),
            views: Mutex::default(),
            pauses: Mutex::new(pauses),
        })
    }

    /// All promises.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no holder of this lock panics")
    }

    /// All delivered frames.
    pub fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries.lock().expect("no holder of this lock panics")
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Starts a phase.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until a phase has started.
    pub async fn until(&self, phase: Phase) {
        // The sender belongs to `self`, so it can't be dropped.
        self.phase.subscribe().wait_for(|now| *now >= phase).await.ok();
    }

    /// Records a violation.
    pub fn violation(&self, fault: Fault) {
        Counters::increment(&self.counters.violations);
        let mut violations = self.violations.lock().expect("no holder of this lock panics");
        if violations.iter().filter(|kept| kept.fault.rule == fault.rule).count() < KEPT {
            violations.push(Violation { at: self.began.elapsed(), fault });
        }
    }

    /// Records a violation if the result is an error.
    pub fn check<T>(&self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.violation(fault)).ok()
    }

    /// Records an injected fault, for the report.
    pub fn note(&self, what: String) {
        let mut notes = self.notes.lock().expect("no holder of this lock panics");
        notes.push((self.began.elapsed(), what));
    }

    /// Recorded faults with their times.
    pub fn notes(&self) -> Vec<(Duration, String)> {
        self.notes.lock().expect("no holder of this lock panics").clone()
    }

    /// Recorded violations, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().expect("no holder of this lock panics").clone()
    }

    /// Sets the position of a client that resumes; `None` removes it.
    pub fn set_position(&self, client: usize, channel: Channel, position: Option<Position>) {
        let mut positions = self.positions.lock().expect("no holder of this lock panics");
        match position {
            Some(position) => positions.insert((client, channel), position),
            None => positions.remove(&(client, channel)),
        };
    }

    /// Positions of all clients.
    pub fn positions(&self) -> BTreeMap<(usize, Channel), Position> {
        self.positions.lock().expect("no holder of this lock panics").clone()
    }

    /// Views of all clients, by conversation.
    pub fn views(&self) -> MutexGuard<'_, BTreeMap<(usize, i64), Views>> {
        self.views.lock().expect("no holder of this lock panics")
    }

    /// Records that a gateway was paused or resumed.
    pub fn set_gateway_paused(&self, gateway: usize, paused: bool) {
        let mut pauses = self.pauses.lock().expect("no holder of this lock panics");
        let intervals = &mut pauses[gateway].0;
        let now = Instant::now();
        if paused {
            intervals.push((now, None));
        } else if let Some(last) = intervals.last_mut() {
            last.1.get_or_insert(now);
        }
    }

    /// Total time in this interval during which a gateway or this process was paused.
    pub fn paused_for(&self, gateway: usize, from: Instant, until: Instant) -> Duration {
        let pauses = self.pauses.lock().expect("no holder of this lock panics");
        pauses[gateway].within(from, until) + pauses[self.hosts.len()].within(from, until)
    }

    /// Records pauses of this process, because the clients run in it.
    pub async fn watch_lag(&self) {
        let step = Duration::from_millis(50);
        loop {
            let before = Instant::now();
            tokio::time::sleep(step).await;
            let now = Instant::now();
            if now - before > 2 * step {
                let mut pauses = self.pauses.lock().expect("no holder of this lock panics");
                pauses[self.hosts.len()].0.push((before + step, Some(now)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_pauses_are_added_up() {
        let at = Instant::now();
        let second = Duration::from_secs;
        let pauses = Pauses(vec![(at, Some(at + second(2))), (at + second(5), None)]);
        assert_eq!(pauses.within(at + second(1), at + second(8)), second(4));
        assert_eq!(pauses.within(at + second(3), at + second(4)), second(0));
    }
}
