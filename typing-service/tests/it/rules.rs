//! The rules of a single replica, without a clock or a server.

use contract::{
    ConversationId, UserId,
    typing::{TypingAction, TypingEvent, TypingInput},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;
use typing_service::typists::{Announcement, Kind, Note, Rules, Typists};

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn input(user: i64, gateway: &str, action: TypingAction) -> TypingInput {
    TypingInput {
        conversation_id: ConversationId::new(1).unwrap(),
        user_id: UserId::new(user).unwrap(),
        username: format!("user-{user}"),
        gateway: gateway.to_owned(),
        action,
        at_ms: None,
    }
}

/// An event of another replica.
fn remote(user: i64, gateway: &str, is_typing: bool) -> TypingEvent {
    let TypingInput { conversation_id, user_id, username, .. } = input(user, gateway, TypingAction::Typing);
    TypingEvent {
        conversation_id,
        user_id,
        username,
        is_typing,
        gateway: Some(gateway.to_owned()),
        at_ms: None,
    }
}

fn kind(announcement: Option<Announcement>) -> Option<Kind> {
    announcement.map(|announcement| announcement.kind)
}

/// A replica some time after its start, with its clock.
struct Replica {
    typists: Typists,
    now: Instant,
    rules: Rules,
}

impl Replica {
    fn new() -> Self {
        Self::with(Rules::default())
    }

    fn with(rules: Rules) -> Self {
        let start = Instant::now();
        Self { typists: Typists::new(rules, start), now: start + rules.remote_ttl(), rules }
    }

    fn act(&mut self, gateway: &str, action: TypingAction) -> Option<Kind> {
        kind(self.typists.input(input(7, gateway, action), Duration::ZERO, self.now))
    }

    fn types(&mut self) -> Option<Kind> {
        self.act("g1", TypingAction::Typing)
    }

    fn receives(&mut self, event: TypingEvent, age: Duration) -> Option<Kind> {
        kind(self.typists.apply_remote(event, &Note { age, ..Note::default() }, self.now))
    }

    /// Advances the clock. Returns the announcements, with the time of each.
    fn advance(&mut self, time: Duration) -> Vec<(Duration, Kind)> {
        let (start, end) = (self.now, self.now + time);
        let mut announcements = Vec::new();
        while let Some(due) = self.typists.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            while let Some(announcement) = self.typists.expire(self.now) {
                announcements.push((self.now - start, announcement.kind));
            }
        }
        self.now = end;
        announcements
    }

    fn events(&self) -> Vec<TypingEvent> {
        let typing = self.typists.typing_in(ConversationId::new(1).unwrap(), self.now);
        typing.into_iter().map(|(event, _)| event).collect()
    }

    fn shown(&self) -> usize {
        self.events().len()
    }
}

#[test]
fn an_input_counts_from_its_creation() {
    let mut replica = Replica::new();
    let late = replica.typists.input(input(7, "g1", TypingAction::Typing), ms(4_000), replica.now).unwrap();
    assert_eq!((late.kind, late.note.age), (Kind::Start, ms(4_000)));
    assert_eq!(replica.advance(ms(20_000)), [(replica.rules.owned_ttl() - ms(4_000), Kind::End)]);
    // An older input, which took another path, doesn't shorten a newer one.
    assert_eq!(replica.types(), Some(Kind::Start));
    replica.typists.input(input(7, "g1", TypingAction::Typing), ms(4_000), replica.now);
    assert_eq!(replica.advance(ms(20_000)).last(), Some(&(replica.rules.owned_ttl(), Kind::End)));
}

#[test]
fn an_announcement_counts_from_its_publication() {
    let mut replica = Replica::new();
    let note = Note { age: ms(500), late: ms(4_000), ..Note::default() };
    assert_eq!(replica.typists.apply_remote(remote(7, "g2", true), &note, replica.now), None);
    assert_eq!(replica.advance(ms(20_000)), [(replica.rules.remote_ttl() - ms(4_000), Kind::End)]);
    // An announcement from before a stop doesn't restart the typing that the stop ended.
    assert_eq!(replica.types(), Some(Kind::Start));
    assert_eq!(replica.act("g1", TypingAction::Stopped), Some(Kind::End));
    replica.advance(ms(900));
    let note = Note { late: ms(1_500), ..Note::default() };
    let announced = replica.typists.apply_remote(remote(7, "g2", true), &note, replica.now);
    assert_eq!((kind(announced), replica.shown()), (Some(Kind::End), 0));
}

