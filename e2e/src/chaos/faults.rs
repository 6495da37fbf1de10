//! What is done to the stack: worked out beforehand from the seed, then done.

use super::{
    proxy::Flow,
    rules::{Fault as Wrong, Rule},
    world::{Counters, World},
};
use crate::{Kind, Stack};
use fastrand::Rng;
use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};
use testkit::Signal;
use tokio::task::JoinSet;

/// How long a service may take to stop.
const STOPPING: Duration = Duration::from_secs(30);

/// What may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The gateways.
    Gateway,
    /// The chat-services.
    Chat,
    /// The notify-services.
    Notify,
    /// The typing-services.
    Typing,
    /// nats-server.
    Nats,
    /// Postgres.
    Postgres,
    /// The ways to NATS and Postgres.
    Net,
}

impl Part {
    /// Every part, with its name.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Gateway, "gateway"),
        (Self::Chat, "chat"),
        (Self::Notify, "notify"),
        (Self::Typing, "typing"),
        (Self::Nats, "nats"),
        (Self::Postgres, "postgres"),
        (Self::Net, "net"),
    ];

    /// How often it breaks, among the others: most often where most can go wrong.
    fn weight(self) -> usize {
        match self {
            Self::Net => 5,
            Self::Gateway | Self::Chat => 3,
            Self::Notify | Self::Nats | Self::Postgres => 2,
            Self::Typing => 1,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(part, _)| *part == self).map_or("", |(_, name)| name)
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Gateway => Some(Kind::Gateway),
            Self::Chat => Some(Kind::Chat),
            Self::Notify => Some(Kind::Notify),
            Self::Typing => Some(Kind::Typing),
            Self::Nats | Self::Postgres | Self::Net => None,
        }
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(part, _)| *part).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            format!("{name} is none of {names}")
        })
    }
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A service.
    Service(Kind, usize),
    /// One of the nats-servers.
    Nats(usize),
    /// Postgres.
    Postgres,
    /// The way of a service to NATS.
    WayToNats(Kind, usize),
    /// The way of a service to Postgres.
    WayToPostgres(Kind, usize),
}

/// How it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// Killed with -9, and started again after a while.
    Kill,
    /// Stopped, and continued after a while.
    Stop,
    /// Asked to stop, and started again when it has.
    Terminate,
    /// Connections reset.
    Reset,
    /// Connections stalled, or new ones refused, for a while.
    Cut(Flow),
}

impl How {
    /// The column of the table that it belongs to.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Stop => "stops",
            Self::Terminate => "terms",
            Self::Reset | Self::Cut(_) => "cuts",
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When, since the beginning.
    pub at: Duration,
    /// To what.
    pub target: Target,
    /// How.
    pub how: How,
    /// For how long.
    pub lasts: Duration,
}

/// Works out what to do: in rounds, each with a quiet end in which everything is whole.
///
/// `counts` and `servers` say how many of each service and how many nats-servers there are.
pub fn plan(seed: u64, length: Duration, parts: &[Part], counts: [usize; 4], servers: usize) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < length {
        let end = (at + between(&mut rng, 12.0, 25.0)).min(length);
        while at < end {
            if let Some(part) = deal(&mut rng, &mut deck, parts)
                && let Some((target, how)) = one(&mut rng, part, counts, servers)
            {
                let lasts = lasts(&mut rng, target, how).min(end - at);
                let planned = Planned { at, target, how, lasts };
                plan.push(planned);
            }
            at += between(&mut rng, 0.2, 2.0);
        }
        at = end + between(&mut rng, 3.0, 6.0);
    }
    plan
}

/// The next part to break. Dealt like cards, so that none is left out for long.
fn deal(rng: &mut Rng, deck: &mut Vec<Part>, parts: &[Part]) -> Option<Part> {
    if deck.is_empty() {
        deck.extend(parts.iter().flat_map(|part| std::iter::repeat_n(*part, part.weight())));
        rng.shuffle(deck);
    }
    deck.pop()
}

fn between(rng: &mut Rng, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(least + rng.f64() * (most - least))
}

fn one(rng: &mut Rng, part: Part, counts: [usize; 4], servers: usize) -> Option<(Target, How)> {
    if let Some(kind) = part.kind() {
        let how = *rng.choice(&[How::Kill, How::Kill, How::Stop, How::Stop, How::Terminate])?;
        return Some((Target::Service(kind, index(rng, kind, counts)?), how));
    }
    if part == Part::Net {
        return way(rng, counts);
    }
    let how = *rng.choice(&[How::Kill, How::Stop])?;
    let target = match part {
        Part::Nats if servers > 1 => Target::Nats(rng.usize(..servers)),
        Part::Nats => Target::Nats(0),
        _ => Target::Postgres,
    };
    Some((target, how))
}

fn lasts(rng: &mut Rng, target: Target, how: How) -> Duration {
    match (how, target) {
        (How::Reset | How::Terminate, _) => Duration::ZERO,
        (How::Stop, Target::Service(..)) => between(rng, 1.0, 12.0),
        (How::Stop | How::Cut(_), _) => between(rng, 1.0, 9.0),
        (How::Kill, _) => between(rng, 0.1, 4.0),
    }
}

