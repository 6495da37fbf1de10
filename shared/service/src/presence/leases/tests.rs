use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const USERS: i64 = 6;
const GATEWAYS: usize = 3;
const REPLICAS: usize = 2;
/// Users in a page.
const PAGE: usize = 2;

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn delta(n: u64, on: &[i64], off: &[i64]) -> Delta {
    let users = |ids: &[i64]| ids.iter().copied().map(user).collect();
    Delta { gateway: "g".to_owned(), epoch: 1, n, on: users(on), off: users(off) }
}

fn alive(n: u64, users: usize) -> Alive {
    Alive { gateway: "g".to_owned(), epoch: 1, n, users }
}

fn page(n: u64, users: &[i64], more: bool) -> SnapshotPage {
    SnapshotPage { epoch: 1, n, users: users.iter().copied().map(user).collect(), more }
}

fn present(leases: &Leases) -> Vec<i64> {
    let mut present: Vec<i64> = leases.present().map(UserId::get).collect();
    present.sort_unstable();
    present
}

#[test]
fn batches_apply_in_order_and_once() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    assert_eq!(leases.delta(&delta(1, &[1, 2], &[]), now).len(), 2);
    assert_eq!(leases.delta(&delta(2, &[], &[1]), now), [Change { user_id: user(1), is_present: false }]);
    assert_eq!(leases.delta(&delta(1, &[1], &[]), now), []);
    assert_eq!(present(&leases), [2]);
    assert_eq!(leases.asks(now), []);
}

#[test]
fn a_user_at_two_gateways_leaves_with_the_second() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    let other = Delta { gateway: "h".to_owned(), ..delta(1, &[1], &[]) };
    assert_eq!(leases.delta(&delta(1, &[1], &[]), now).len(), 1);
    assert_eq!(leases.delta(&other, now), []);
    assert_eq!(leases.delta(&delta(2, &[], &[1]), now), []);
    assert!(leases.is_present(user(1)));
    leases.alive(&alive(2, 0), now + LEASE / 2);
    assert_eq!(leases.lapse(now + LEASE), [Change { user_id: user(1), is_present: false }]);
    assert_eq!(leases.gateways(), 1);
}

#[test]
fn after_a_gap_a_snapshot_replaces_the_state_but_not_later_batches() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    leases.delta(&delta(1, &[1, 2, 3], &[]), now);
    leases.delta(&delta(4, &[5], &[]), now);
    assert!(!leases.is_settled(now + PAUSE));
    let asks = leases.asks(now);
    assert_eq!(asks, [Ask { gateway: "g".to_owned(), after: None }]);
    assert_eq!(leases.asks(now), [], "one request at a time");
    // Batch 5 overtakes a page with the state after batch 4.
    leases.delta(&delta(5, &[6], &[4]), now);
    assert_eq!(leases.page(&asks[0], &page(3, &[1], false), now), [], "older than the gap");
    leases.page(&asks[0], &page(4, &[2, 4], true), now);
    let asks = leases.asks(now);
    assert_eq!(asks, [Ask { gateway: "g".to_owned(), after: Some(user(4)) }]);
    leases.page(&asks[0], &page(5, &[5, 6], false), now);
    assert_eq!(present(&leases), [2, 5, 6]);
    assert!(leases.is_settled(now + PAUSE));
}

#[test]
fn a_sign_of_life_reveals_lost_batches() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    leases.delta(&delta(1, &[1], &[]), now);
    leases.alive(&alive(1, 1), now);
    assert_eq!(leases.asks(now), []);
    leases.alive(&alive(2, 0), now);
    assert_eq!(leases.asks(now).len(), 1);
}

#[test]
fn users_beyond_the_capacity_are_counted_and_added_once_there_is_room() {
    let now = Instant::now();
    let mut leases = Leases::new(2, now);
    leases.delta(&delta(1, &[1, 2, 3], &[]), now);
    assert_eq!((leases.len(), leases.take_refused()), (2, 1));
    leases.alive(&alive(1, 3), now);
    assert_eq!(leases.asks(now), [], "there is no room yet");
    leases.delta(&delta(2, &[], &[1]), now);
    leases.alive(&alive(2, 2), now);
    let asks = leases.asks(now);
    leases.page(&asks[0], &page(2, &[2, 3], false), now);
    assert_eq!(present(&leases), [2, 3]);
}

