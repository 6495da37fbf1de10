//! The users, their conversations, and the behaviour of their pages.

use super::{
    frame::Channel,
    page::{Behaviour, Page},
    world::World,
};
use fastrand::Rng;
use std::sync::Arc;

/// All users and their conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct People {
    pub users: Vec<i64>,
    /// Participants of each conversation.
    pub conversations: Vec<Vec<i64>>,
}

impl People {
    /// Creates users for so many clients, with conversations of pairs and of groups of 5 to 20.
    pub fn new(seed: u64, clients: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = (clients * 2 / 3).max(6);
        let users: Vec<i64> = (1..).take(count).collect();
        let mut conversations: Vec<Vec<i64>> = Vec::new();
        // Each user is in a pair.
        let mut shuffled = users.clone();
        rng.shuffle(&mut shuffled);
        for pair in shuffled.chunks(2) {
            conversations.push(if pair.len() == 2 { pair.to_vec() } else { vec![pair[0], shuffled[0]] });
        }
        for _ in 0..(count / 8).max(1) {
            rng.shuffle(&mut shuffled);
            let size = rng.usize(5..=20).min(count);
            conversations.push(shuffled[..size].to_vec());
        }
        for conversation in &mut conversations {
            conversation.sort_unstable();
        }
        conversations.sort();
        conversations.dedup();
        Self { users, conversations }
    }

    /// Creates the pages: each user has one, some have more. `ids` are the ids of the conversations.
    pub fn pages(&self, world: &Arc<World>, seed: u64, ids: &[i64], clients: usize) -> Vec<Page> {
        let page = |number: usize| {
            let user = self.users[number % self.users.len()];
            let mine: Vec<i64> = ids
                .iter()
                .zip(&self.conversations)
                .filter(|(_, people)| people.contains(&user))
                .map(|(id, _)| *id)
                .collect();
            let (behaviour, channels) = behaviour(number, &mine);
            Page::new(world.clone(), seed, number, user, behaviour, &channels)
        };
        (0..clients).map(page).collect()
    }
}

/// Behaviour and channels of the page with this number.
fn behaviour(number: usize, mine: &[i64]) -> (Behaviour, Vec<Channel>) {
    let resumes = Behaviour { resumes: true, changes: true, ..Behaviour::default() };
    let one = mine[number / 7 % mine.len()];
    let mut all: Vec<Channel> = mine.iter().map(|id| Channel::Chat(*id)).collect();
    all.extend([Channel::Inbox, Channel::Typing(one)]);
    match number % 7 {
        0 => (Behaviour { multiplexed: true, ..resumes }, all),
        1 => (Behaviour { changes: (number / 7).is_multiple_of(2), ..resumes }, vec![Channel::Chat(one)]),
        2 => (Behaviour { over_http: true, ..resumes }, vec![Channel::Chat(one)]),
        3 => (Behaviour { multiplexed: true, pauses: true, leaves: true, ..resumes }, all),
        4 => (Behaviour::default(), vec![Channel::Chat(one)]),
        5 => (Behaviour { pauses: true, leaves: true, ..resumes }, vec![Channel::Chat(one)]),
        _ => (resumes, vec![Channel::Inbox]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_in_a_conversation() {
        for clients in [1, 7, 30, 100] {
            let people = People::new(3, clients);
            assert!(people.users.iter().all(|user| people.conversations.iter().any(|c| c.contains(user))));
            assert!(people.conversations.iter().any(|people| people.len() >= 5));
            assert!(people.conversations.iter().all(|people| (2..=20).contains(&people.len())));
        }
    }
}