fn index(rng: &mut Rng, kind: Kind, counts: [usize; 4]) -> Option<usize> {
    let position = Kind::ALL.iter().position(|known| *known == kind)?;
    (counts[position] > 0).then(|| rng.usize(..counts[position]))
}

fn way(rng: &mut Rng, counts: [usize; 4]) -> Option<(Target, How)> {
    // What typing-service misses, nobody does.
    let kinds = [Kind::Gateway, Kind::Gateway, Kind::Chat, Kind::Chat, Kind::Notify, Kind::Typing];
    let kind = *rng.choice(&kinds)?;
    let index = index(rng, kind, counts)?;
    let has_database = [Kind::Chat, Kind::Notify].contains(&kind);
    let target = if has_database && rng.bool() {
        Target::WayToPostgres(kind, index)
    } else {
        Target::WayToNats(kind, index)
    };
    let flows = [Flow::Stall, Flow::StallUp, Flow::StallDown, Flow::Refuse];
    let how = if rng.u8(..3) == 0 { How::Reset } else { How::Cut(*rng.choice(&flows)?) };
    Some((target, how))
}

/// Does what was planned.
pub struct Saboteur<'a> {
    stack: &'a mut Stack,
    world: Arc<World>,
    /// What is broken, until when.
    broken: Vec<(Instant, Target, How)>,
    stopping: JoinSet<(Kind, usize, Option<ExitStatus>, Duration)>,
    /// By part and column.
    done: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'a> Saboteur<'a> {
    /// Of this stack.
    pub fn new(stack: &'a mut Stack, world: Arc<World>) -> Self {
        Self { stack, world, broken: Vec::new(), stopping: JoinSet::new(), done: BTreeMap::new() }
    }

    /// Does everything, and mends it; returns how much of what was done, by part and column.
    pub async fn run(
        mut self,
        plan: &[Planned],
        length: Duration,
    ) -> BTreeMap<(&'static str, &'static str), u64> {
        let began = self.world.began;
        let mut plan = plan.iter().peekable();
        loop {
            let next = plan.peek().map(|planned| began + planned.at);
            let mends = self.broken.iter().map(|(until, ..)| *until).min();
            let over = began + length;
            let due = next.into_iter().chain(mends).min().unwrap_or(over);
            let nothing_left = next.is_none() && mends.is_none();
            if nothing_left && Instant::now() >= over && self.stopping.is_empty() {
                return self.done;
            }
            // Looks now and then whether something has ended by itself.
            let due = due.min(Instant::now() + Duration::from_millis(500));
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                Some(ended) = self.stopping.join_next(), if !self.stopping.is_empty() => {
                    self.stopped(ended.expect("waiting for a process does not panic"));
                }
            }
            self.look_after();
            self.mend_due().await;
            if let Some(planned) = plan.next_if(|planned| began + planned.at <= Instant::now()) {
                self.break_one(*planned).await;
            }
        }
    }

    /// Whether something is broken already: two faults at once would mend each other.
    fn is_broken(&self, target: Target) -> bool {
        let missing = match target {
            Target::Service(kind, index) => !self.stack.runs(kind, index),
            _ => false,
        };
        missing || self.broken.iter().any(|(_, broken, _)| *broken == target)
    }

    async fn break_one(&mut self, planned: Planned) {
        let Planned { target, how, lasts, .. } = planned;
        if self.is_broken(target) {
            return;
        }
        let part = match target {
            Target::Service(kind, _) => kind.program(),
            Target::Nats(_) => "nats-server",
            Target::Postgres => "postgres",
            Target::WayToNats(..) => "way to NATS",
            Target::WayToPostgres(..) => "way to Postgres",
        };
        *self.done.entry((part, how.column())).or_default() += 1;
        Counters::one(&self.world.counters.faults);
        self.world.note(format!("{target:?} {how:?} for {:.1} s", lasts.as_secs_f32()));
        match (target, how) {
            (Target::Service(kind, index), How::Kill) => self.stack.kill(kind, index).await,
            (Target::Service(kind, index), How::Stop) => {
                if kind == Kind::Gateway {
                    self.world.gateway_stopped(index, true);
                }
                self.stack.signal(kind, index, Signal::Stop);
            }
            (Target::Service(kind, index), _) => return self.terminate(kind, index),
            (Target::Nats(index), How::Kill) => self.stack.server(index).kill().await,
            (Target::Nats(index), _) => self.stack.server(index).stop(),
            (Target::Postgres, How::Kill) => self.postgres().kill().await,
            (Target::Postgres, _) => self.postgres().stop(),
            (_, How::Cut(flow)) => self.way(target, flow, flow == Flow::Refuse),
            (..) => return self.way(target, Flow::Pass, true),
        }
        self.broken.push((Instant::now() + lasts, target, how));
    }

    fn postgres(&mut self) -> &mut testkit::Postgres {
        self.stack.postgres.as_mut().expect("the stack of a chaos run has a Postgres of its own")
    }

    fn way(&self, target: Target, flow: Flow, reset: bool) {
        let proxies = match target {
            Target::WayToNats(kind, index) => &self.stack.links_of(kind, index).nats[..],
            Target::WayToPostgres(kind, index) => {
                std::slice::from_ref(&self.stack.links_of(kind, index).postgres)
            }
            Target::Service(..) | Target::Nats(_) | Target::Postgres => return,
        };
        for proxy in proxies {
            proxy.set(flow);
            if reset {
                proxy.reset();
            }
        }
    }

    async fn mend_due(&mut self) {
        let now = Instant::now();
        let (due, rest) = std::mem::take(&mut self.broken).into_iter().partition(|(until, ..)| *until <= now);
        self.broken = rest;
        let due: Vec<(Instant, Target, How)> = due;
        for (_, target, how) in due {
            match (target, how) {
                (Target::Service(kind, index), How::Kill) => self.stack.restart(kind, index),
                (Target::Service(kind, index), _) => {
                    self.stack.signal(kind, index, Signal::Cont);
                    if kind == Kind::Gateway {
                        self.world.gateway_stopped(index, false);
                    }
                }
                (Target::Nats(index), How::Kill) => {
                    let restarted = self.stack.server(index).restart().await;
                    self.mended("nats-server", restarted);
                }
                (Target::Nats(index), _) => self.stack.server(index).cont(),
                (Target::Postgres, How::Kill) => {
                    let restarted = self.postgres().restart().await;
                    self.mended("postgres", restarted);
                }
                (Target::Postgres, _) => self.postgres().cont(),
                (Target::WayToNats(..) | Target::WayToPostgres(..), _) => self.way(target, Flow::Pass, false),
            }
        }
    }

    fn mended(&self, what: &str, restarted: anyhow::Result<()>) {
        if let Err(error) = restarted {
            self.world
                .violation(Wrong::new(Rule::Process, format!("{what} does not start again: {error:#}")));
        }
    }

    /// Asks a service to stop; it is started again when it has.
    fn terminate(&mut self, kind: Kind, index: usize) {
        let Some(child) = self.stack.take(kind, index) else { return };
        let has_begun = catches_term(child.pid());
        child.signal(Signal::Term);
        self.stopping.spawn(async move {
            let asked = Instant::now();
            let status = tokio::time::timeout(STOPPING + Duration::from_secs(2), child.wait()).await;
            let status = status.ok().flatten();
            // A process that was started a moment ago has accepted nothing yet, and may end by the signal itself.
            let never_began = !has_begun && status.is_some_and(|status| status.signal() == Some(SIGTERM));
            (kind, index, if never_began { Some(ExitStatus::default()) } else { status }, asked.elapsed())
        });
    }

    fn stopped(&mut self, (kind, index, status, took): (Kind, usize, Option<ExitStatus>, Duration)) {
        self.world.check(stopped_well(kind, index, status, took));
        self.stack.restart(kind, index);
    }

    /// Starts what has ended by itself, which it should not.
    fn look_after(&mut self) {
        for (kind, index) in self.stack.services() {
            if let Some(status) = self.stack.ended_by_itself(kind, index) {
                let what = format!("{} {} ended by itself: {status}", kind.program(), index + 1);
                self.world.violation(Wrong::new(Rule::Process, what));
                self.stack.restart(kind, index);
            }
        }
    }
}

