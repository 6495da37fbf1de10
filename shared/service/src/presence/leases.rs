//! The users whom gateways report as present, as one replica knows them. No I/O and no clock: callers pass each payload
//! together with the current time.

use contract::{
    UserId,
    presence::{Alive, Delta, LEASE, SnapshotPage},
};
use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    ops::Bound,
    time::Duration,
};
use tokio::time::Instant;

/// Maximum number of gateways; further ones are ignored, and counted like users.
const GATEWAYS_MAX: usize = 1_000;
/// Time after which an unanswered request for a page is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Time after which a page that came too early is requested anew.
const ASK_ANEW: Duration = Duration::from_millis(250);
/// Time in which every gateway answers a replica that says hello.
const FIRST_ALIVE: Duration = Duration::from_secs(2);
/// Time without [`Leases::runs`] after which the replica counts as suspended: payloads wait, and leases seem to be over.
const PAUSE: Duration = Duration::from_secs(5);

/// A change of a user's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The user.
    pub user_id: UserId,
    /// Whether the user is present now.
    pub is_present: bool,
}

/// A page of a snapshot that the replica needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Id of the gateway.
    pub gateway: String,
    /// Only users with a greater id.
    pub after: Option<UserId>,
}

/// The leases of all gateways.
#[derive(Debug)]
pub struct Leases {
    gateways: HashMap<String, Gateway>,
    users: HashMap<UserId, Present>,
    capacity: usize,
    refused: u64,
    lapsed: u64,
    /// Until then, gateways may exist that this replica has not heard of.
    unsure_until: Instant,
    /// When the replica last ran.
    ran_at: Instant,
    /// Number of calls of [`Leases::doubt`].
    doubts: u64,
}

/// A present user.
#[derive(Debug)]
struct Present {
    /// Number of gateways that report the user.
    gateways: u32,
    since: Instant,
}

/// What a gateway reports.
#[derive(Debug)]
struct Gateway {
    epoch: i64,
    /// Number of the last batch.
    n: u64,
    users: BTreeSet<UserId>,
    lapses_at: Instant,
    sync: Option<Sync>,
}

/// A snapshot in progress.
#[derive(Debug)]
struct Sync {
    /// Number of the last batch when it began: an older page lacks batches.
    since: u64,
    /// The last user of the pages so far.
    after: Option<UserId>,
    /// The users in batches since it began, with the number of the last one. They take precedence over older pages.
    recent: HashMap<UserId, u64>,
    ask_at: Instant,
}

impl Sync {
    fn new(since: u64, now: Instant) -> Self {
        Self { since, after: None, recent: HashMap::new(), ask_at: now }
    }
}

impl Leases {
    /// Creates leases of at most `capacity` users.
    pub fn new(capacity: usize, now: Instant) -> Self {
        Self {
            gateways: HashMap::new(),
            users: HashMap::new(),
            capacity,
            refused: 0,
            lapsed: 0,
            unsure_until: now + FIRST_ALIVE,
            ran_at: now,
            doubts: 0,
        }
    }

    /// How often all that the replica knows was in [doubt](Self::doubt).
    pub fn doubts(&self) -> u64 {
        self.doubts
    }

    /// Records that the replica runs, at least every 2 s. Returns true if it was suspended until now; then all that
    /// it knows is in [doubt](Self::doubt).
    pub fn runs(&mut self, now: Instant) -> bool {
        let was_suspended = now - self.ran_at > PAUSE;
        self.ran_at = now;
        if was_suspended {
            self.doubt(now);
        }
        was_suspended
    }

    /// Whether a user is present.
    pub fn is_present(&self, user: UserId) -> bool {
        self.users.contains_key(&user)
    }

    /// Since when this replica has known a user to be present.
    pub fn present_since(&self, user: UserId) -> Option<Instant> {
        self.users.get(&user).map(|present| present.since)
    }

    /// The present users, in no order.
    pub fn present(&self) -> impl Iterator<Item = UserId> {
        self.users.keys().copied()
    }

