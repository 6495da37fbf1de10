//! Several replicas that receive each other's events with delays, simulated without a clock or a server.

use crate::rules::{actions, input, ms};
use contract::typing::{TypingAction, TypingEvent};
use proptest::prelude::*;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};
use tokio::time::Instant;
use typing_service::typists::{Announcement, Kind, Note, Rules, Typists};

proptest! {
    #[test]
    fn replicas_end_typing_6_to_6_5_seconds_after_the_last_input(
        inputs in prop::collection::vec((250..12_000_u64, 0..4_usize), 1..40), replicas in 1..5_usize, seed: u64,
    ) {
        let mut world = World::new(replicas, seed);
        let mut at = 0;
        for (gap, replica) in inputs {
            at += gap;
            world.send(at, replica % replicas, TypingAction::Typing);
        }
        world.run();
        world.ends_are_timely(ms(6_000), ms(6_500))?;
    }

    #[test]
    fn a_killed_replica_neither_ends_nor_prolongs_typing(
        inputs in prop::collection::vec((250..9_000_u64, 0..3_usize), 1..40), killed in 0..100_000_u64, seed: u64,
    ) {
        let mut world = World::new(3, seed);
        world.kill(0, killed);
        let mut at = 0;
        for (gap, replica) in inputs {
            at += gap;
            // NATS delivers nothing to a replica that is gone.
            world.send(at, if at >= killed { 1 + replica % 2 } else { replica }, TypingAction::Typing);
        }
        world.run();
        // Inputs that the killed replica processed in its last second and did not announce are lost.
        let rules = Rules::default();
        // The others count from the last announcement: a second later, or two if they announced something first.
        world.ends_are_timely(ms(4_900), rules.remote_ttl() + rules.renewal * 2 + ms(100))?;
    }

    #[test]
    fn a_stop_ends_typing_at_any_replica(
        inputs in prop::collection::vec((150..3_000_u64, 0..3_usize, actions()), 1..40), seed: u64,
    ) {
        let mut world = World::new(3, seed);
        let mut at = 0;
        let mut expected = Vec::new();
        for (gap, replica, action) in inputs {
            at += gap;
            world.send(at, replica, action);
            expected.push((at + 140, action == TypingAction::Typing));
        }
        world.run();
        for (at, shown) in expected {
            prop_assert_eq!(world.shown_at(at), shown, "at {} ms", at);
        }
    }

    #[test]
    fn a_stop_right_after_the_first_input_ends_typing(
        gap in 0..30_u64, first in 0..3_usize, second in 1..3_usize, seed: u64,
    ) {
        let mut world = World::new(3, seed);
        world.send(0, first, TypingAction::Typing);
        world.send(gap, (first + second) % 3, TypingAction::Stopped);
        world.run();
        prop_assert!(!world.shown_at(200));
    }
}

/// Replicas that receive each other's events with a delay of 0 to 10 ms, one user, and a gateway that shows the last
/// event.
struct World {
    start: Instant,
    replicas: Vec<Typists>,
    killed: Option<(usize, Instant)>,
    random: fastrand::Rng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    actions: BTreeMap<u64, Action>,
    /// Last arrival on each link.
    links: BTreeMap<usize, Instant>,
    inputs: Vec<Instant>,
    /// Changes of the gateway's view.
    shows: Vec<(Instant, bool)>,
    announced: Vec<(Instant, Kind)>,
}

enum Action {
    Input(usize, TypingAction),
    Receive(usize, TypingEvent, Note),
    Serve(usize, Announcement),
    Show(bool),
}

impl World {
    fn new(replicas: usize, seed: u64) -> Self {
        let rules = Rules::default();
        let created = Instant::now();
        Self {
            start: created + rules.remote_ttl(),
            replicas: (0..replicas).map(|_| Typists::new(rules, created)).collect(),
            killed: None,
            random: fastrand::Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            actions: BTreeMap::new(),
            links: BTreeMap::new(),
            inputs: Vec::new(),
            shows: Vec::new(),
            announced: Vec::new(),
        }
    }

    fn schedule(&mut self, at: Instant, action: Action) {
        let number = self.actions.last_key_value().map_or(0, |(number, _)| number + 1);
        self.queue.push(Reverse((at, number)));
        self.actions.insert(number, action);
    }

    fn send(&mut self, at: u64, replica: usize, action: TypingAction) {
        let at = self.start + ms(at);
        if action == TypingAction::Typing {
            self.inputs.push(at);
        }
        self.schedule(at, Action::Input(replica, action));
    }

    fn kill(&mut self, replica: usize, at: u64) {
        self.killed = Some((replica, self.start + ms(at)));
    }