#[test]
fn typing_keeps_the_username_of_its_start() {
    let mut replica = Replica::new();
    let named = |name: &str, action| TypingInput { username: name.to_owned(), ..input(7, "g1", action) };
    let mut send = |name, action| {
        let announced = replica.typists.input(named(name, action), Duration::ZERO, replica.now);
        replica.now += ms(1_500);
        announced.unwrap().event.username
    };
    assert_eq!(send("Ann", TypingAction::Typing), "Ann");
    assert_eq!(send("Anna", TypingAction::Typing), "Ann");
    assert_eq!(send("Anna", TypingAction::Stopped), "Ann");
    assert_eq!(send("Anna", TypingAction::Typing), "Anna");
}

#[test]
fn many_inputs_are_one_start_and_one_end() {
    let mut replica = Replica::new();
    assert_eq!(replica.types(), Some(Kind::Start));
    for _ in 0..3 {
        assert_eq!(replica.advance(ms(250)), []);
        assert_eq!(replica.types(), None);
    }
    let owned = replica.rules.owned_ttl();
    assert!(owned >= ms(6_250) && owned <= ms(6_500), "{owned:?}");
    // The last input is announced one second after the start, then the end.
    assert_eq!(replica.advance(ms(20_000)), [(ms(250), Kind::Renewal), (owned, Kind::End)]);
    assert_eq!(replica.shown(), 0);
}

#[test]
fn a_stop_ends_at_once_and_only_once() {
    let mut replica = Replica::new();
    replica.types();
    assert_eq!(replica.act("g1", TypingAction::Stopped), Some(Kind::End));
    assert_eq!(replica.act("g1", TypingAction::Stopped), None);
    assert_eq!(replica.advance(ms(20_000)), []);
    assert_eq!(replica.typists.due(), None);
}

#[test]
fn typing_ends_when_the_user_has_left_all_gateways() {
    let mut replica = Replica::new();
    assert_eq!(replica.types(), Some(Kind::Start));
    assert_eq!(replica.act("g2", TypingAction::Typing), Some(Kind::Renewal), "other replicas must know g2");
    assert_eq!(replica.act("g3", TypingAction::Left), None, "never typed at");
    assert_eq!(
        replica.act("g1", TypingAction::Left),
        Some(Kind::Renewal),
        "other replicas must know that g1 was left"
    );
    assert_eq!(replica.act("g2", TypingAction::Left), Some(Kind::End));
}

#[test]
fn a_gateway_that_was_left_at_another_replica_counts() {
    let mut replica = Replica::new();
    replica.receives(remote(7, "g1", true), ms(0));
    replica.receives(remote(7, "g2", true), ms(0));
    let left = Note { left: Some("g1".to_owned()), ..Note::default() };
    assert_eq!(replica.typists.apply_remote(remote(7, "g2", true), &left, replica.now), None);
    assert_eq!(replica.act("g2", TypingAction::Left), Some(Kind::End));
}

#[test]
fn typists_of_other_replicas_end_after_the_remote_ttl() {
    let mut replica = Replica::new();
    assert_eq!(replica.receives(remote(7, "g1", true), ms(0)), None);
    assert_eq!(replica.shown(), 1);
    assert_eq!(replica.advance(ms(20_000)), [(replica.rules.remote_ttl(), Kind::End)]);
}

#[test]
fn the_replica_of_the_last_input_ends_the_typing() {
    let mut replica = Replica::new();
    replica.types();
    replica.advance(ms(500));
    // That input is 400 ms old, so it is later than this replica's.
    replica.receives(remote(7, "g1", true), ms(400));
    assert_eq!(replica.advance(ms(20_000)), [(replica.rules.remote_ttl(), Kind::End)]);

    replica.types();
    replica.advance(ms(500));
    replica.receives(remote(7, "g1", true), ms(2_000));
    assert_eq!(replica.advance(ms(20_000)), [(replica.rules.owned_ttl() - ms(500), Kind::End)]);
}

