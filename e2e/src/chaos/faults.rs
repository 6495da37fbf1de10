//! Injected faults: planned from the seed before the run, then executed.

use super::{
    rules::{Fault as Violation, Rule},
    world::{Counters, World},
};
use crate::{Flow, Kind, Stack};
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

/// Maximum time for a service to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A part that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Gateway,
    /// The chat-services.
    Chat,
    /// The notify-services.
    Notify,
    /// The typing-services.
    Typing,
    /// nats-server.
    Nats,
    Postgres,
    /// The connections to NATS and Postgres.
    Net,
}

impl Part {
    /// All parts with their names.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Gateway, "gateway"),
        (Self::Chat, "chat"),
        (Self::Notify, "notify"),
        (Self::Typing, "typing"),
        (Self::Nats, "nats"),
        (Self::Postgres, "postgres"),
        (Self::Net, "net"),
    ];

    /// Relative frequency of faults. It is highest for the parts with the most possible failures.
    fn weight(self) -> usize {
        match self {
            Self::Net => 5,
            Self::Gateway | Self::Chat => 3,
            Self::Notify | Self::Nats | Self::Postgres => 2,
            Self::Typing => 1,
        }
    }

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
            format!("{name} is not one of {names}")
        })
    }
}

/// Target of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A replica of a service.
    Service(Kind, usize),
    /// A nats-server.
    Nats(usize),
    Postgres,
    /// Connections of a service to NATS.
    LinkToNats(Kind, usize),
    /// Connections of a service to Postgres.
    LinkToPostgres(Kind, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Killed with -9, and restarted after a while.
    Kill,
    /// Frozen, and resumed after a while.
    Stop,
    /// Stopped gracefully, and restarted when it has ended.
    Terminate,
    /// Connections are reset.
    Reset,
    /// Connections are stalled, or new ones refused, for a while.
    Cut(Flow),
}

impl FaultKind {
    /// Column of the fault in the report.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Stop => "stops",
            Self::Terminate => "terms",
            Self::Reset | Self::Cut(_) => "cuts",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Time since the start of the run.
    pub at: Duration,
    /// Target of the fault.
    pub target: Target,
    /// Kind of the fault.
    pub fault: FaultKind,
    /// Duration of the fault.
    pub duration: Duration,
}

/// Plans the faults, in rounds. At the end of each round, all faults are repaired.
///
/// `counts` and `servers` are the numbers of replicas of each service and of nats-servers.
pub fn plan(seed: u64, length: Duration, parts: &[Part], counts: [usize; 4], servers: usize) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < length {
        let end = (at + between(&mut rng, 12.0, 25.0)).min(length);
        while at < end {
            if let Some(part) = deal(&mut rng, &mut deck, parts)
                && let Some((target, fault)) = random_fault(&mut rng, part, counts, servers)
            {
                let duration = duration(&mut rng, target, fault).min(end - at);
                let planned = Planned { at, target, fault, duration };
                plan.push(planned);
            }
            at += between(&mut rng, 0.2, 2.0);
        }
        at = end + between(&mut rng, 3.0, 6.0);
    }
    plan
}

/// Returns the next part to break. Parts are dealt like cards, so that none is left out for long.
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

fn random_fault(
    rng: &mut Rng,
    part: Part,
    counts: [usize; 4],
    servers: usize,
) -> Option<(Target, FaultKind)> {
    if let Some(kind) = part.kind() {
        let fault = *rng.choice(&[
            FaultKind::Kill,
            FaultKind::Kill,
            FaultKind::Stop,
            FaultKind::Stop,
            FaultKind::Terminate,
        ])?;
        return Some((Target::Service(kind, index(rng, kind, counts)?), fault));
    }
    if part == Part::Net {
        return link_fault(rng, counts);
    }
    let fault = *rng.choice(&[FaultKind::Kill, FaultKind::Stop])?;
    let target = match part {
        Part::Nats if servers > 1 => Target::Nats(rng.usize(..servers)),
        Part::Nats => Target::Nats(0),
        _ => Target::Postgres,
    };
    Some((target, fault))
}

fn duration(rng: &mut Rng, target: Target, fault: FaultKind) -> Duration {
    match (fault, target) {
        (FaultKind::Reset | FaultKind::Terminate, _) => Duration::ZERO,
        (FaultKind::Stop, Target::Service(..)) => between(rng, 1.0, 12.0),
        (FaultKind::Stop | FaultKind::Cut(_), _) => between(rng, 1.0, 9.0),
        (FaultKind::Kill, _) => between(rng, 0.1, 4.0),
    }
}

fn index(rng: &mut Rng, kind: Kind, counts: [usize; 4]) -> Option<usize> {
    let position = Kind::ALL.iter().position(|known| *known == kind)?;
    (counts[position] > 0).then(|| rng.usize(..counts[position]))
}

