//! The subscriptions of a socket: usually one, at most some dozens.

use crate::{
    session::join::{Join, Step, Subscription},
    topic::Topic,
};
use contract::Refusal;
use std::task::{Context, Poll};

/// Number of replays of a socket in progress; the others wait. Each holds a page of a log in memory, also for a client
/// that reads nothing.
const REPLAYS: usize = 8;

/// Subscriptions by topic, in the order in which they began.
#[derive(Default)]
pub struct Subscriptions {
    all: Vec<(Topic, Subscription)>,
    /// Number of joins in progress.
    joins: usize,
}

impl Subscriptions {
    /// Number of subscriptions.
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether a join is in progress.
    pub const fn has_joins(&self) -> bool {
        self.joins > 0
    }

    /// Whether the socket has subscribed to a topic, or is joining it.
    pub fn contains(&self, topic: &Topic) -> bool {
        self.get(topic).is_some()
    }

    /// The subscription to a topic.
    pub fn get(&self, topic: &Topic) -> Option<&Subscription> {
        self.all.iter().find(|(other, _)| other == topic).map(|(_, subscription)| subscription)
    }

    /// The subscription to a topic.
    pub fn get_mut(&mut self, topic: &Topic) -> Option<&mut Subscription> {
        self.all.iter_mut().find(|(other, _)| other == topic).map(|(_, subscription)| subscription)
    }

    /// Begins a subscription to a topic that the socket has not subscribed to.
    pub fn begin(&mut self, topic: Topic, join: Join) {
        self.joins += 1;
        self.all.reserve_exact(1);
        self.all.push((topic, Subscription::Joining(Box::new(join))));
    }

    /// Replaces a join by its finished subscription.
    pub fn joined(&mut self, topic: &Topic, subscription: Subscription) {
        if let Some(joining @ Subscription::Joining(_)) = self.get_mut(topic) {
            *joining = subscription;
            self.joins -= 1;
        }
    }

    /// Ends a subscription.
    pub fn remove(&mut self, topic: &Topic) -> Option<Subscription> {
        let at = self.all.iter().position(|(other, _)| other == topic)?;
        // Keeps the order: replays that wait begin in the order of the client's requests.
        let (_, subscription) = self.all.remove(at);
        self.joins -= usize::from(matches!(subscription, Subscription::Joining(_)));
        Some(subscription)
    }

    /// Sets the user's name on every typing channel.
    pub fn rename(&mut self, username: &str) {
        for (_, subscription) in &mut self.all {
            if let Subscription::Typing(membership) = subscription {
                membership.rename(username);
            }
        }
    }

    /// Ends every subscription.
    pub fn take(&mut self) -> Vec<(Topic, Subscription)> {
        std::mem::take(self).all
    }

    /// Waits for the next step of any join.
    pub fn poll_joins(&mut self, cx: &mut Context<'_>) -> Poll<(Topic, Result<Step, Refusal>)> {
        if self.joins > 0 {
            let joins = self.all.iter_mut().filter_map(|(topic, subscription)| match subscription {
                Subscription::Joining(join) => Some((*topic, join)),
                _ => None,
            });
            let mut replays = 0;
            for (topic, join) in joins {
                // Only a replay holds a page. An admission never waits for other joins.
                if join.is_admitted && matches!(topic, Topic::Log(_)) {
                    replays += 1;
                    if replays > REPLAYS {
                        continue;
                    }
                }
                if let Poll::Ready(step) = join.step.as_mut().poll(cx) {
                    return Poll::Ready((topic, step));
                }
            }
        }
        Poll::Pending
    }
}