#[test]
fn no_lease_ends_before_a_gateway_could_renew_it_after_a_doubt() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    leases.delta(&delta(1, &[1], &[]), now);
    leases.doubt(now + 2 * LEASE);
    assert_eq!(leases.lapse(now + 2 * LEASE), []);
    assert_eq!(leases.lapse(now + 3 * LEASE).len(), 1);
}

#[test]
fn after_a_pause_of_the_replica_no_lease_is_over_and_nothing_is_settled() {
    let now = Instant::now();
    let mut leases = Leases::new(10, now);
    leases.delta(&delta(1, &[1], &[]), now);
    let later = now + 2 * LEASE;
    assert!(!leases.is_settled(later), "before it notices");
    assert!(leases.runs(later));
    assert_eq!(leases.lapse(later), []);
    assert!(!leases.is_settled(later));
    assert!(!leases.runs(later + PAUSE));
    assert!(leases.is_settled(later + PAUSE));
    assert_eq!(leases.lapse(later + LEASE).len(), 1, "the gateway is gone");
}

/// A gateway: the users with open sockets, and those in its batches so far.
#[derive(Default)]
struct Model {
    epoch: i64,
    is_up: bool,
    n: u64,
    open: BTreeSet<i64>,
    published: BTreeSet<i64>,
}

