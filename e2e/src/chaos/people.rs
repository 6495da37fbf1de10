//! Who chats with whom, and how.

use super::{
    frame::Channel,
    page::{Habits, Page},
    world::World,
};
use fastrand::Rng;
use std::sync::Arc;

/// Everyone, and the conversations that they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct People {
    /// Users.
    pub users: Vec<i64>,
    /// The participants of each conversation.
    pub conversations: Vec<Vec<i64>>,
}

impl People {
    /// As many as it takes for so many clients: pairs, and groups of 5 to 20.
    pub fn new(seed: u64, clients: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = (clients * 2 / 3).max(6);
        let users: Vec<i64> = (1..).take(count).collect();
        let mut conversations: Vec<Vec<i64>> = Vec::new();
        // Everyone is in a pair.
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

    /// Opens the pages: every user has one, some have more. `ids` are those of the conversations.
    pub fn pages(&self, world: &Arc<World>, seed: u64, ids: &[i64], clients: usize) -> Vec<Page> {
        let page = |number: usize| {
            let user = self.users[number % self.users.len()];
            let mine: Vec<i64> = ids
                .iter()
                .zip(&self.conversations)
                .filter(|(_, people)| people.contains(&user))
                .map(|(id, _)| *id)
                .collect();
            let (habits, channels) = manner(number, &mine);
            Page::new(world.clone(), seed, number, user, habits, &channels)
        };
        (0..clients).map(page).collect()
    }
}

/// How the page of this number behaves, and what it is on.
fn manner(number: usize, mine: &[i64]) -> (Habits, Vec<Channel>) {
    let resumes = Habits { resumes: true, ..Habits::default() };
    let one = mine[number / 7 % mine.len()];
    let mut all: Vec<Channel> = mine.iter().map(|id| Channel::Chat(*id)).collect();
    all.extend([Channel::Inbox, Channel::Typing(one)]);
    match number % 7 {
        0 => (Habits { multiplexed: true, ..resumes }, all),
        1 => (resumes, vec![Channel::Chat(one)]),
        2 => (Habits { over_http: true, ..resumes }, vec![Channel::Chat(one)]),
        3 => (Habits { multiplexed: true, naps: true, leaves: true, ..resumes }, all),
        4 => (Habits::default(), vec![Channel::Chat(one)]),
        5 => (Habits { naps: true, leaves: true, ..resumes }, vec![Channel::Chat(one)]),
        _ => (resumes, vec![Channel::Inbox]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_someone_to_talk_to() {
        for clients in [1, 7, 30, 100] {
            let people = People::new(3, clients);
            assert!(people.users.iter().all(|user| people.conversations.iter().any(|c| c.contains(user))));
            assert!(people.conversations.iter().any(|people| people.len() >= 5));
            assert!(people.conversations.iter().all(|people| (2..=20).contains(&people.len())));
        }
    }
}
