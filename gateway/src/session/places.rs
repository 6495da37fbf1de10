//! What a socket is on: mostly one topic, at most some dozens.

use crate::opening::{Place, Topic};

/// Places by topic.
#[derive(Default)]
pub struct Places(Vec<(Topic, Place)>);

impl Places {
    /// How many.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the socket is on a topic, or on its way there.
    pub fn contains(&self, topic: &Topic) -> bool {
        self.get(topic).is_some()
    }

    /// The place on a topic.
    pub fn get(&self, topic: &Topic) -> Option<&Place> {
        self.0.iter().find(|(other, _)| other == topic).map(|(_, place)| place)
    }

    /// The place on a topic.
    pub fn get_mut(&mut self, topic: &Topic) -> Option<&mut Place> {
        self.0.iter_mut().find(|(other, _)| other == topic).map(|(_, place)| place)
    }

    /// Adds a place on a topic that the socket is not on.
    pub fn insert(&mut self, topic: Topic, place: Place) {
        self.0.reserve_exact(1);
        self.0.push((topic, place));
    }

    /// Gives a place up.
    pub fn remove(&mut self, topic: &Topic) -> Option<Place> {
        let at = self.0.iter().position(|(other, _)| other == topic)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Gives every place up.
    pub fn take(&mut self) -> Vec<(Topic, Place)> {
        std::mem::take(&mut self.0)
    }
}
