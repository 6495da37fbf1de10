//! The rules of one replica, and of several that hear each other late, without a clock or a server.

use contract::{
    ConversationId, UserId,
    typing::{Keyboard, TypingEvent, TypingInput},
};
use proptest::prelude::*;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};
use tokio::time::Instant;
use typing_service::typists::{Announcement, Kind, Note, Rules, Typists};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn input(user: i64, gateway: &str, keyboard: Keyboard) -> TypingInput {
    TypingInput {
        conversation_id: ConversationId::new(1).unwrap(),
        user_id: UserId::new(user).unwrap(),
        username: format!("user-{user}"),
        gateway: gateway.to_owned(),
        keyboard,
        at_ms: None,
    }
}

fn said(user: i64, gateway: &str, is_typing: bool) -> TypingEvent {
    let TypingInput { conversation_id, user_id, username, .. } = input(user, gateway, Keyboard::Typing);
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

/// A replica that is long past its start, and its clock.
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
        Self { typists: Typists::new(rules, start), now: start + rules.heard(), rules }
    }

    fn keyboard(&mut self, gateway: &str, keyboard: Keyboard) -> Option<Kind> {
        kind(self.typists.input(input(7, gateway, keyboard), Duration::ZERO, self.now))
    }

    fn types(&mut self) -> Option<Kind> {
        self.keyboard("g1", Keyboard::Typing)
    }

    fn hears(&mut self, event: TypingEvent, age: Duration) -> Option<Kind> {
        kind(self.typists.heard(event, &Note { age, ..Note::default() }, self.now))
    }

    /// What happens while the time passes, and after how much of it.
    fn passes(&mut self, time: Duration) -> Vec<(Duration, Kind)> {
        let (start, end) = (self.now, self.now + time);
        let mut happened = Vec::new();
        while let Some(due) = self.typists.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            while let Some(announcement) = self.typists.expire(self.now) {
                happened.push((self.now - start, announcement.kind));
            }
        }
        self.now = end;
        happened
    }

    fn who(&self) -> Vec<TypingEvent> {
        let who = self.typists.who(ConversationId::new(1).unwrap(), self.now);
        who.into_iter().map(|(event, _)| event).collect()
    }

    fn shown(&self) -> usize {
        self.who().len()
    }
}

#[test]
fn an_input_counts_from_when_it_was_made() {
    let mut replica = Replica::new();
    let late = replica.typists.input(input(7, "g1", Keyboard::Typing), ms(4_000), replica.now).unwrap();
    assert_eq!((late.kind, late.note.age), (Kind::Start, ms(4_000)));
    assert_eq!(replica.passes(ms(20_000)), [(replica.rules.owned() - ms(4_000), Kind::End)]);
    // An older one, which took another way, takes nothing away from a newer one.
    assert_eq!(replica.types(), Some(Kind::Start));
    replica.typists.input(input(7, "g1", Keyboard::Typing), ms(4_000), replica.now);
    assert_eq!(replica.passes(ms(20_000)).last(), Some(&(replica.rules.owned(), Kind::End)));
}

#[test]
fn an_announcement_counts_from_when_it_was_published() {
    let mut replica = Replica::new();
    let note = Note { age: ms(500), late: ms(4_000), ..Note::default() };
    assert_eq!(replica.typists.heard(said(7, "g2", true), &note, replica.now), None);
    assert_eq!(replica.passes(ms(20_000)), [(replica.rules.heard() - ms(4_000), Kind::End)]);
    // One that was published before a stop does not begin anew what the stop ended.
    assert_eq!(replica.types(), Some(Kind::Start));
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), Some(Kind::End));
    replica.passes(ms(900));
    let note = Note { late: ms(1_500), ..Note::default() };
    let told = replica.typists.heard(said(7, "g2", true), &note, replica.now);
    assert_eq!((kind(told), replica.shown()), (Some(Kind::End), 0));
}