    /// Number of present users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is present.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Number of gateways with a lease.
    pub fn gateways(&self) -> usize {
        self.gateways.len()
    }

    /// Number of users and gateways that were not added because of a limit, since the last call.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Number of gateways that lapsed since the last call.
    pub fn take_lapsed(&mut self) -> u64 {
        std::mem::take(&mut self.lapsed)
    }

    /// Whether the replica has heard of every gateway, has no snapshot in progress, and is not behind because it was
    /// suspended. Otherwise a user may be present although [`Leases::is_present`] is false.
    pub fn is_settled(&self, now: Instant) -> bool {
        let runs = now - self.ran_at <= PAUSE;
        runs && now >= self.unsure_until && self.gateways.values().all(|gateway| gateway.sync.is_none())
    }

    /// Records that payloads may have been lost, or were not received for a time: no lease ends before each gateway had
    /// time to renew it.
    pub fn doubt(&mut self, now: Instant) {
        self.doubts += 1;
        self.unsure_until = now + FIRST_ALIVE;
        for gateway in self.gateways.values_mut() {
            gateway.lapses_at = gateway.lapses_at.max(now + LEASE);
        }
    }

    /// Processes a batch.
    pub fn delta(&mut self, delta: &Delta, now: Instant) -> Vec<Change> {
        let capacity = self.capacity;
        let Some(gateway) = self.gateway(&delta.gateway, delta.epoch, 0, now) else { return Vec::new() };
        if delta.epoch < gateway.epoch || delta.n <= gateway.n {
            return Vec::new();
        }
        let is_next = delta.n == gateway.n + 1;
        gateway.n = delta.n;
        if !is_next {
            gateway.sync = Some(Sync::new(delta.n, now));
        } else if let Some(sync) = &mut gateway.sync {
            sync.recent.extend(delta.on.iter().chain(&delta.off).map(|user| (*user, delta.n)));
            if sync.recent.len() > capacity {
                *sync = Sync::new(delta.n, now);
            }
        }
        let mut changes = Vec::new();
        for user in &delta.off {
            self.off(&delta.gateway, *user, &mut changes);
        }
        for user in &delta.on {
            self.on(&delta.gateway, *user, now, &mut changes);
        }
        changes
    }

    /// Processes a renewal.
    pub fn alive(&mut self, alive: &Alive, now: Instant) {
        let (room, present) = (self.capacity, self.users.len());
        let Some(gateway) = self.gateway(&alive.gateway, alive.epoch, alive.n, now) else { return };
        if alive.epoch < gateway.epoch {
            return;
        }
        gateway.lapses_at = now + LEASE;
        let is_gap = alive.n > gateway.n;
        // A user for whom there was no room is added once there is.
        let missing = alive.users.saturating_sub(gateway.users.len());
        let differs = alive.n == gateway.n
            && alive.users != gateway.users.len()
            && present.saturating_add(missing) <= room;
        if is_gap || (differs && gateway.sync.is_none()) {
            gateway.n = alive.n;
            gateway.sync = Some(Sync::new(alive.n, now));
        }
    }

    /// The gateway of a payload, with a snapshot to be requested if its run is new. A gateway that has sent no batch
    /// yet has no users.
    fn gateway(&mut self, id: &str, epoch: i64, n: u64, now: Instant) -> Option<&mut Gateway> {
        let is_full = self.gateways.len() >= GATEWAYS_MAX;
        match self.gateways.entry(id.to_owned()) {
            Entry::Vacant(_) if is_full => {
                self.refused += 1;
                None
            }
            Entry::Vacant(vacant) => {
                let sync = (n > 0).then(|| Sync::new(n, now));
                let (users, lapses_at) = (BTreeSet::new(), now + LEASE);
                Some(vacant.insert(Gateway { epoch, n, users, lapses_at, sync }))
            }
            Entry::Occupied(known) => {
                let gateway = known.into_mut();
                if epoch > gateway.epoch {
                    (gateway.epoch, gateway.n) = (epoch, n);
                    gateway.lapses_at = now + LEASE;
                    gateway.sync = Some(Sync::new(n, now));
                }
                Some(gateway)
            }
        }
    }