#[test]
fn a_stop_that_overtook_its_start_is_not_lost() {
    let mut replica = Replica::new();
    assert_eq!(replica.act("g1", TypingAction::Stopped), None);
    assert_eq!(replica.receives(remote(7, "g1", true), ms(0)), Some(Kind::End));
    assert_eq!(replica.receives(remote(7, "g1", true), ms(10)), Some(Kind::End), "a second announcement");
    assert_eq!(replica.shown(), 0);

    let mut replica = Replica::new();
    replica.act("g1", TypingAction::Stopped);
    replica.advance(ms(200));
    assert_eq!(replica.receives(remote(7, "g1", true), ms(0)), None, "an input after the stop");
    assert_eq!(replica.shown(), 1);

    let mut replica = Replica::new();
    replica.act("g1", TypingAction::Left);
    assert_eq!(replica.receives(remote(7, "g2", true), ms(0)), None, "another gateway");
    assert_eq!(replica.shown(), 1);
}

#[test]
fn an_end_that_missed_the_last_input_is_reverted() {
    let mut replica = Replica::new();
    replica.types();
    replica.advance(ms(250));
    assert_eq!(replica.receives(remote(7, "g1", false), ms(6_300)), Some(Kind::Renewal));
    assert_eq!(replica.shown(), 1);
    assert_eq!(replica.receives(remote(7, "g1", false), ms(0)), None, "a stop is later than all inputs");
    assert_eq!(replica.shown(), 0);
}

#[test]
fn a_replica_that_may_have_missed_the_start_announces_a_stop() {
    let mut replica = Replica::new();
    assert_eq!(replica.act("g1", TypingAction::Stopped), None);
    replica.advance(ms(5_000));
    replica.typists.doubt(replica.now);
    assert_eq!(replica.act("g1", TypingAction::Stopped), Some(Kind::End));
}

#[test]
fn nothing_expires_until_missed_renewals_had_time_to_arrive() {
    let mut replica = Replica::new();
    replica.receives(remote(7, "g1", true), ms(0));
    replica.advance(replica.rules.remote_ttl() - ms(1));
    replica.typists.doubt(replica.now);
    assert_eq!(replica.advance(ms(1_200)), []);
    replica.receives(remote(7, "g1", true), ms(0));
    assert_eq!(replica.advance(ms(7_000)), []);
}

#[test]
fn the_number_of_typists_is_bounded() {
    let mut replica = Replica::with(Rules { capacity: 10, ..Rules::default() });
    for user in 1..=15 {
        let started =
            replica.typists.input(input(user, "g1", TypingAction::Typing), Duration::ZERO, replica.now);
        assert_eq!(kind(started), (user <= 10).then_some(Kind::Start));
    }
    for user in 101..=115 {
        assert_eq!(
            kind(replica.typists.apply_remote(remote(user, "g1", true), &Note::default(), replica.now)),
            None
        );
    }
    assert_eq!(replica.typists.typing(), 10);
    assert_eq!(replica.typists.take_refused(), 20);
    assert_eq!(replica.typists.take_refused(), 0);
    assert_eq!(replica.advance(ms(20_000)).len(), 10);
}

#[derive(Debug, Clone)]
enum Step {
    Act(i64, usize, TypingAction),
    Remote(i64, usize, bool, Duration, Option<usize>),
    Advance(Duration),
    Doubt,
}

const GATEWAYS: [&str; 3] = ["g1", "g2", "g3"];

pub fn actions() -> impl Strategy<Value = TypingAction> {
    prop_oneof![6 => Just(TypingAction::Typing), 1 => Just(TypingAction::Stopped), 1 => Just(TypingAction::Left)]
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = || 0..GATEWAYS.len();
    prop_oneof![
        4 => (1..4_i64, gateway(), actions()).prop_map(|(u, g, k)| Step::Act(u, g, k)),
        4 => (0..3_000_u64).prop_map(|time| Step::Advance(ms(time))),
        2 => (1..4_i64, gateway(), any::<bool>(), 0..2_000_u64, prop::option::weighted(0.2, gateway()))
            .prop_map(|(u, g, is, age, left)| Step::Remote(u, g, is, ms(age), left)),
        1 => Just(Step::Doubt),
    ]
}

