//! Optional events for backends about users' presence: `presence.changed`, once a change has settled.
//!
//! What backends were last told is stored, so that a change is told once whichever replicas see it, and that changes
//! are found that no replica saw.

use crate::{
    inboxes::StoreError,
    presence::{PresenceStore, Settled},
};
use contract::{Timestamp, UserId};
use service::{
    Presence,
    bus::chain,
    presence::{Update, leases::Change},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Time without a further change after which a change is told.
const SETTLE: Duration = Duration::from_secs(60);
/// Time after which something that failed is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// Maximum number of users whose change has not settled. A comparison finds further ones once these have settled.
const WAITING: usize = 200_000;
/// Maximum number of users in one transaction.
const BATCH: usize = 500;
/// Number of users that a comparison reads at once.
const PAGE: i64 = 10_000;

/// A change that has not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unsettled {
    is_present: bool,
    at: Timestamp,
    due: Instant,
}

/// The changes that have not settled.
#[derive(Debug, Default)]
struct Settling {
    users: HashMap<UserId, Unsettled>,
    /// When users are due, earliest first. An entry that differs from `users` is obsolete.
    queue: VecDeque<(Instant, UserId)>,
}

impl Settling {
    /// Takes a change. Returns false if there is no room.
    fn change(&mut self, Change { user_id, is_present }: Change, at: Timestamp, due: Instant) -> bool {
        match self.users.get(&user_id) {
            Some(known) if known.is_present == is_present => return true,
            None if self.users.len() >= WAITING => return false,
            _ => {}
        }
        self.users.insert(user_id, Unsettled { is_present, at, due });
        self.queue.push_back((due, user_id));
        true
    }

    /// Puts off settled changes that could not be told, unless there is a later change.
    fn again(&mut self, settled: Vec<Settled>, due: Instant) {
        for Settled { user_id, is_present, at } in settled.into_iter().rev() {
            self.users.entry(user_id).or_insert_with(|| {
                self.queue.push_front((due, user_id));
                Unsettled { is_present, at, due }
            });
        }
    }

    fn due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// The changes that have settled.
    fn settled(&mut self, now: Instant) -> Vec<Settled> {
        let mut settled = Vec::new();
        while settled.len() < BATCH
            && let Some((due, user_id)) = self.queue.front().copied()
            && due <= now
        {
            self.queue.pop_front();
            if self.users.get(&user_id).is_some_and(|change| change.due == due)
                && let Some(Unsettled { is_present, at, .. }) = self.users.remove(&user_id)
            {
                settled.push(Settled { user_id, is_present, at });
            }
        }
        settled
    }
}

/// Tells backends until the token is cancelled.
pub async fn run(presences: PresenceStore, present: Presence, stop: CancellationToken) {
    let (mut changes, mut settling) = (present.changes(), Settling::default());
    // At first, what happened before this replica started; later, what it missed.
    let mut compare_at = Some(Instant::now());
    loop {
        let due = settling.due().into_iter().chain(compare_at).min();
        let wait = async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let now = tokio::select! {
            update = changes.next() => {
                match update {
                    Some(Update::Changes(changes)) => {
                        if take(&mut settling, changes.iter().copied()) > 0 {
                            compare_at = compare_at.or(Some(Instant::now() + SETTLE));
                        }
                    }
                    Some(Update::Missed) => compare_at = Some(Instant::now()),
                    None => return,
                }
                continue;
            }
            () = wait => Instant::now(),
            () = stop.cancelled() => return,
        };
        // Until then, a user who seems to be absent may be present.
        let is_settled = present.is_settled();
        if compare_at.is_some_and(|at| at <= now) && !is_settled {
            compare_at = Some(now + RETRY);
        } else if compare_at.is_some_and(|at| at <= now) {
            compare_at = match compare(&presences, &present, &mut settling).await {
                Ok(0) => None,
                Ok(_) => Some(now + SETTLE),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "compare presence with what was told; will be retried"
                    );
                    Some(now + RETRY)
                }
            };
        }
        let settled = settling.settled(now);
        if !is_settled {
            settling.again(settled, now + RETRY);
        } else if let Err(error) = presences.tell(settled.clone()).await {
            tracing::warn!(error = chain(&error), "store events about presence; will be retried");
            settling.again(settled, now + RETRY);
        }
    }
}

/// Takes changes. Returns the number of those for which there is no room.
fn take(settling: &mut Settling, changes: impl Iterator<Item = Change>) -> usize {
    let (at, due) = (Timestamp::now(), Instant::now() + SETTLE);
    let left_out = changes.filter(|change| !settling.change(*change, at, due)).count();
    metrics::counter!("presence_events_dropped_total").increment(left_out as u64);
    left_out
}

/// Finds the users whose presence differs from what backends were told, among others. Returns the number of those for
/// whom there is no room.
async fn compare(
    presences: &PresenceStore,
    present: &Presence,
    settling: &mut Settling,
) -> Result<usize, StoreError> {
    let users: HashSet<UserId> = present.present().into_iter().collect();
    let mut left_out = take(settling, users.iter().map(|user| Change { user_id: *user, is_present: true }));
    let mut last = 0;
    loop {
        let told = presences.told_online(last, PAGE).await?;
        let Some(end) = told.last() else { return Ok(left_out) };
        last = *end;
        let told = told.into_iter().filter_map(|user| UserId::new(user).ok());
        let absent = told.filter(|user| !users.contains(user));
        left_out += take(settling, absent.map(|user_id| Change { user_id, is_present: false }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(is_present: bool) -> Change {
        Change { user_id: UserId::new(7).unwrap(), is_present }
    }

    #[test]
    fn a_change_is_told_once_it_has_settled() {
        let (mut settling, start, at) = (Settling::default(), Instant::now(), Timestamp::now());
        let second = |second| start + Duration::from_secs(second);
        assert!(settling.change(change(true), at, second(60)));
        assert!(settling.change(change(false), at, second(70)));
        assert!(settling.change(change(true), at, second(80)));
        assert!(settling.change(change(true), at, second(90)), "the same state settles no later");
        assert_eq!(settling.settled(second(79)), []);
        let settled = settling.settled(second(80));
        assert_eq!(settled, [Settled { user_id: change(true).user_id, is_present: true, at }]);
        settling.again(settled.clone(), second(85));
        assert_eq!(settling.settled(second(84)), []);
        assert_eq!(settling.settled(second(85)), settled);
        assert!(settling.change(change(false), at, second(145)));
        settling.again(settled, second(90));
        let later = settling.settled(second(200));
        assert_eq!(later.iter().map(|settled| settled.is_present).collect::<Vec<_>>(), [false]);
        assert_eq!(settling.due(), None);
    }
}