#[test]
fn typing_keeps_the_name_of_its_start_until_its_end() {
    let mut replica = Replica::new();
    let named = |name: &str, keyboard| TypingInput { username: name.to_owned(), ..input(7, "g1", keyboard) };
    let mut take = |name, keyboard| {
        let taken = replica.typists.input(named(name, keyboard), Duration::ZERO, replica.now);
        replica.now += ms(1_500);
        taken.unwrap().event.username
    };
    assert_eq!(take("Ann", Keyboard::Typing), "Ann");
    assert_eq!(take("Anna", Keyboard::Typing), "Ann");
    assert_eq!(take("Anna", Keyboard::Stopped), "Ann");
    assert_eq!(take("Anna", Keyboard::Typing), "Anna");
}

#[test]
fn many_keys_are_one_start_and_one_end() {
    let mut replica = Replica::new();
    assert_eq!(replica.types(), Some(Kind::Start));
    for _ in 0..3 {
        assert_eq!(replica.passes(ms(250)), []);
        assert_eq!(replica.types(), None);
    }
    let owned = replica.rules.owned();
    assert!(owned >= ms(6_250) && owned <= ms(6_500), "{owned:?}");
    // The others are told of the last key once a second is over, then of the end.
    assert_eq!(replica.passes(ms(20_000)), [(ms(250), Kind::Renewal), (owned, Kind::End)]);
    assert_eq!(replica.shown(), 0);
}

#[test]
fn a_stop_ends_at_once_and_only_once() {
    let mut replica = Replica::new();
    replica.types();
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), Some(Kind::End));
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), None);
    assert_eq!(replica.passes(ms(20_000)), []);
    assert_eq!(replica.typists.due(), None);
}

#[test]
fn typing_ends_when_the_last_gateway_typed_at_is_left() {
    let mut replica = Replica::new();
    assert_eq!(replica.types(), Some(Kind::Start));
    assert_eq!(replica.keyboard("g2", Keyboard::Typing), Some(Kind::Renewal), "others must know of g2");
    assert_eq!(replica.keyboard("g3", Keyboard::Left), None, "never typed at");
    assert_eq!(replica.keyboard("g1", Keyboard::Left), Some(Kind::Renewal), "others must know of this");
    assert_eq!(replica.keyboard("g2", Keyboard::Left), Some(Kind::End));
}

#[test]
fn a_gateway_left_at_another_replica_counts() {
    let mut replica = Replica::new();
    replica.hears(said(7, "g1", true), ms(0));
    replica.hears(said(7, "g2", true), ms(0));
    let left = Note { left: Some("g1".to_owned()), ..Note::default() };
    assert_eq!(replica.typists.heard(said(7, "g2", true), &left, replica.now), None);
    assert_eq!(replica.keyboard("g2", Keyboard::Left), Some(Kind::End));
}

#[test]
fn another_replicas_typist_ends_later_than_can_be_explained() {
    let mut replica = Replica::new();
    assert_eq!(replica.hears(said(7, "g1", true), ms(0)), None);
    assert_eq!(replica.shown(), 1);
    assert_eq!(replica.passes(ms(20_000)), [(replica.rules.heard(), Kind::End)]);
}

#[test]
fn whoever_took_the_last_input_ends_it() {
    let mut replica = Replica::new();
    replica.types();
    replica.passes(ms(500));
    // It was taken 400 ms ago, so after ours.
    replica.hears(said(7, "g1", true), ms(400));
    assert_eq!(replica.passes(ms(20_000)), [(replica.rules.heard(), Kind::End)]);

    replica.types();
    replica.passes(ms(500));
    replica.hears(said(7, "g1", true), ms(2_000));
    assert_eq!(replica.passes(ms(20_000)), [(replica.rules.owned() - ms(500), Kind::End)]);
}

#[test]
fn a_stop_that_overtook_its_start_is_not_lost() {
    let mut replica = Replica::new();
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), None);
    assert_eq!(replica.hears(said(7, "g1", true), ms(0)), Some(Kind::End));
    assert_eq!(replica.hears(said(7, "g1", true), ms(10)), Some(Kind::End), "and another");
    assert_eq!(replica.shown(), 0);

    let mut replica = Replica::new();
    replica.keyboard("g1", Keyboard::Stopped);
    replica.passes(ms(200));
    assert_eq!(replica.hears(said(7, "g1", true), ms(0)), None, "taken after the stop");
    assert_eq!(replica.shown(), 1);

    let mut replica = Replica::new();
    replica.keyboard("g1", Keyboard::Left);
    assert_eq!(replica.hears(said(7, "g2", true), ms(0)), None, "another gateway");
    assert_eq!(replica.shown(), 1);
}

