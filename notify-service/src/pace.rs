//! Holds the messages of conversations that have just notified their users, until the next notification is due.
//!
//! A held message is not acknowledged, so nothing is lost if the process ends: NATS delivers it to another replica. What
//! is held here is only an estimate that saves transactions. [`crate::plan`] decides by the stored notifications.

use crate::{ops::Membership, plan::SUPERSEDE_INTERVAL};
use std::collections::HashMap;
use tokio::time::Instant;

/// Maximum number of held messages. Beyond it, no more are fetched until some are due. Half of what NATS delivers without
/// an acknowledgement.
const HELD: usize = 2_500;
/// Maximum size of held messages, in bytes.
const HELD_BYTES: usize = 16 * 1024 * 1024;
/// Maximum number of conversations that are remembered, for each of their users. If there are more, all are forgotten.
const RECENT: usize = 200_000;

/// The held messages of a stream.
pub struct Pace<W> {
    /// The times until which unread notifications are not superseded.
    recent: HashMap<Membership, Instant>,
    held: Vec<Held<W>>,
    bytes: usize,
}

struct Held<W> {
    work: W,
    bytes: usize,
    due: Instant,
}

impl<W> Pace<W> {
    pub fn new() -> Self {
        let pace = Self { recent: HashMap::new(), held: Vec::new(), bytes: 0 };
        pace.measure();
        pace
    }

    /// The time at which the next message of a conversation can notify the user; `None`: now.
    pub fn due(&self, membership: Membership, now: Instant) -> Option<Instant> {
        self.recent.get(&membership).copied().filter(|due| *due > now)
    }

    /// The user has a new notification of a message of this conversation.
    pub fn notified(&mut self, membership: Membership, now: Instant) {
        if self.recent.len() >= RECENT {
            metrics::counter!("notified_conversations_forgotten_total").increment(1);
            self.recent.clear();
        }
        self.recent.insert(membership, now + SUPERSEDE_INTERVAL);
    }

    /// The user has read the conversation: the next unread message notifies at once.
    pub fn read(&mut self, membership: Membership) {
        self.recent.remove(&membership);
    }

    /// Holds a message of this size.
    pub fn hold(&mut self, work: W, bytes: usize, due: Instant) {
        self.bytes += bytes;
        self.held.push(Held { work, bytes, due });
        if self.is_full() {
            metrics::counter!("held_messages_full_total").increment(1);
        }
        self.measure();
    }

    fn measure(&self) {
        metrics::gauge!("held_messages").set(self.held.len() as f64);
    }

    /// Takes the messages that are due, in the order in which they came.
    pub fn take_due(&mut self, now: Instant) -> Vec<W> {
        self.recent.retain(|_, due| *due > now);
        let due: Vec<Held<W>> = self.held.extract_if(.., |held| held.due <= now).collect();
        self.bytes -= due.iter().map(|held| held.bytes).sum::<usize>();
        self.measure();
        due.into_iter().map(|held| held.work).collect()
    }

    /// Takes all messages.
    pub fn take_all(&mut self) -> Vec<W> {
        self.bytes = 0;
        let all = std::mem::take(&mut self.held).into_iter().map(|held| held.work).collect();
        self.measure();
        all
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_full(&self) -> bool {
        self.held.len() >= HELD || self.bytes >= HELD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{ConversationId, UserId};
    use std::time::Duration;

    #[test]
    fn what_is_held_is_bounded_and_comes_back_in_order() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        let membership = |user| (UserId::new(user).unwrap(), ConversationId::new(1).unwrap());
        assert_eq!(pace.due(membership(1), now), None);
        pace.notified(membership(1), now);
        let due = pace.due(membership(1), now).unwrap();
        assert_eq!((due - now, pace.due(membership(2), now)), (SUPERSEDE_INTERVAL, None));
        for message in 0..HELD {
            assert!(!pace.is_full());
            pace.hold(message, 1, due + Duration::from_millis(message as u64 % 2));
        }
        assert!(pace.is_full());
        assert!(pace.take_due(now).is_empty());
        assert!(pace.take_due(due).is_sorted());
        assert_eq!((pace.len(), pace.due(membership(1), due)), (HELD / 2, None));
        assert_eq!(pace.take_all().len(), HELD / 2);
        pace.hold(1, HELD_BYTES, due);
        assert!(pace.is_full());
        pace.notified(membership(1), due);
        pace.read(membership(1));
        assert_eq!(pace.due(membership(1), due), None, "the next message notifies at once");
    }
}
