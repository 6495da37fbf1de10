//! Counts what happens, and shows it while it does.

use crate::{
    processes::{self, Usage, Used, Watched},
    run::{GENERATOR, Latency, Sample},
};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::task::AbortHandle;

/// How often progress is shown and a sample is kept.
const SAMPLE: Duration = Duration::from_millis(250);
/// How often progress is shown where no terminal is.
const LINE: Duration = Duration::from_secs(5);

/// Counts of one run.
#[derive(Debug)]
pub struct Meter {
    epoch: Instant,
    watched: Vec<Watched>,
    /// Sent, until now.
    pub sent: Cell<u64>,
    /// Delivered, until now.
    pub delivered: Cell<u64>,
    /// Error frames, until now.
    pub errors: Cell<u64>,
    /// Sockets that the system closed, until now.
    pub closed: Cell<u64>,
    /// What was due before this instant of the run is no part of what is measured.
    since: Cell<u64>,
    all: RefCell<Histogram<u64>>,
    recent: RefCell<Histogram<u64>>,
    samples: RefCell<Vec<Sample>>,
    peaks: RefCell<BTreeMap<String, u64>>,
    bar: ProgressBar,
    title: String,
}

/// A window in which it is measured what processes use.
#[derive(Debug)]
pub struct Window {
    before: BTreeMap<String, Used>,
    sent: u64,
    delivered: u64,
    sampling: AbortHandle,
}

/// What happened in a window.
#[derive(Debug)]
pub struct Measured {
    /// Sent in it.
    pub sent: u64,
    /// Delivered in it.
    pub delivered: u64,
    /// What each process used.
    pub usage: Vec<Usage>,
}

impl Meter {
    /// A meter of a run on these processes. `title` is shown with its progress.
    pub fn new(title: &str, processes: &[Watched]) -> Rc<Self> {
        let histogram =
            || RefCell::new(Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds that make sense"));
        let mut watched = processes.to_vec();
        watched.push(Watched::new(GENERATOR, std::process::id()));
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}  {msg}") {
            bar.set_style(style);
        }
        Rc::new(Self {
            epoch: Instant::now(),
            watched,
            sent: Cell::new(0),
            delivered: Cell::new(0),
            errors: Cell::new(0),
            closed: Cell::new(0),
            since: Cell::new(u64::MAX),
            all: histogram(),
            recent: histogram(),
            samples: RefCell::default(),
            peaks: RefCell::default(),
            bar,
            title: title.to_owned(),
        })
    }

    /// Nanoseconds of the run at an instant.
    pub fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Nanoseconds of the run by now.
    pub fn now(&self) -> u64 {
        self.nanos(Instant::now())
    }

    /// Something was sent.
    pub fn count_sent(&self) {
        self.sent.set(self.sent.get() + 1);
    }

    /// Something arrived.
    pub fn count_delivered(&self) {
        self.delivered.set(self.delivered.get() + 1);
    }

    /// Something that was due then is there.
    pub fn took(&self, due: u64) {
        if due < self.since.get() {
            return;
        }
        let micros = self.now().saturating_sub(due) / 1_000;
        self.all.borrow_mut().saturating_record(micros);
        self.recent.borrow_mut().saturating_record(micros);
    }

    /// Says what is being done now.
    pub fn say(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.title));
        if self.bar.is_hidden() {
            eprintln!("{}: {what}", self.title);
        } else {
            self.bar.tick();
        }
    }

    /// Begins to measure.
    pub fn begin(self: &Rc<Self>) -> Window {
        self.since.set(self.now());
        let (sent, delivered) = (self.sent.get(), self.delivered.get());
        let before = processes::used(&self.watched);
        let sampling = tokio::task::spawn_local(self.clone().sample()).abort_handle();
        Window { before, sent, delivered, sampling }
    }

    /// Keeps and shows how it goes.
    async fn sample(self: Rc<Self>) {
        let began = Instant::now();
        let (mut at, mut sent, mut delivered) = (began, self.sent.get(), self.delivered.get());
        let mut line = began;
        let mut ticks = tokio::time::interval(SAMPLE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let seconds = (now - at).as_secs_f64();
            let per_second = |count: u64, before: u64| (count - before) as f64 / seconds;
            let mut recent = self.recent.borrow_mut();
            let latency = |quantile| (!recent.is_empty()).then(|| recent.value_at_quantile(quantile));
            let sample = Sample {
                at: (now - began).as_secs_f64(),
                sent: per_second(self.sent.get(), sent),
                delivered: per_second(self.delivered.get(), delivered),
                p50: latency(0.5),
                p99: latency(0.99),
                max: latency(1.0),
            };
            recent.reset();
            (at, sent, delivered) = (now, self.sent.get(), self.delivered.get());
            if !self.bar.is_hidden() || now - line >= LINE {
                line = now;
                self.say(&shown(&sample));
            }
            self.samples.borrow_mut().push(sample);
            self.note_peaks();
        }
    }

    fn note_peaks(&self) {
        let mut peaks = self.peaks.borrow_mut();
        for (name, used) in processes::used(&self.watched) {
            let peak = peaks.entry(name).or_default();
            *peak = used.memory.max(*peak);
        }
    }

    /// Ends a window.
    pub fn end(&self, window: Window) -> Measured {
        window.sampling.abort();
        self.note_peaks();
        let after = processes::used(&self.watched);
        let peaks = self.peaks.borrow();
        let usage = |(name, before): (&String, &Used)| {
            let after = after.get(name).copied().unwrap_or(*before);
            Usage {
                name: name.clone(),
                cpu_seconds: after.cpu - before.cpu,
                memory_before: before.memory,
                memory_after: after.memory,
                memory_peak: peaks.get(name).copied().unwrap_or(after.memory),
            }
        };
        let mut usage: Vec<Usage> = window.before.iter().map(usage).collect();
        usage.sort_by_key(|usage| usage.name == GENERATOR); // Last: it is no part of the system.
        Measured {
            sent: self.sent.get() - window.sent,
            delivered: self.delivered.get() - window.delivered,
            usage,
        }
    }

    /// The latencies of what was measured.
    pub fn latency(&self) -> Option<Latency> {
        Latency::of(&self.all.borrow())
    }

    /// How it went over time, up to the last thing that came: what is done behind the scenes afterwards takes time, too.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = self.samples.borrow().clone();
        let last = samples.iter().rposition(|sample| sample.sent > 0.0 || sample.delivered > 0.0);
        samples.truncate(last.map_or(0, |last| last + 1));
        samples
    }

    /// Shows no progress any more.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn shown(sample: &Sample) -> String {
    let Sample { sent, delivered, .. } = sample;
    let mut text = format!("{sent:.0} sent/s, {delivered:.0} delivered/s");
    if let (Some(p50), Some(p99)) = (sample.p50, sample.p99) {
        text.push_str(&format!(", p50 {:.2} ms, p99 {:.2} ms", p50 as f64 / 1e3, p99 as f64 / 1e3));
    }
    text
}
