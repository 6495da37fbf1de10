//! The users who are present at this gateway: those with an open socket at whose page someone may look. The gateway
//! closes a socket that is silent for `IDLE_SECONDS`, so an open one is alive.

use contract::{
    UserId,
    presence::{IDS_MAX, SnapshotPage},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Time after the end of a user's last socket until the user is no longer present, so that a page can be reloaded.
const GRACE: Duration = Duration::from_secs(10);

/// The present users, as they are published.
#[derive(Default)]
pub struct PresentUsers {
    state: Mutex<State>,
    /// Wakes the task that publishes.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Number of batches so far.
    n: u64,
    /// The users who are present, according to the batches so far.
    published: HashSet<UserId>,
    /// Users who came and are not published yet.
    came: HashSet<UserId>,
    /// Users without a visible socket, with the time at which they are no longer present.
    leaving: HashMap<UserId, Instant>,
    /// The same, earliest first.
    ends: BTreeSet<(Instant, UserId)>,
}

impl State {
    /// Ends the wait of a user. Returns whether there was one.
    fn stays(&mut self, user: UserId) -> bool {
        let end = self.leaving.remove(&user);
        end.is_some_and(|at| self.ends.remove(&(at, user)))
    }

    /// Takes a user whose wait is over.
    fn gone(&mut self, now: Instant) -> Option<UserId> {
        let (_, user) = self.ends.first().copied().filter(|(at, _)| *at <= now)?;
        self.stays(user).then_some(user)
    }
}

/// The changes of a short time.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number.
    pub n: u64,
    /// Users who came.
    pub on: Vec<UserId>,
    /// Users who left.
    pub off: Vec<UserId>,
}

impl PresentUsers {
    /// Records that a user has a visible socket.
    pub fn came(&self, user: UserId) {
        let mut state = self.state();
        state.stays(user);
        if !state.published.contains(&user) && state.came.insert(user) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Records that a user has no visible socket. A repeat changes nothing.
    pub fn left(&self, user: UserId) {
        let mut state = self.state();
        let is_present = state.published.contains(&user) || state.came.contains(&user);
        if is_present && !state.leaving.contains_key(&user) {
            let ends_at = Instant::now() + GRACE;
            let is_first = state.ends.is_empty();
            state.leaving.insert(user, ends_at);
            state.ends.insert((ends_at, user));
            drop(state);
            if is_first {
                self.changed.notify_one();
            }
        }
    }

    /// Waits until the changes may differ, or until [`PresentUsers::due`] does.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The time of the next batch; `None` if nothing changes.
    pub fn due(&self) -> Option<Instant> {
        let state = self.state();
        if state.came.is_empty() { state.ends.first().map(|(at, _)| *at) } else { Some(Instant::now()) }
    }

    /// Takes the next batch, if anything has changed.
    pub fn take(&self, now: Instant) -> Option<Batch> {
        let mut state = self.state();
        let mut off = Vec::new();
        while off.len() < IDS_MAX
            && let Some(user) = state.gone(now)
        {
            if state.published.remove(&user) {
                off.push(user);
            } else {
                state.came.remove(&user); // Came and left unnoticed.
            }
        }
        let on: Vec<UserId> = state.came.iter().copied().take(IDS_MAX - off.len()).collect();
        for user in &on {
            state.came.remove(user);
            state.published.insert(*user);
        }
        if on.is_empty() && off.is_empty() {
            return None;
        }
        state.n += 1;
        Some(Batch { n: state.n, on, off })
    }

    /// Forgets the users who came and left unnoticed, while nothing can be published. So no more changes wait than
    /// users were or are present.
    pub fn forget(&self, now: Instant) {
        let mut state = self.state();
        let ended: Vec<UserId> =
            state.ends.iter().take_while(|(at, _)| *at <= now).map(|(_, user)| *user).collect();
        for user in ended {
            if state.came.remove(&user) && !state.published.contains(&user) {
                state.stays(user);
            }
        }
    }

    /// Number of changes that wait: of users who came and of those who are leaving.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.came.len() + state.leaving.len()
    }

    /// Number of batches so far, and of the present users according to them.
    pub fn published(&self) -> (u64, usize) {
        let state = self.state();
        (state.n, state.published.len())
    }

    /// A page of the users who are present according to the batches so far.
    pub fn page(&self, epoch: i64, after: Option<UserId>) -> SnapshotPage {
        let (n, mut users) = {
            let state = self.state();
            let users =
                state.published.iter().copied().filter(|user| after.is_none_or(|after| *user > after));
            (state.n, users.collect::<Vec<_>>())
        };
        let more = users.len() > IDS_MAX;
        if more {
            users.select_nth_unstable(IDS_MAX);
            users.truncate(IDS_MAX);
        }
        users.sort_unstable();
        SnapshotPage { epoch, n, users, more }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64) -> UserId {
        UserId::new(id).unwrap()
    }

    fn take(present: &PresentUsers) -> Option<(Vec<UserId>, Vec<UserId>)> {
        present.take(Instant::now()).map(|batch| (batch.on, batch.off))
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_no_absence_and_an_absence_is_published_after_ten_seconds() {
        let present = PresentUsers::default();
        present.came(user(1));
        assert_eq!(take(&present), Some((vec![user(1)], vec![])));
        present.left(user(1));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(take(&present), None);
        present.came(user(1));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(take(&present), None, "the page was reloaded");
        for _ in 0..100 {
            present.left(user(1));
            present.came(user(1));
        }
        assert_eq!((present.waiting(), present.due()), (0, None));
        present.left(user(1));
        tokio::time::advance(Duration::from_secs(9)).await;
        present.left(user(1));
        assert_eq!((take(&present), present.waiting()), (None, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(take(&present), Some((vec![], vec![user(1)])));
        assert_eq!(present.due(), None);
        assert_eq!(present.published(), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_came_and_left_while_nothing_was_published_was_not_there() {
        let present = PresentUsers::default();
        present.came(user(1));
        present.came(user(2));
        present.left(user(1));
        tokio::time::advance(GRACE).await;
        assert_eq!(take(&present), Some((vec![user(2)], vec![])));
        assert_eq!((take(&present), present.due()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn while_nothing_is_published_only_those_who_were_or_are_there_wait() {
        let present = PresentUsers::default();
        present.came(user(1));
        assert_eq!(take(&present), Some((vec![user(1)], vec![])));
        present.left(user(1));
        for id in 2..1_000 {
            present.came(user(id));
            present.left(user(id));
        }
        present.came(user(1_000));
        present.forget(Instant::now());
        assert_eq!(present.waiting(), 1 + 2 * 998 + 1);
        tokio::time::advance(GRACE).await;
        present.forget(Instant::now());
        assert_eq!(present.waiting(), 2);
        assert_eq!(take(&present), Some((vec![user(1_000)], vec![user(1)])));
    }

    #[test]
    fn pages_have_every_user_once_in_order() {
        let present = PresentUsers::default();
        let count = 2 * i64::try_from(IDS_MAX).unwrap() + 7;
        (1..=count).rev().for_each(|id| present.came(user(id)));
        while present.take(Instant::now()).is_some() {}
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = present.page(1, after);
            assert!(page.users.len() <= IDS_MAX && page.n == 3);
            seen.extend(page.users.iter().map(|user| user.get()));
            after = page.users.last().copied();
            if !page.more {
                break;
            }
        }
        assert!(seen.into_iter().eq(1..=count));
    }
}