/// The number of SIGTERM.
const SIGTERM: i32 = 15;

/// Whether a process has installed a handler for SIGTERM: not in its first milliseconds.
fn catches_term(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Where this can't be read, it has.
    caught.is_none_or(|mask| mask & (1 << (SIGTERM - 1)) != 0)
}

/// Whether a service that was asked to stop did so in time, and said that all is well.
///
/// # Errors
/// When it didn't.
pub fn stopped_well(
    kind: Kind,
    index: usize,
    status: Option<ExitStatus>,
    took: Duration,
) -> Result<(), Wrong> {
    let well = status.is_some_and(|status| status.success()) && took <= STOPPING;
    if well {
        return Ok(());
    }
    let status = status.map_or("is still running".to_owned(), |status| format!("ended with {status}"));
    let what = format!(
        "{} {} was asked to stop and {status} after {:.1} s",
        kind.program(),
        index + 1,
        took.as_secs_f32()
    );
    Err(Wrong::new(Rule::Process, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_from_its_seed_alone_and_ends_in_time() {
        let parts = Part::ALL.map(|(part, _)| part);
        let length = Duration::from_secs(120);
        let first = plan(7, length, &parts, [2; 4], 1);
        assert_eq!(first, plan(7, length, &parts, [2; 4], 1));
        assert_ne!(first, plan(8, length, &parts, [2; 4], 1));
        assert!(first.len() > 30, "{}", first.len());
        assert!(first.iter().all(|planned| planned.at + planned.lasts <= length));
        let gateways_net = |planned: &Planned| matches!(planned.target, Target::WayToNats(Kind::Gateway, _));
        assert!(plan(1, length / 2, &parts, [2; 4], 1).iter().any(gateways_net));
    }
}