    fn is_alive(&self, replica: usize, now: Instant) -> bool {
        self.killed.is_none_or(|(killed, at)| killed != replica || now < at)
    }

    fn run(&mut self) {
        loop {
            let due = (0..self.replicas.len())
                .filter_map(|replica| Some((self.replicas[replica].due()?, replica)))
                .filter(|(due, replica)| self.is_alive(*replica, *due))
                .min();
            let next = self.queue.peek().map(|Reverse(next)| *next);
            match (due, next) {
                (Some((due, replica)), next) if next.is_none_or(|(at, _)| due < at) => {
                    while let Some(announced) = self.replicas[replica].expire(due) {
                        self.publish(replica, announced, due);
                    }
                }
                (_, Some((now, number))) => {
                    self.queue.pop();
                    let action = self.actions.remove(&number).unwrap();
                    self.perform(action, now);
                }
                (_, None) => return,
            }
        }
    }

    fn perform(&mut self, action: Action, now: Instant) {
        let (replica, announced) = match action {
            Action::Show(shown) => return self.shows.push((now, shown)),
            Action::Serve(by, announcement) => return self.serve(by, &announcement, now),
            Action::Input(replica, _) | Action::Receive(replica, ..) if !self.is_alive(replica, now) => {
                return;
            }
            Action::Input(replica, action) => {
                (replica, self.replicas[replica].input(input(7, "g1", action), Duration::ZERO, now))
            }
            Action::Receive(replica, event, note) => {
                (replica, self.replicas[replica].apply_remote(event, &note, now))
            }
        };
        if let Some(announced) = announced {
            self.publish(replica, announced, now);
        }
    }

    /// The server receives the announcements of each replica in order, and delivers them to each subscriber in order.
    fn publish(&mut self, by: usize, announcement: Announcement, now: Instant) {
        self.announced.push((now, announcement.kind));
        let at = self.arrival(by, now);
        self.schedule(at, Action::Serve(by, announcement));
    }

    fn serve(&mut self, by: usize, announcement: &Announcement, now: Instant) {
        let replicas = self.replicas.len();
        let at = self.arrival(replicas, now);
        self.schedule(at, Action::Show(announcement.event.is_typing));
        for replica in (0..replicas).filter(|replica| *replica != by) {
            let at = self.arrival(replicas + 1 + replica, now);
            self.schedule(
                at,
                Action::Receive(replica, announcement.event.clone(), announcement.note.clone()),
            );
        }
    }

    /// Arrival of a message that is sent now: after all earlier messages on the same link.
    fn arrival(&mut self, link: usize, now: Instant) -> Instant {
        let at = now + ms(self.random.u64(0..=5));
        let at = self.links.get(&link).map_or(at, |before| at.max(*before));
        self.links.insert(link, at);
        at
    }

    fn shown_at(&self, at: u64) -> bool {
        let at = self.start + ms(at);
        self.shows.iter().rev().find(|(when, _)| *when <= at).is_some_and(|(_, shown)| *shown)
    }

    /// Checks that each end comes at least `least` after the last input before it, and that each input is followed by
    /// an end or by another input within `most`.
    fn ends_are_timely(&self, least: Duration, most: Duration) -> Result<(), TestCaseError> {
        let mut shown = false;
        let mut ends = Vec::new();
        for (at, shows) in &self.shows {
            if shown && !shows {
                ends.push(*at);
            }
            shown = *shows;
        }
        prop_assert!(!shown, "still shown at the end");
        for end in &ends {
            // An input right before the end may have crossed it.
            let input = self.inputs.iter().rev().find(|input| **input + ms(20) < *end).unwrap();
            prop_assert!(*end - *input >= least, "ended {:?} after the last input", *end - *input);
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let next = self.inputs.get(number + 1);
            if next.is_none_or(|next| *next > *input + most) {
                let ended = ends.iter().any(|end| end > input && *end <= *input + most);
                prop_assert!(ended, "not ended {:?} after the last input", most);
            }
        }
        Ok(())
    }
}

#[test]
fn replicas_together_renew_about_once_a_second() {
    for replicas in [1, 2, 4] {
        let mut world = World::new(replicas, 7);
        for number in 0..400 {
            let replica = world.random.usize(..replicas);
            world.send(number * 250, replica, TypingAction::Typing);
        }
        world.run();
        let renewals = world.announced.iter().filter(|(_, kind)| *kind == Kind::Renewal).count();
        // In 100 seconds. Two replicas whose second ends at the same time both announce.
        assert!((90..=101 * replicas.min(3)).contains(&renewals), "{renewals} by {replicas}");
    }
}
