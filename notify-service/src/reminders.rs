//! Reminders of what users have not read: sweeps find unread notifications whose delay is over, decide, and hand events
//! to the backends.

mod deciding;

use crate::{
    inboxes::{Inboxes, StoreError},
    steps::Step,
    store::{self, Scope},
};
use contract::UserId;
use service::{Presence, bus::chain};
use sqlx::PgConnection;
use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of unread notifications, and of users who wait, that a sweep finds; so it is that of users, too. The
/// next sweep continues.
const FOUND: i64 = 1_000;
/// Number of unread notifications about which a sweep decides; more only if one user alone has more. After a sweep that
/// takes too long, fewer.
const ROWS: i64 = 5_000;
/// Number of things that wait while their users are present, whose users' presence a sweep checks. The next sweep
/// continues.
const CHECKED: i64 = 10_000;
/// Maximum number of sweeps of a step without a pause.
const SWEEPS: usize = 20;
/// Time by which the stored progress of a step may be behind while it finds nothing to do.
const LAG: Duration = Duration::from_secs(10);
/// The same while there is nothing to look at. Postgres, which writes nothing otherwise, sleeps in between.
const IDLE_LAG: Duration = Duration::from_secs(300);
/// Number up to which those that wait are counted.
const COUNTED: i64 = 100_000;
/// Time between two measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);

/// Finds what is due for a reminder.
pub struct Reminders<P> {
    inboxes: Inboxes,
    /// Whether a user is present.
    is_present: P,
    /// [`Presence::settled`]: whether `is_present` can be relied on.
    settled: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// Of each step.
    progress: Vec<Progress>,
}

/// How far this replica got with a step.
struct Progress {
    /// The last user whose presence was checked; 0 after all.
    checked: AtomicI64,
    /// Number of unread notifications about which a sweep decides.
    rows: AtomicI64,
}

/// Users who have left among a part of those who are waited for.
#[derive(Default)]
struct Left {
    /// In ascending order.
    users: Vec<i64>,
    /// [`Progress::checked`] once they are handled.
    checked: i64,
}

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Number of reminders that were issued.
    pub issued: usize,
    /// Whether there may be more to do.
    pub is_full: bool,
    /// Whether it was this replica's turn, and it stored what it decided.
    is_stored: bool,
}

