//! What everyone in a run shares.

use super::{
    frame::Channel,
    ledger::{Board, Ledger},
    rules::Fault,
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

/// How many faults of one rule are kept with their evidence.
const KEPT: usize = 8;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// People chat while things break.
    Chatting,
    /// Everything is whole again; nobody says anything new.
    Settling,
    /// Everyone leaves.
    Over,
}

/// Numbers of a run, while it goes on.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that clients wanted to send.
    pub messages: AtomicU64,
    /// Of those, acknowledged.
    pub acked: AtomicU64,
    /// Sends of a message beyond its first.
    pub resent: AtomicU64,
    /// Frames that sockets were told.
    pub frames: AtomicU64,
    /// Times that a client connected again.
    pub reconnects: AtomicU64,
    /// Channels that were taken up again with `after`.
    pub resumes: AtomicU64,
    /// Read markers that clients moved.
    pub reads: AtomicU64,
    /// Notifications that sockets were told.
    pub notifications: AtomicU64,
    /// Events that were published and acknowledged.
    pub events: AtomicU64,
    /// Errors `unavailable` that clients were told.
    pub unavailable: AtomicU64,
    /// Faults done to the stack.
    pub faults: AtomicU64,
    /// Things found wrong.
    pub violations: AtomicU64,
}

impl Counters {
    /// One more.
    pub fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Something that was found wrong, and when.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Since the beginning of the run.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// Where a client stands on a channel.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The last entry that it was told.
    pub told: Option<Head>,
    /// Whose client.
    pub user: i64,
}

/// When something stood still.
#[derive(Debug, Default)]
struct Stops(Vec<(Instant, Option<Instant>)>);

impl Stops {
    fn within(&self, from: Instant, until: Instant) -> Duration {
        let overlap = |(begin, end): &(Instant, Option<Instant>)| {
            let end = end.unwrap_or(until).min(until);
            end.saturating_duration_since((*begin).max(from))
        };
        self.0.iter().map(overlap).sum()
    }
}

/// What everyone in a run shares.
pub struct World {
    /// The gateways' hosts and ports.
    pub hosts: Vec<String>,
    /// For HTTP calls.
    pub http: reqwest::Client,
    /// When it began.
    pub began: Instant,
    /// Numbers.
    pub counters: Arc<Counters>,
    phase: watch::Sender<Phase>,
    ledger: Mutex<Ledger>,
    board: Mutex<Board>,
    violations: Mutex<Vec<Violation>>,
    notes: Mutex<Vec<(Duration, String)>>,
    standings: Mutex<BTreeMap<(usize, Channel), Standing>>,
    /// By gateway: when it was stopped. The last: when this very process got no time.
    stops: Mutex<Vec<Stops>>,
}

impl World {
    /// A world in which everyone chats.
    pub fn new(hosts: Vec<String>, counters: Arc<Counters>) -> Arc<Self> {
        let stops = (0..=hosts.len()).map(|_| Stops::default()).collect();
        let patience = Duration::from_secs(40);
        Arc::new(Self {
            hosts,
            http: reqwest::Client::builder().timeout(patience).build().expect("an HTTP client"),
            began: Instant::now(),
            counters,
            phase: watch::Sender::new(Phase::Chatting),
            ledger: Mutex::default(),
            board: Mutex::default(),
            violations: Mutex::default(),
            notes: Mutex::default(),
            standings: Mutex::default(),
            stops: Mutex::new(stops),
        })
    }

    /// What was promised.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no holder of this lock panics")
    }

    /// What was told.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no holder of this lock panics")
    }

    /// What is being done.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Tells everyone.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until that is being done.
    pub async fn until(&self, phase: Phase) {
        // The sender is ours.
        self.phase.subscribe().wait_for(|now| *now >= phase).await.ok();
    }

    /// Notes what is wrong.
    pub fn violation(&self, fault: Fault) {
        Counters::one(&self.counters.violations);
        let mut violations = self.violations.lock().expect("no holder of this lock panics");
        if violations.iter().filter(|kept| kept.fault.rule == fault.rule).count() < KEPT {
            violations.push(Violation { at: self.began.elapsed(), fault });
        }
    }

    /// Notes it, if there is something wrong.
    pub fn check<T>(&self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.violation(fault)).ok()
    }

    /// Notes what was done, for the log.
    pub fn note(&self, what: String) {
        let mut notes = self.notes.lock().expect("no holder of this lock panics");
        notes.push((self.began.elapsed(), what));
    }

    /// What was done, and when.
    pub fn notes(&self) -> Vec<(Duration, String)> {
        self.notes.lock().expect("no holder of this lock panics").clone()
    }

    /// What was found, the first first.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().expect("no holder of this lock panics").clone()
    }

    /// A client that resumes stands here now; with `None` it no longer counts.
    pub fn stands(&self, client: usize, channel: Channel, standing: Option<Standing>) {
        let mut standings = self.standings.lock().expect("no holder of this lock panics");
        match standing {
            Some(standing) => standings.insert((client, channel), standing),
            None => standings.remove(&(client, channel)),
        };
    }

    /// Where everyone stands.
    pub fn standings(&self) -> BTreeMap<(usize, Channel), Standing> {
        self.standings.lock().expect("no holder of this lock panics").clone()
    }

    /// A gateway is stopped, or goes on.
    pub fn gateway_stopped(&self, gateway: usize, stopped: bool) {
        let mut stops = self.stops.lock().expect("no holder of this lock panics");
        let intervals = &mut stops[gateway].0;
        let now = Instant::now();
        if stopped {
            intervals.push((now, None));
        } else if let Some(last) = intervals.last_mut() {
            last.1.get_or_insert(now);
        }
    }

    /// For how long between these a gateway was stopped, or this process itself got no time.
    pub fn stood_still(&self, gateway: usize, from: Instant, until: Instant) -> Duration {
        let stops = self.stops.lock().expect("no holder of this lock panics");
        stops[gateway].within(from, until) + stops[self.hosts.len()].within(from, until)
    }

    /// Notes when this process gets no time, as the clients are part of it.
    pub async fn notice_lag(&self) {
        let step = Duration::from_millis(50);
        loop {
            let before = Instant::now();
            tokio::time::sleep(step).await;
            let now = Instant::now();
            if now - before > 2 * step {
                let mut stops = self.stops.lock().expect("no holder of this lock panics");
                stops[self.hosts.len()].0.push((before + step, Some(now)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_added_up_where_they_overlap() {
        let at = Instant::now();
        let second = Duration::from_secs;
        let stops = Stops(vec![(at, Some(at + second(2))), (at + second(5), None)]);
        assert_eq!(stops.within(at + second(1), at + second(8)), second(4));
        assert_eq!(stops.within(at + second(3), at + second(4)), second(0));
    }
}