#[derive(Debug, Clone)]
enum Step {
    Open(usize, i64),
    Close(usize, i64),
    /// Publishes a batch, which the replicas of this mask receive.
    Batch(usize, usize),
    Alive(usize, usize),
    Kill(usize),
    Start(usize),
    /// Answers a replica's requests.
    Answer(usize),
    /// Delivers the oldest page to a replica.
    Page(usize),
    /// A replica starts anew.
    Restart(usize),
    Wait(u64),
    /// A replica is suspended for so long.
    Suspend(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (gateway, replica, mask) = (0..GATEWAYS, 0..REPLICAS, 0..(1_usize << REPLICAS));
    prop_oneof![
        4 => (gateway.clone(), 1..=USERS).prop_map(|(gateway, user)| Step::Open(gateway, user)),
        4 => (gateway.clone(), 1..=USERS).prop_map(|(gateway, user)| Step::Close(gateway, user)),
        6 => (gateway.clone(), mask.clone()).prop_map(|(gateway, mask)| Step::Batch(gateway, mask)),
        3 => (gateway.clone(), mask).prop_map(|(gateway, mask)| Step::Alive(gateway, mask)),
        1 => gateway.clone().prop_map(Step::Kill),
        1 => gateway.prop_map(Step::Start),
        4 => replica.clone().prop_map(Step::Answer),
        4 => replica.clone().prop_map(Step::Page),
        1 => replica.prop_map(Step::Restart),
        2 => (0..8_000_u64).prop_map(Step::Wait),
        1 => (0..REPLICAS, 0..30_000_u64).prop_map(|(replica, millis)| Step::Suspend(replica, millis)),
    ]
}

struct World {
    now: Instant,
    gateways: Vec<Model>,
    replicas: Vec<Leases>,
    pages: Vec<VecDeque<(Ask, SnapshotPage)>>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            gateways: (0..GATEWAYS).map(|_| Model { is_up: true, ..Model::default() }).collect(),
            replicas: (0..REPLICAS).map(|_| Leases::new(100, now)).collect(),
            pages: vec![VecDeque::new(); REPLICAS],
        }
    }

    fn receivers(&mut self, mask: usize) -> impl Iterator<Item = &mut Leases> {
        let replicas = self.replicas.iter_mut().enumerate();
        replicas.filter(move |(index, _)| mask & (1 << index) != 0).map(|(_, replica)| replica)
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Open(gateway, user) => _ = self.gateways[gateway].open.insert(user),
            Step::Close(gateway, user) => _ = self.gateways[gateway].open.remove(&user),
            Step::Batch(gateway, mask) => self.batch(gateway, mask),
            Step::Alive(gateway, mask) => {
                let Model { epoch, is_up: true, n, published, .. } = &self.gateways[gateway] else { return };
                let (epoch, n, users) = (*epoch, *n, published.len());
                let alive = Alive { gateway: gateway.to_string(), epoch, n, users };
                self.receivers(mask).for_each(|replica| replica.alive(&alive, now));
            }
            Step::Kill(gateway) => {
                let epoch = self.gateways[gateway].epoch;
                self.gateways[gateway] = Model { epoch, ..Model::default() };
            }
            Step::Start(gateway) => {
                let Model { is_up: false, epoch, .. } = &self.gateways[gateway] else { return };
                self.gateways[gateway] = Model { epoch: epoch + 1, is_up: true, ..Model::default() };
            }
            Step::Answer(replica) => self.answer(replica),
            Step::Page(replica) => {
                if let Some((ask, page)) = self.pages[replica].pop_front() {
                    self.replicas[replica].page(&ask, &page, now);
                }
            }
            Step::Restart(replica) => {
                self.replicas[replica] = Leases::new(100, now);
                self.pages[replica].clear();
            }
            Step::Wait(millis) => self.wait(millis, None),
            Step::Suspend(replica, millis) => {
                self.wait(millis, Some(replica));
                self.replicas[replica].runs(self.now);
                self.replicas[replica].lapse(self.now);
            }
        }
    }

    /// Time passes; all replicas run but the one that is suspended.
    fn wait(&mut self, millis: u64, suspended: Option<usize>) {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            self.now = end.min(self.now + Duration::from_secs(1));
            for (_, replica) in
                self.replicas.iter_mut().enumerate().filter(|(index, _)| Some(*index) != suspended)
            {
                replica.runs(self.now);
                replica.lapse(self.now);
            }
        }
    }

    fn batch(&mut self, gateway: usize, mask: usize) {
        let now = self.now;
        let Model { epoch, is_up: true, n, open, published } = &mut self.gateways[gateway] else { return };
        let on = open.difference(published).copied().map(user).collect::<Vec<_>>();
        let off = published.difference(open).copied().map(user).collect::<Vec<_>>();
        if on.is_empty() && off.is_empty() {
            return;
        }
        *n += 1;
        published.clone_from(open);
        let delta = Delta { gateway: gateway.to_string(), epoch: *epoch, n: *n, on, off };
        self.receivers(mask).for_each(|replica| _ = replica.delta(&delta, now));
    }

    fn answer(&mut self, replica: usize) {
        for ask in self.replicas[replica].asks(self.now) {
            let gateway = &self.gateways[ask.gateway.parse::<usize>().unwrap()];
            if gateway.is_up {
                let after = ask.after.map_or(0, UserId::get);
                let rest: Vec<UserId> = gateway.published.range(after + 1..).copied().map(user).collect();
                let users = rest.iter().copied().take(PAGE).collect();
                let (epoch, n, more) = (gateway.epoch, gateway.n, rest.len() > PAGE);
                self.pages[replica].push_back((ask, SnapshotPage { epoch, n, users, more }));
            }
        }
    }

    /// Loses nothing for the time of a lease and two requests.
    fn heal(&mut self) {
        let everyone = (1 << REPLICAS) - 1;
        for _ in 0..8 {
            for gateway in 0..GATEWAYS {
                self.step(Step::Batch(gateway, everyone));
                self.step(Step::Alive(gateway, everyone));
            }
            for replica in 0..REPLICAS {
                for _ in 0..GATEWAYS * 8 {
                    self.step(Step::Answer(replica));
                    self.step(Step::Page(replica));
                }
            }
            self.step(Step::Wait(5_000));
        }
    }
}

proptest! {
    #[test]
    fn after_on_off_kill_and_loss_all_replicas_converge_to_the_open_sockets(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.heal();
        let mut open: Vec<i64> =
            world.gateways.iter().filter(|gateway| gateway.is_up).flat_map(|gateway| gateway.open.clone()).collect();
        open.sort_unstable();
        open.dedup();
        for replica in &world.replicas {
            prop_assert_eq!(present(replica), open.clone());
            prop_assert!(replica.is_settled(world.now));
        }
    }
}