#[test]
fn an_end_that_did_not_know_of_the_last_key_is_taken_back() {
    let mut replica = Replica::new();
    replica.types();
    replica.passes(ms(250));
    assert_eq!(replica.hears(said(7, "g1", false), ms(6_300)), Some(Kind::Renewal));
    assert_eq!(replica.shown(), 1);
    assert_eq!(replica.hears(said(7, "g1", false), ms(0)), None, "a stop is later than all keys");
    assert_eq!(replica.shown(), 0);
}

#[test]
fn a_replica_that_may_have_missed_the_start_passes_a_stop_on() {
    let mut replica = Replica::new();
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), None);
    replica.passes(ms(5_000));
    replica.typists.doubt(replica.now);
    assert_eq!(replica.keyboard("g1", Keyboard::Stopped), Some(Kind::End));
}

#[test]
fn nothing_ends_until_missed_renewals_had_time_to_come() {
    let mut replica = Replica::new();
    replica.hears(said(7, "g1", true), ms(0));
    replica.passes(replica.rules.heard() - ms(1));
    replica.typists.doubt(replica.now);
    assert_eq!(replica.passes(ms(1_200)), []);
    replica.hears(said(7, "g1", true), ms(0));
    assert_eq!(replica.passes(ms(7_000)), []);
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let mut replica = Replica::with(Rules { capacity: 10, ..Rules::default() });
    for user in 1..=15 {
        let started = replica.typists.input(input(user, "g1", Keyboard::Typing), Duration::ZERO, replica.now);
        assert_eq!(kind(started), (user <= 10).then_some(Kind::Start));
    }
    for user in 101..=115 {
        assert_eq!(kind(replica.typists.heard(said(user, "g1", true), &Note::default(), replica.now)), None);
    }
    assert_eq!(replica.typists.typing(), 10);
    assert_eq!(replica.typists.take_refused(), 20);
    assert_eq!(replica.typists.take_refused(), 0);
    assert_eq!(replica.passes(ms(20_000)).len(), 10);
}

#[derive(Debug, Clone)]
enum Step {
    Keyboard(i64, usize, Keyboard),
    Heard(i64, usize, bool, Duration, Option<usize>),
    Pass(Duration),
    Doubt,
}

const GATEWAYS: [&str; 3] = ["g1", "g2", "g3"];

fn keyboard() -> impl Strategy<Value = Keyboard> {
    prop_oneof![6 => Just(Keyboard::Typing), 1 => Just(Keyboard::Stopped), 1 => Just(Keyboard::Left)]
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = || 0..GATEWAYS.len();
    prop_oneof![
        4 => (1..4_i64, gateway(), keyboard()).prop_map(|(u, g, k)| Step::Keyboard(u, g, k)),
        4 => (0..3_000_u64).prop_map(|time| Step::Pass(ms(time))),
        2 => (1..4_i64, gateway(), any::<bool>(), 0..2_000_u64, prop::option::weighted(0.2, gateway()))
            .prop_map(|(u, g, is, age, left)| Step::Heard(u, g, is, ms(age), left)),
        1 => Just(Step::Doubt),
    ]
}