proptest! {
    #[test]
    fn announcements_of_one_replica_alternate_and_always_end(
        steps in prop::collection::vec((1..4_i64, 0..GATEWAYS.len(), actions(), 0..3_000_u64), 1..80),
    ) {
        let mut replica = Replica::new();
        let mut shown = BTreeMap::new();
        let mut last = BTreeMap::new();
        let owned = replica.rules.owned_ttl();
        for (user, gateway, action, gap) in steps {
            if action == TypingAction::Typing {
                last.insert(user, replica.now);
            }
            let input = input(user, GATEWAYS[gateway], action);
            check(&mut shown, replica.typists.input(input, Duration::ZERO, replica.now))?;
            let end = replica.now + ms(gap);
            while let Some(due) = replica.typists.due().filter(|due| *due <= end) {
                replica.now = due;
                while let Some(announced) = replica.typists.expire(due) {
                    if announced.kind == Kind::End {
                        prop_assert_eq!(due - last[&announced.event.user_id.get()], owned);
                    }
                    check(&mut shown, Some(announced))?;
                }
            }
            replica.now = end;
            for user in shown.iter().filter(|(_, shown)| **shown).map(|(user, _)| user) {
                prop_assert!(replica.now - last[user] < owned);
            }
            prop_assert_eq!(replica.shown(), shown.values().filter(|shown| **shown).count());
        }
    }

    #[test]
    fn all_typing_ends_after_random_steps(steps in prop::collection::vec(step(), 1..80)) {
        let mut replica = Replica::new();
        // The typists from the view of other replicas: by the announcements that they receive and their own events.
        let mut shown = BTreeSet::new();
        for step in steps {
            match step {
                Step::Act(user, gateway, action) => {
                    let input = input(user, GATEWAYS[gateway], action);
                    let announced = replica.typists.input(input, Duration::ZERO, replica.now);
                    note(&mut shown, announced.map(|announced| announced.event));
                }
                Step::Remote(user, gateway, is_typing, age, left) => {
                    let left = left.map(|left| GATEWAYS[left].to_owned());
                    let event = remote(user, GATEWAYS[gateway], is_typing);
                    // Another test covers an end that missed the last input.
                    let age = if is_typing { age } else { ms(0) };
                    note(&mut shown, Some(event.clone()));
                    let received = Note { age, left, ..Note::default() };
                    let announced = replica.typists.apply_remote(event, &received, replica.now);
                    note(&mut shown, announced.map(|announced| announced.event));
                }
                Step::Advance(time) => advance(&mut replica, &mut shown, time),
                Step::Doubt => replica.typists.doubt(replica.now),
            }
            prop_assert_eq!(replica.typists.typing(), replica.shown());
            let known: BTreeSet<i64> =
                replica.events().iter().map(|event| event.user_id.get()).collect();
            prop_assert_eq!(&known, &shown);
        }
        advance(&mut replica, &mut shown, ms(60_000));
        prop_assert_eq!(replica.typists.typing(), 0);
        prop_assert_eq!(replica.typists.due(), None);
        prop_assert!(shown.is_empty());
    }
}

fn check(shown: &mut BTreeMap<i64, bool>, announced: Option<Announcement>) -> Result<(), TestCaseError> {
    let Some(announced) = announced else { return Ok(()) };
    let shown = shown.entry(announced.event.user_id.get()).or_default();
    prop_assert_eq!(*shown, announced.kind != Kind::Start, "{:?}", announced);
    prop_assert_eq!(announced.event.is_typing, announced.kind != Kind::End);
    *shown = announced.event.is_typing;
    Ok(())
}

fn note(shown: &mut BTreeSet<i64>, event: Option<TypingEvent>) {
    match event {
        Some(event) if event.is_typing => _ = shown.insert(event.user_id.get()),
        Some(event) => _ = shown.remove(&event.user_id.get()),
        None => {}
    }
}

fn advance(replica: &mut Replica, shown: &mut BTreeSet<i64>, time: Duration) {
    let end = replica.now + time;
    while let Some(due) = replica.typists.due().filter(|due| *due <= end) {
        replica.now = replica.now.max(due);
        while let Some(announced) = replica.typists.expire(replica.now) {
            note(shown, Some(announced.event));
        }
    }
    replica.now = end;
}
