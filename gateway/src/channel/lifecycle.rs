//! The life of a channel: its subscription begins with the channel and ends some seconds after the last member has
//! left.

use crate::{channel::maintenance::Maintenance, nats::connection::Mark, topic::Subscriber};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
};

/// The state of a channel: its members, and the data that only changes together with them.
pub trait ChannelState: Default {
    /// Whether the channel has no members.
    fn is_empty(&self) -> bool;
}

/// A channel's subscription, its state, and the task that works for it while it needs one.
pub struct Lifecycle<S> {
    subscriber: Subscriber,
    maintenance: Arc<Maintenance>,
    subscribed: Mark,
    state: Mutex<Tracked<S>>,
}

/// A channel's state behind its lock.
pub struct Tracked<S> {
    state: S,
    /// Whether a task works for the channel.
    has_task: bool,
    /// Whether a check is scheduled that ends the channel if it has no members.
    is_lingering: bool,
}

impl<S: ChannelState> Lifecycle<S> {
    /// Subscribes. The first check is scheduled at once, because perhaps no member ever joins.
    pub fn begin(subscriber: Subscriber, maintenance: Arc<Maintenance>) -> Self {
        let subscribed = maintenance.link.subscribe(subscriber);
        maintenance.linger(subscriber);
        let state = Tracked { state: S::default(), has_task: false, is_lingering: true };
        Self { subscriber, maintenance, subscribed, state: Mutex::new(state) }
    }

    /// The resources that channels share.
    pub fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// The mark of the subscription. A request that is sent once NATS has passed it is answered after the subscription
    /// began.
    pub const fn subscribed(&self) -> Mark {
        self.subscribed
    }

    /// Locks the state.
    pub fn lock(&self) -> MutexGuard<'_, Tracked<S>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Removes a member. If it was the last one, schedules a check.
    pub fn leave(&self, remove: impl FnOnce(&mut S)) {
        let mut state = self.lock();
        remove(&mut state);
        if state.is_empty() && !state.is_lingering {
            state.is_lingering = true;
            self.maintenance.linger(self.subscriber);
        }
    }

    /// Returns whether the channel has no members. If so, it stays marked as lingering, so the caller must either end
    /// it or schedule another check; otherwise the last member to leave schedules it.
    pub fn lingers(&self) -> bool {
        let mut state = self.lock();
        state.is_lingering = state.is_empty();
        state.is_lingering
    }

    /// Starts a task for the channel, unless it has one. The task ends itself with [`Tracked::end_task`].
    pub fn start_task<F>(&self, mut state: MutexGuard<'_, Tracked<S>>, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !std::mem::replace(&mut state.has_task, true) {
            drop(state);
            self.maintenance.spawn(task());
        }
    }
}

impl<S> Tracked<S> {
    /// Records, under the same lock as the decision to end, that the channel has no task.
    pub const fn end_task(&mut self) {
        self.has_task = false;
    }
}

impl<S> Deref for Tracked<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for Tracked<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}