fn link_fault(rng: &mut Rng, counts: [usize; 4]) -> Option<(Target, FaultKind)> {
    // typing-service gets the fewest faults, because nothing depends on it.
    let kinds = [Kind::Gateway, Kind::Gateway, Kind::Chat, Kind::Chat, Kind::Notify, Kind::Typing];
    let kind = *rng.choice(&kinds)?;
    let index = index(rng, kind, counts)?;
    let has_database = [Kind::Chat, Kind::Notify].contains(&kind);
    let target = if has_database && rng.bool() {
        Target::LinkToPostgres(kind, index)
    } else {
        Target::LinkToNats(kind, index)
    };
    let flows = [Flow::Stall, Flow::StallUp, Flow::StallDown, Flow::Refuse];
    let fault = if rng.u8(..3) == 0 { FaultKind::Reset } else { FaultKind::Cut(*rng.choice(&flows)?) };
    Some((target, fault))
}

/// Executes the planned faults.
pub struct FaultInjector<'a> {
    stack: &'a mut Stack,
    world: Arc<World>,
    /// Current faults and the times of their repair.
    broken: Vec<(Instant, Target, FaultKind)>,
    stopping: JoinSet<(Kind, usize, Option<ExitStatus>, Duration)>,
    /// Number of executed faults by part and column.
    done: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'a> FaultInjector<'a> {
    /// Creates the injector for this stack.
    pub fn new(stack: &'a mut Stack, world: Arc<World>) -> Self {
        Self { stack, world, broken: Vec::new(), stopping: JoinSet::new(), done: BTreeMap::new() }
    }

    /// Executes all faults and repairs them. Returns the number of faults by part and column.
    pub async fn run(
        mut self,
        plan: &[Planned],
        length: Duration,
    ) -> BTreeMap<(&'static str, &'static str), u64> {
        let began = self.world.began;
        let mut plan = plan.iter().peekable();
        loop {
            let next = plan.peek().map(|planned| began + planned.at);
            let repairs = self.broken.iter().map(|(until, ..)| *until).min();
            let over = began + length;
            let due = next.into_iter().chain(repairs).min().unwrap_or(over);
            let is_done = next.is_none() && repairs.is_none();
            if is_done && Instant::now() >= over && self.stopping.is_empty() {
                return self.done;
            }
            // Wakes up regularly to detect processes that have ended by themselves.
            let due = due.min(Instant::now() + Duration::from_millis(500));
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                Some(ended) = self.stopping.join_next(), if !self.stopping.is_empty() => {
                    self.stopped(ended.expect("waiting for a process does not panic"));
                }
            }
            self.restart_ended();
            self.repair_due().await;
            if let Some(planned) = plan.next_if(|planned| began + planned.at <= Instant::now()) {
                self.break_one(*planned).await;
            }
        }
    }

    /// Whether the target has a fault already. The repair of one of two simultaneous faults would also repair the
    /// other.
    fn is_broken(&self, target: Target) -> bool {
        let missing = match target {
            Target::Service(kind, index) => !self.stack.runs(kind, index),
            _ => false,
        };
        missing || self.broken.iter().any(|(_, broken, _)| *broken == target)
    }

    async fn break_one(&mut self, planned: Planned) {
        let Planned { target, fault, duration, .. } = planned;
        if self.is_broken(target) {
            return;
        }
        let part = match target {
            Target::Service(kind, _) => kind.program(),
            Target::Nats(_) => "nats-server",
            Target::Postgres => "postgres",
            Target::LinkToNats(..) => "link to NATS",
            Target::LinkToPostgres(..) => "link to Postgres",
        };
        *self.done.entry((part, fault.column())).or_default() += 1;
        Counters::increment(&self.world.counters.faults);
        self.world.note(format!("{target:?} {fault:?} for {:.1} s", duration.as_secs_f32()));
        match (target, fault) {
            (Target::Service(kind, index), FaultKind::Kill) => self.stack.kill(kind, index).await,
            (Target::Service(kind, index), FaultKind::Stop) => {
                if kind == Kind::Gateway {
                    self.world.set_gateway_paused(index, true);
                }
                self.stack.signal(kind, index, Signal::Stop);
            }
            (Target::Service(kind, index), _) => return self.terminate(kind, index),
            (Target::Nats(index), FaultKind::Kill) => self.stack.server(index).kill().await,
            (Target::Nats(index), _) => self.stack.server(index).stop(),
            (Target::Postgres, FaultKind::Kill) => self.postgres().kill().await,
            (Target::Postgres, _) => self.postgres().stop(),
            (_, FaultKind::Cut(flow)) => self.set_link(target, flow, flow == Flow::Refuse),
            (..) => return self.set_link(target, Flow::Pass, true),
        }
        self.broken.push((Instant::now() + duration, target, fault));
    }

    fn postgres(&mut self) -> &mut testkit::Postgres {
        self.stack.postgres.as_mut().expect("the stack of a chaos run has its own Postgres")
    }

    fn set_link(&self, target: Target, flow: Flow, reset: bool) {
        let proxies = match target {
            Target::LinkToNats(kind, index) => &self.stack.links_of(kind, index).nats[..],
            Target::LinkToPostgres(kind, index) => {
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

    async fn repair_due(&mut self) {
        let now = Instant::now();
        let (due, rest) = std::mem::take(&mut self.broken).into_iter().partition(|(until, ..)| *until <= now);
        self.broken = rest;
        let due: Vec<(Instant, Target, FaultKind)> = due;
        for (_, target, fault) in due {
            match (target, fault) {
                (Target::Service(kind, index), FaultKind::Kill) => self.stack.restart(kind, index),
                (Target::Service(kind, index), _) => {
                    self.stack.signal(kind, index, Signal::Cont);
                    if kind == Kind::Gateway {
                        self.world.set_gateway_paused(index, false);
                    }
                }
                (Target::Nats(index), FaultKind::Kill) => {
                    let restarted = self.stack.server(index).restart().await;
                    self.check_restart("nats-server", restarted);
                }
                (Target::Nats(index), _) => self.stack.server(index).cont(),
                (Target::Postgres, FaultKind::Kill) => {
                    let restarted = self.postgres().restart().await;
                    self.check_restart("postgres", restarted);
                }
                (Target::Postgres, _) => self.postgres().cont(),
                (Target::LinkToNats(..) | Target::LinkToPostgres(..), _) => {
                    self.set_link(target, Flow::Pass, false)
                }
            }
        }
    }

    fn check_restart(&self, what: &str, restarted: anyhow::Result<()>) {
        if let Err(error) = restarted {
            self.world
                .violation(Violation::new(Rule::Process, format!("{what} does not restart: {error:#}")));
        }
    }

    /// Pauses a service gracefully. It is restarted when it has ended.
    fn terminate(&mut self, kind: Kind, index: usize) {
        let Some(child) = self.stack.take(kind, index) else { return };
        let has_begun = catches_term(child.pid());
        child.signal(Signal::Term);
        self.stopping.spawn(async move {
            let began = Instant::now();
            let status = tokio::time::timeout(STOP_LIMIT + Duration::from_secs(2), child.wait()).await;
            let status = status.ok().flatten();
            // A process that has just started has not accepted anything yet, and may be ended by the signal itself.
            let never_began = !has_begun && status.is_some_and(|status| status.signal() == Some(SIGTERM));
            (kind, index, if never_began { Some(ExitStatus::default()) } else { status }, began.elapsed())
        });
    }

    fn stopped(&mut self, (kind, index, status, took): (Kind, usize, Option<ExitStatus>, Duration)) {
        self.world.check(check_stop(kind, index, status, took));
        self.stack.restart(kind, index);
    }

    /// Restarts services that have ended by themselves, which is a violation.
    fn restart_ended(&mut self) {
        for (kind, index) in self.stack.services() {
            if let Some(status) = self.stack.ended_by_itself(kind, index) {
                let what = format!("{} {} has ended by itself: {status}", kind.program(), index + 1);
                self.world.violation(Violation::new(Rule::Process, what));
                self.stack.restart(kind, index);
            }
        }
    }
}

/// Signal number of SIGTERM.
const SIGTERM: i32 = 15;

/// Whether a process has installed a handler for SIGTERM, which takes a few milliseconds after its start.
fn catches_term(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // If this can't be read, assumes that it has.
    caught.is_none_or(|mask| mask & (1 << (SIGTERM - 1)) != 0)
}

/// Checks that a service stopped in time and with success.
///
/// # Errors
/// If it didn't.
pub fn check_stop(
    kind: Kind,
    index: usize,
    status: Option<ExitStatus>,
    took: Duration,
) -> Result<(), Violation> {
    let is_ok = status.is_some_and(|status| status.success()) && took <= STOP_LIMIT;
    if is_ok {
        return Ok(());
    }
    let status = status.map_or("is still running".to_owned(), |status| format!("ended with {status}"));
    let what = format!(
        "{} {} received SIGTERM and {status} after {:.1} s",
        kind.program(),
        index + 1,
        took.as_secs_f32()
    );
    Err(Violation::new(Rule::Process, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_depends_only_on_its_seed_and_ends_in_time() {
        let parts = Part::ALL.map(|(part, _)| part);
        let length = Duration::from_secs(120);
        let first = plan(7, length, &parts, [2; 4], 1);
        assert_eq!(first, plan(7, length, &parts, [2; 4], 1));
        assert_ne!(first, plan(8, length, &parts, [2; 4], 1));
        assert!(first.len() > 30, "{}", first.len());
        assert!(first.iter().all(|planned| planned.at + planned.duration <= length));
        let gateways_net = |planned: &Planned| matches!(planned.target, Target::LinkToNats(Kind::Gateway, _));
        assert!(plan(1, length / 2, &parts, [2; 4], 1).iter().any(gateways_net));
    }
}