proptest! {
    #[test]
    fn what_one_replica_publishes_alternates_and_always_ends(
        steps in prop::collection::vec((1..4_i64, 0..GATEWAYS.len(), keyboard(), 0..3_000_u64), 1..80),
    ) {
        let mut replica = Replica::new();
        let mut shown = BTreeMap::new();
        let mut last = BTreeMap::new();
        let owned = replica.rules.owned();
        for (user, gateway, keyboard, gap) in steps {
            if keyboard == Keyboard::Typing {
                last.insert(user, replica.now);
            }
            let told = replica.typists.input(input(user, GATEWAYS[gateway], keyboard), Duration::ZERO, replica.now);
            check(&mut shown, told)?;
            let end = replica.now + ms(gap);
            while let Some(due) = replica.typists.due().filter(|due| *due <= end) {
                replica.now = due;
                while let Some(told) = replica.typists.expire(due) {
                    if told.kind == Kind::End {
                        prop_assert_eq!(due - last[&told.event.user_id.get()], owned);
                    }
                    check(&mut shown, Some(told))?;
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
    fn whatever_happens_all_is_forgotten_in_the_end(steps in prop::collection::vec(step(), 1..80)) {
        let mut replica = Replica::new();
        // As others see it: what is said to them, and what they have said.
        let mut shown = BTreeSet::new();
        for step in steps {
            match step {
                Step::Keyboard(user, gateway, keyboard) => {
                    let told = replica.typists.input(input(user, GATEWAYS[gateway], keyboard), Duration::ZERO, replica.now);
                    note(&mut shown, told.map(|told| told.event));
                }
                Step::Heard(user, gateway, is_typing, age, left) => {
                    let left = left.map(|left| GATEWAYS[left].to_owned());
                    let event = said(user, GATEWAYS[gateway], is_typing);
                    // An end that knows less than this replica has a test of its own.
                    let age = if is_typing { age } else { ms(0) };
                    note(&mut shown, Some(event.clone()));
                    let heard = Note { age, left, ..Note::default() };
                    let told = replica.typists.heard(event, &heard, replica.now);
                    note(&mut shown, told.map(|told| told.event));
                }
                Step::Pass(time) => pass(&mut replica, &mut shown, time),
                Step::Doubt => replica.typists.doubt(replica.now),
            }
            prop_assert_eq!(replica.typists.typing(), replica.shown());
            let known: BTreeSet<i64> =
                replica.who().iter().map(|event| event.user_id.get()).collect();
            prop_assert_eq!(&known, &shown);
        }
        pass(&mut replica, &mut shown, ms(60_000));
        prop_assert_eq!(replica.typists.typing(), 0);
        prop_assert_eq!(replica.typists.due(), None);
        prop_assert!(shown.is_empty());
    }

    #[test]
    fn replicas_end_it_between_6_and_6_5_seconds_after_the_last_key(
        keys in prop::collection::vec((250..12_000_u64, 0..4_usize), 1..40), replicas in 1..5_usize, seed: u64,
    ) {
        let mut world = World::new(replicas, seed);
        let mut at = 0;
        for (gap, replica) in keys {
            at += gap;
            world.send(at, replica % replicas, Keyboard::Typing);
        }
        world.run();
        world.ends_are_timely(ms(6_000), ms(6_500))?;
    }

    #[test]
    fn a_killed_replica_neither_ends_it_early_nor_keeps_it_up(
        keys in prop::collection::vec((250..9_000_u64, 0..3_usize), 1..40), killed in 0..100_000_u64, seed: u64,
    ) {
        let mut world = World::new(3, seed);
        world.kill(0, killed);
        let mut at = 0;
        for (gap, replica) in keys {
            at += gap;
            // NATS gives nothing to a replica that is gone.
            world.send(at, if at >= killed { 1 + replica % 2 } else { replica }, Keyboard::Typing);
        }
        world.run();
        // Keys that the killed one took in its last second and had not told of yet are lost with it.
        let rules = Rules::default();
        // The others count from when they were told: a second later, or two where they told each other something first.
        world.ends_are_timely(ms(4_900), rules.heard() + rules.renewal * 2 + ms(100))?;
    }

    #[test]
    fn a_stop_ends_it_whichever_replicas_take_what(
        keys in prop::collection::vec((150..3_000_u64, 0..3_usize, keyboard()), 1..40), seed: u64,
    ) {
        let mut world = World::new(3, seed);
        let mut at = 0;
        let mut expected = Vec::new();
        for (gap, replica, keyboard) in keys {
            at += gap;
            world.send(at, replica, keyboard);
            expected.push((at + 140, keyboard == Keyboard::Typing));
        }
        world.run();
        for (at, shown) in expected {
            prop_assert_eq!(world.shown_at(at), shown, "at {} ms", at);
        }
    }

    #[test]
    fn a_stop_right_behind_the_first_key_ends_it(
        gap in 0..30_u64, first in 0..3_usize, second in 1..3_usize, seed: u64,
    ) {
        let mut world = World::new(3, seed);
        world.send(0, first, Keyboard::Typing);
        world.send(gap, (first + second) % 3, Keyboard::Stopped);
        world.run();
        prop_assert!(!world.shown_at(200));
    }
}

fn check(shown: &mut BTreeMap<i64, bool>, told: Option<Announcement>) -> Result<(), TestCaseError> {
    let Some(told) = told else { return Ok(()) };
    let shown = shown.entry(told.event.user_id.get()).or_default();
    prop_assert_eq!(*shown, told.kind != Kind::Start, "{:?}", told);
    prop_assert_eq!(told.event.is_typing, told.kind != Kind::End);
    *shown = told.event.is_typing;
    Ok(())
}

fn note(shown: &mut BTreeSet<i64>, event: Option<TypingEvent>) {
    match event {
        Some(event) if event.is_typing => _ = shown.insert(event.user_id.get()),
        Some(event) => _ = shown.remove(&event.user_id.get()),
        None => {}
    }
}

fn pass(replica: &mut Replica, shown: &mut BTreeSet<i64>, time: Duration) {
    let end = replica.now + time;
    while let Some(due) = replica.typists.due().filter(|due| *due <= end) {
        replica.now = replica.now.max(due);
        while let Some(told) = replica.typists.expire(replica.now) {
            note(shown, Some(told.event));
        }
    }
    replica.now = end;
}

/// Replicas that hear each other 0 to 10 ms late, one user, and a gateway that shows what it hears last.
struct World {
    start: Instant,
    replicas: Vec<Typists>,
    killed: Option<(usize, Instant)>,
    random: fastrand::Rng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    ways: BTreeMap<usize, Instant>,
    keys: Vec<Instant>,
    /// What the gateway showed from when on.
    shows: Vec<(Instant, bool)>,
    told: Vec<(Instant, Kind)>,
}

enum Happening {
    Input(usize, Keyboard),
    Heard(usize, TypingEvent, Note),
    Served(usize, Announcement),
    Shown(bool),
}

impl World {
    fn new(replicas: usize, seed: u64) -> Self {
        let rules = Rules::default();
        let created = Instant::now();
        Self {
            start: created + rules.heard(),
            replicas: (0..replicas).map(|_| Typists::new(rules, created)).collect(),
            killed: None,
            random: fastrand::Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            ways: BTreeMap::new(),
            keys: Vec::new(),
            shows: Vec::new(),
            told: Vec::new(),
        }
    }

    fn plan(&mut self, at: Instant, happening: Happening) {
        let number = self.happenings.last_key_value().map_or(0, |(number, _)| number + 1);
        self.queue.push(Reverse((at, number)));
        self.happenings.insert(number, happening);
    }

    fn send(&mut self, at: u64, replica: usize, keyboard: Keyboard) {
        let at = self.start + ms(at);
        if keyboard == Keyboard::Typing {
            self.keys.push(at);
        }
        self.plan(at, Happening::Input(replica, keyboard));
    }

    fn kill(&mut self, replica: usize, at: u64) {
        self.killed = Some((replica, self.start + ms(at)));
    }

    fn lives(&self, replica: usize, now: Instant) -> bool {
        self.killed.is_none_or(|(killed, at)| killed != replica || now < at)
    }

    fn run(&mut self) {
        loop {
            let due = (0..self.replicas.len())
                .filter_map(|replica| Some((self.replicas[replica].due()?, replica)))
                .filter(|(due, replica)| self.lives(*replica, *due))
                .min();
            let next = self.queue.peek().map(|Reverse(next)| *next);
            match (due, next) {
                (Some((due, replica)), next) if next.is_none_or(|(at, _)| due < at) => {
                    while let Some(told) = self.replicas[replica].expire(due) {
                        self.publish(replica, told, due);
                    }
                }
                (_, Some((now, number))) => {
                    self.queue.pop();
                    let happening = self.happenings.remove(&number).unwrap();
                    self.happens(happening, now);
                }
                (_, None) => return,
            }
        }
    }

    fn happens(&mut self, happening: Happening, now: Instant) {
        let (replica, told) = match happening {
            Happening::Shown(shown) => return self.shows.push((now, shown)),
            Happening::Served(by, told) => return self.serve(by, &told, now),
            Happening::Input(replica, _) | Happening::Heard(replica, ..) if !self.lives(replica, now) => {
                return;
            }
            Happening::Input(replica, keyboard) => {
                (replica, self.replicas[replica].input(input(7, "g1", keyboard), Duration::ZERO, now))
            }
            Happening::Heard(replica, event, note) => {
                (replica, self.replicas[replica].heard(event, &note, now))
            }
        };
        if let Some(told) = told {
            self.publish(replica, told, now);
        }
    }

    /// The server gets what each replica publishes in order, and each reader gets in order what the server got.
    fn publish(&mut self, by: usize, told: Announcement, now: Instant) {
        self.told.push((now, told.kind));
        let at = self.travel(by, now);
        self.plan(at, Happening::Served(by, told));
    }

    fn serve(&mut self, by: usize, told: &Announcement, now: Instant) {
        let replicas = self.replicas.len();
        let at = self.travel(replicas, now);
        self.plan(at, Happening::Shown(told.event.is_typing));
        for replica in (0..replicas).filter(|replica| *replica != by) {
            let at = self.travel(replicas + 1 + replica, now);
            self.plan(at, Happening::Heard(replica, told.event.clone(), told.note.clone()));
        }
    }

    /// When something sent now arrives: after all that was sent the same way before.
    fn travel(&mut self, way: usize, now: Instant) -> Instant {
        let at = now + ms(self.random.u64(0..=5));
        let at = self.ways.get(&way).map_or(at, |before| at.max(*before));
        self.ways.insert(way, at);
        at
    }

    fn shown_at(&self, at: u64) -> bool {
        let at = self.start + ms(at);
        self.shows.iter().rev().find(|(when, _)| *when <= at).is_some_and(|(_, shown)| *shown)
    }

    /// Every end that the gateway shows comes at least `least` after the last key before it, and every key is followed
    /// by an end or by another key within `most`.
    fn ends_are_timely(&self, least: Duration, most: Duration) -> Result<(), TestCaseError> {
        let mut shown = false;
        let mut ends = Vec::new();
        for (at, shows) in &self.shows {
            if shown && !shows {
                ends.push(*at);
            }
            shown = *shows;
        }
        prop_assert!(!shown, "still shown in the end");
        for end in &ends {
            // A key in the last moment before may have crossed the end on its way.
            let key = self.keys.iter().rev().find(|key| **key + ms(20) < *end).unwrap();
            prop_assert!(*end - *key >= least, "ended {:?} after the last key", *end - *key);
        }
        for (number, key) in self.keys.iter().enumerate() {
            let next = self.keys.get(number + 1);
            if next.is_none_or(|next| *next > *key + most) {
                let ended = ends.iter().any(|end| end > key && *end <= *key + most);
                prop_assert!(ended, "not ended {:?} after the last key", most);
            }
        }
        Ok(())
    }
}

#[test]
fn replicas_together_renew_about_once_a_second() {
    for replicas in [1, 2, 4] {
        let mut world = World::new(replicas, 7);
        for key in 0..400 {
            let replica = world.random.usize(..replicas);
            world.send(key * 250, replica, Keyboard::Typing);
        }
        world.run();
        let renewals = world.told.iter().filter(|(_, kind)| *kind == Kind::Renewal).count();
        // 100 seconds. Two replicas whose second is over at once both speak.
        assert!((90..=101 * replicas.min(3)).contains(&renewals), "{renewals} by {replicas}");
    }
}
