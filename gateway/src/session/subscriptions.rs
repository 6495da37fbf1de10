//! The subscriptions of a socket: mostly one, at most some dozens.

use crate::{
    session::handshake::{Join, Step, Subscription},
    topic::Topic,
};
use contract::Refusal;
use std::task::{Context, Poll};

/// Replays of a socket that are in progress at once; the others begin later. Each holds a page of a log, and a client that
/// reads nothing could have as many of those as it has subscriptions.
const REPLAYS: usize = 8;

/// Subscriptions by topic.
#[derive(Default)]
pub struct Subscriptions {
    places: Vec<(Topic, Subscription)>,
    /// How many are not there yet.
    joins: usize,
}

impl Subscriptions {
    /// How many.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether any is not there yet.
    pub const fn has_joins(&self) -> bool {
        self.joins > 0
    }

    /// Whether the socket is on a topic, or on its way there.
    pub fn contains(&self, topic: &Topic) -> bool {
        self.get(topic).is_some()
    }

    /// The subscription to a topic.
    pub fn get(&self, topic: &Topic) -> Option<&Subscription> {
        self.places.iter().find(|(other, _)| other == topic).map(|(_, place)| place)
    }

    /// The subscription to a topic.
    pub fn get_mut(&mut self, topic: &Topic) -> Option<&mut Subscription> {
        self.places.iter_mut().find(|(other, _)| other == topic).map(|(_, place)| place)
    }

    /// Begins a subscription to a topic that the socket is not on.
    pub fn begin(&mut self, topic: Topic, join: Join) {
        self.joins += 1;
        self.places.reserve_exact(1);
        self.places.push((topic, Subscription::Joining(Box::new(join))));
    }

    /// Replaces a subscription that was on its way by the one that is there.
    pub fn joined(&mut self, topic: &Topic, place: Subscription) {
        if let Some(joining @ Subscription::Joining(_)) = self.get_mut(topic) {
            *joining = place;
            self.joins -= 1;
        }
    }

    /// Ends a subscription.
    pub fn remove(&mut self, topic: &Topic) -> Option<Subscription> {
        let at = self.places.iter().position(|(other, _)| other == topic)?;
        // In order, so that those that wait for their turn begin in the order in which the client asked for them.
        let (_, place) = self.places.remove(at);
        self.joins -= usize::from(matches!(place, Subscription::Joining(_)));
        Some(place)
    }

    /// Renames a typist on every typing channel.
    pub fn rename(&mut self, username: &str) {
        for (_, place) in &mut self.places {
            if let Subscription::Typing(watching) = place {
                watching.rename(username);
            }
        }
    }

    /// Ends every subscription.
    pub fn take(&mut self) -> Vec<(Topic, Subscription)> {
        std::mem::take(self).places
    }

    /// Waits for the next step of any subscription that is on its way.
    pub fn poll_joins(&mut self, cx: &mut Context<'_>) -> Poll<(Topic, Result<Step, Refusal>)> {
        if self.joins > 0 {
            let joins = self.places.iter_mut().filter_map(|(topic, place)| match place {
                Subscription::Joining(join) => Some((*topic, join)),
                _ => None,
            });
            let mut replays = 0;
            for (topic, join) in joins {
                // Admissions and typing channels hold no page: they never wait for a service that others wait for.
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