    /// The pages to request now. Each is requested again after some time without a page.
    pub fn asks(&mut self, now: Instant) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (id, gateway) in &mut self.gateways {
            if let Some(sync) = gateway.sync.as_mut().filter(|sync| sync.ask_at <= now) {
                sync.ask_at = now + ASK_AGAIN;
                asks.push(Ask { gateway: id.clone(), after: sync.after });
            }
        }
        asks
    }

    /// Processes the page of a request. It replaces what the gateway reported of these users, except for later batches.
    pub fn page(&mut self, ask: &Ask, page: &SnapshotPage, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(gateway) = self.gateways.get_mut(&ask.gateway) else { return changes };
        let Some(sync) = gateway.sync.as_mut().filter(|sync| sync.after == ask.after) else { return changes };
        if page.epoch != gateway.epoch || page.n < sync.since {
            // The page of an earlier request.
            sync.ask_at = now + ASK_ANEW;
            return changes;
        }
        let last = page.users.last().copied().filter(|_| page.more);
        let is_newer = |user: &UserId| sync.recent.get(user).is_some_and(|n| *n > page.n);
        let shown: BTreeSet<UserId> = page.users.iter().copied().filter(|user| !is_newer(user)).collect();
        let range = (
            ask.after.map_or(Bound::Unbounded, Bound::Excluded),
            last.map_or(Bound::Unbounded, Bound::Included),
        );
        let known = gateway.users.range(range).copied();
        let gone: Vec<UserId> = known.filter(|user| !shown.contains(user) && !is_newer(user)).collect();
        match last {
            Some(last) => (sync.after, sync.ask_at) = (Some(last), now),
            None => gateway.sync = None,
        }
        for user in gone {
            self.off(&ask.gateway, user, &mut changes);
        }
        for user in shown {
            self.on(&ask.gateway, user, now, &mut changes);
        }
        changes
    }

    /// Ends the leases whose time is over.
    pub fn lapse(&mut self, now: Instant) -> Vec<Change> {
        let lapsed: Vec<String> = self
            .gateways
            .iter()
            .filter(|(_, gateway)| gateway.lapses_at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        let mut changes = Vec::new();
        for id in lapsed {
            for user in self.gateways.remove(&id).into_iter().flat_map(|gateway| gateway.users) {
                self.release(user, &mut changes);
            }
            self.lapsed += 1;
        }
        changes
    }

    /// The time at which [`Leases::lapse`] and [`Leases::asks`] should be called next.
    pub fn due(&self) -> Option<Instant> {
        let asks = self.gateways.values().filter_map(|gateway| gateway.sync.as_ref().map(|sync| sync.ask_at));
        self.gateways.values().map(|gateway| gateway.lapses_at).chain(asks).min()
    }

    fn on(&mut self, gateway: &str, user: UserId, now: Instant, changes: &mut Vec<Change>) {
        let Some(gateway) = self.gateways.get_mut(gateway) else { return };
        let is_full = self.users.len() >= self.capacity;
        if gateway.users.contains(&user) {
            return;
        }
        match self.users.entry(user) {
            Entry::Occupied(mut present) => present.get_mut().gateways += 1,
            Entry::Vacant(_) if is_full => {
                self.refused += 1;
                return;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Present { gateways: 1, since: now });
                changes.push(Change { user_id: user, is_present: true });
            }
        }
        gateway.users.insert(user);
    }

    fn off(&mut self, gateway: &str, user: UserId, changes: &mut Vec<Change>) {
        if self.gateways.get_mut(gateway).is_some_and(|gateway| gateway.users.remove(&user)) {
            self.release(user, changes);
        }
    }

    /// Counts one gateway less for a user.
    fn release(&mut self, user: UserId, changes: &mut Vec<Change>) {
        if let Entry::Occupied(mut present) = self.users.entry(user) {
            present.get_mut().gateways -= 1;
            if present.get().gateways == 0 {
                present.remove();
                changes.push(Change { user_id: user, is_present: false });
            }
        }
    }
}

#[cfg(test)]
mod tests;