/// Sweeps until the token is cancelled. Without `presence`, all users are away.
pub async fn run(inboxes: Inboxes, presence: Option<Presence>, shutdown: CancellationToken) {
    let known = presence.clone();
    let is_present = move |user| known.as_ref().is_some_and(|presence| presence.is_present(user));
    let settled = move || presence.as_ref().map_or(Some(0), Presence::settled);
    let reminders = Reminders::new(inboxes, is_present, settled);
    let (mut tick, mut measure) = (tokio::time::interval(INTERVAL), tokio::time::interval(MEASURE_INTERVAL));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_prepared = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let done = async {
                    if !is_prepared {
                        reminders.prepare().await?;
                        is_prepared = true;
                    }
                    if (reminders.settled)().is_some() {
                        reminders.sweep_all().await;
                    }
                    Ok(())
                };
                let done: Result<(), StoreError> = done.await;
                if let Err(error) = done {
                    tracing::warn!(error = chain(&error), "prepare the sweeps for reminders; will be retried");
                }
            }
            _ = measure.tick() => {
                if let Err(error) = reminders.measure().await {
                    tracing::debug!(error = chain(&error), "count what waits for a reminder");
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

/// What was decided.
#[derive(Debug, Default)]
struct Outcome {
    /// Number of reminders that were issued.
    issued: usize,
    /// Users with unread notifications about which the next sweep decides.
    unfinished: BTreeSet<i64>,
    postponed: u64,
    dropped: u64,
    /// For each thing in a reminder: the time since it was due, in seconds.
    late: Vec<f64>,
}

impl Outcome {
    /// Counts it in the metrics, after the commit.
    fn count(&self, step: &Step) {
        for (outcome, count) in
            [("issued", self.issued as u64), ("postponed", self.postponed), ("dropped", self.dropped)]
        {
            let labels = [("step", step.name.clone()), ("outcome", outcome.to_owned())];
            metrics::counter!("reminders_total", &labels).increment(count);
        }
        for late in &self.late {
            metrics::histogram!("reminders_late_seconds").record(*late);
        }
    }
}

impl<P: Fn(UserId) -> bool> Reminders<P> {
    pub fn new(
        inboxes: Inboxes,
        is_present: P,
        settled: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        let start = || Progress { checked: AtomicI64::default(), rows: AtomicI64::new(ROWS) };
        let progress = inboxes.steps().iter().map(|_| start()).collect();
        Self { inboxes, is_present, settled: Box::new(settled), progress }
    }

    /// Lets new steps begin now.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let steps = self.delays();
        let add = async || Ok(store::add_sweeps(self.inboxes.pool(), &steps).await?);
        for step in self.inboxes.with_retry(add).await? {
            tracing::warn!(step, "no sweep for days: users are not reminded of what was unread before now");
        }
        Ok(())
    }

    /// The steps, each with the time from the start of an episode until the step looks at it, in seconds.
    fn delays(&self) -> Vec<(&str, f64)> {
        self.inboxes.steps().iter().map(|step| (step.name.as_str(), step.away.as_secs_f64())).collect()
    }

    /// The names of the steps that may have something to do: to decide, or to save progress that is behind by `lag`.
    async fn busy(&self, lag: Duration, now: Option<OffsetDateTime>) -> Result<Vec<String>, StoreError> {
        let lag = lag.as_secs_f64();
        let read = async || Ok(store::busy_steps(self.inboxes.pool(), &self.delays(), lag, now).await?);
        self.inboxes.with_retry(read).await
    }

    /// Sweeps the steps that have something to do, and publishes the reminders. A step that fails delays no other.
    async fn sweep_all(&self) {
        let busy = match self.busy(IDLE_LAG, None).await {
            Ok(busy) => busy,
            Err(error) => {
                tracing::warn!(error = chain(&error), "look for reminders that are due; will be retried");
                return;
            }
        };
        let steps = self.inboxes.steps().iter().enumerate();
        for (index, step) in steps.filter(|(_, step)| busy.contains(&step.name)) {
            if let Err(error) = self.sweep_step(index).await {
                let error = chain(&error);
                tracing::warn!(step = step.name, error, "sweep for reminders; will be retried");
            }
        }
    }

    async fn sweep_step(&self, index: usize) -> Result<(), StoreError> {
        for _ in 0..SWEEPS {
            let swept = self.inboxes.with_retry(async || self.sweep(index, None).await).await;
            if swept.as_ref().is_err_and(StoreError::is_slow) {
                self.progress[index].shrink();
            }
            let Swept { issued, is_full, is_stored } = swept?;
            if is_stored {
                self.progress[index].grow();
            }
            if issued > 0 {
                self.inboxes.wake_publisher();
            }
            if !is_full {
                break;
            }
        }
        Ok(())
    }

    /// Sweeps one step: decides about what is newly due, about what was postponed until now, and about what waited for
    /// users who have left. Seldom locks and writes if there is none of these: a transaction that locks a row costs as
    /// much as one that stores something. With `now`, tests set the clock.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn sweep(&self, index: usize, now: Option<OffsetDateTime>) -> Result<Swept, StoreError> {
        let (step, progress) = (&self.inboxes.steps()[index], &self.progress[index]);
        let settled = (self.settled)();
        let catalogue = self.inboxes.catalogue();
        let types: Vec<String> = catalogue
            .policies()
            .filter(|(id, policy)| policy.reminds(id, &step.name))
            .map(|(id, _)| id.to_owned())
            .collect();
        let pool = self.inboxes.pool();
        let Some((upto, clock, waits)) = store::sweep_progress(pool, &step.name).await? else {
            return Ok(Swept::default());
        };
        let now = now.unwrap_or(clock);
        let scope = Scope { step: &step.name, types: &types, since: now - step.away, delay: step.away };
        let rows = progress.rows.load(Ordering::Relaxed);
        let found = FOUND.min(rows);

        let fresh = store::undecided(pool, scope, upto, found).await?;
        let (mut again, mut left) = (Vec::new(), Left::default());
        if waits {
            again = store::due_again(pool, &step.name, now, found).await?;
            left = self.left(index).await?;
        }
        let is_idle = fresh.is_empty() && again.is_empty() && left.users.is_empty();
        if is_idle && scope.since - upto <= LAG {
            progress.checked.store(left.checked, Ordering::Relaxed);
            return Ok(Swept { is_full: left.checked > 0, ..Swept::default() });
        }
        let mut tx = pool.begin().await?;
        if !store::lock_sweep(&mut tx, &step.name, upto).await? {
            return Ok(Swept::default());
        }
        let waiting = again.iter().chain(&left.users).copied();
        let users = take(&mut tx, waiting.chain(fresh.iter().map(|(user, _)| *user)), rows).await?;
        let mut decided = Outcome::default();
        if !users.is_empty() {
            let users: Vec<i64> = users.iter().copied().collect();
            decided = self.decide_all(&mut tx, &catalogue, (step, scope), &users, (now, rows)).await?;
            if !again.is_empty() || !left.users.is_empty() {
                store::delete_obsolete(&mut tx, scope, &users).await?;
            }
        }
        let is_done = |user: &i64| users.contains(user) && !decided.unfinished.contains(user);
        // Others may have the same `since`.
        let before = |since: OffsetDateTime| since - Duration::from_micros(1);
        let upto = match (fresh.iter().find(|(user, _)| !is_done(user)), fresh.last()) {
            (Some((_, first)), _) => before(*first),
            (None, Some((_, last))) if fresh.len() as i64 >= found => before(*last),
            _ => scope.since,
        };
        store::advance_sweep(&mut tx, &step.name, upto).await?;
        // If this process was suspended meanwhile, those who seemed to be away may be present.
        if settled.is_none() || (self.settled)() != settled {
            tx.rollback().await?;
            return Ok(Swept::default());
        }
        tx.commit().await?;
        let checked = left.users.iter().find(|user| !is_done(user)).map_or(left.checked, |user| user - 1);
        progress.checked.store(checked, Ordering::Relaxed);
        decided.count(step);
        let is_full = [fresh.len(), again.len()].iter().any(|number| *number as i64 >= found)
            || checked > 0
            || again.iter().chain(fresh.iter().map(|(user, _)| user)).any(|user| !is_done(user));
        Ok(Swept { issued: decided.issued, is_full, is_stored: true })
    }

    /// The users who have left among a part of those who are waited for.
    async fn left(&self, index: usize) -> Result<Left, StoreError> {
        let step = &self.inboxes.steps()[index].name;
        let checked = self.progress[index].checked.load(Ordering::Relaxed);
        let waiting = store::waiting_while_present(self.inboxes.pool(), step, checked, CHECKED).await?;
        let is_present = |user: i64| UserId::new(user).is_ok_and(|user| (self.is_present)(user));
        let mut users: Vec<i64> = waiting.iter().copied().filter(|user| !is_present(*user)).collect();
        users.dedup();
        let last = waiting.last().filter(|_| waiting.len() as i64 >= CHECKED);
        Ok(Left { users, checked: last.copied().unwrap_or_default() })
    }

    /// Sets the gauges.
    async fn measure(&self) -> Result<(), StoreError> {
        let pool = self.inboxes.pool();
        let names: Vec<&str> = self.inboxes.steps().iter().map(|step| step.name.as_str()).collect();
        let busy = self.busy(Duration::MAX, None).await?;
        let progress = store::progress(pool, &names).await?;
        for step in self.inboxes.steps().iter() {
            let age = progress.get(&step.name).filter(|_| busy.contains(&step.name));
            let behind = age.map_or(0.0, |age| age - step.away.as_secs_f64());
            metrics::gauge!("reminders_behind_seconds", "step" => step.name.clone()).set(behind.max(0.0));
            let waiting = store::count_waiting(pool, &step.name, COUNTED).await?;
            metrics::gauge!("reminders_waiting", "step" => step.name.clone()).set(waiting as f64);
        }
        Ok(())
    }
}

impl Progress {
    /// Makes the next sweep smaller, after one that was too slow.
    fn shrink(&self) {
        self.rows.store((self.rows.load(Ordering::Relaxed) / 2).max(1), Ordering::Relaxed);
    }

    /// Makes the next sweep larger, after one that was not too slow.
    fn grow(&self) {
        self.rows.store((self.rows.load(Ordering::Relaxed) * 2).min(ROWS), Ordering::Relaxed);
    }
}

/// The first of these users whose inboxes have at most so many unread notifications together; at least one.
async fn take(
    tx: &mut PgConnection,
    users: impl Iterator<Item = i64>,
    rows: i64,
) -> Result<BTreeSet<i64>, StoreError> {
    let mut seen = HashSet::new();
    let users: Vec<i64> = users.filter(|user| seen.insert(*user)).collect();
    if users.is_empty() {
        return Ok(BTreeSet::new());
    }
    let counts = store::unread_counts(tx, &users).await?;
    let mut sum = 0;
    let fits = |user: &i64| {
        let is_first = sum == 0;
        sum += counts.get(user).copied().unwrap_or_default().max(1);
        is_first || sum <= rows
    };
    Ok(users.into_iter().take_while(fits).collect())
}

#[cfg(test)]
mod tests;
