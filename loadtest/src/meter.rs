//! Counters, latencies and samples of a run, with a progress display.

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

/// Interval of samples and of the progress display.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of progress lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The measurements of one run.
#[derive(Debug)]
pub struct Meter {
    epoch: Instant,
    watched: Vec<Watched>,
    /// Number of items sent so far.
    pub sent: Cell<u64>,
    /// Number of items delivered so far.
    pub delivered: Cell<u64>,
    /// Number of error frames so far.
    pub errors: Cell<u64>,
    /// Number of sockets closed by the system so far.
    pub closed: Cell<u64>,
    /// Start of the measurement. Items that were due earlier are ignored.
    since: Cell<u64>,
    all: RefCell<Histogram<u64>>,
    recent: RefCell<Histogram<u64>>,
    samples: RefCell<Vec<Sample>>,
    peaks: RefCell<BTreeMap<String, u64>>,
    bar: ProgressBar,
    title: String,
}

/// A measured window.
#[derive(Debug)]
pub struct Window {
    before: BTreeMap<String, Used>,
    sent: u64,
    delivered: u64,
    sampling: AbortHandle,
}

/// Measurements of a window.
#[derive(Debug)]
pub struct Measured {
    /// Number of items sent.
    pub sent: u64,
    /// Number of items delivered.
    pub delivered: u64,
    /// Resource usage of each process.
    pub usage: Vec<Usage>,
}

impl Meter {
    /// Creates the meter of a run with these processes. `title` is shown with the progress.
    pub fn new(title: &str, processes: &[Watched]) -> Rc<Self> {
        let histogram = || RefCell::new(Histogram::new_with_bounds(1, 120_000_000, 3).expect("valid bounds"));
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

    /// Time of an instant in the run, in nanoseconds.
    pub fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Current time in the run, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.nanos(Instant::now())
    }

    /// Counts a sent item.
    pub fn count_sent(&self) {
        self.sent.set(self.sent.get() + 1);
    }

    /// Counts a delivered item.
    pub fn count_delivered(&self) {
        self.delivered.set(self.delivered.get() + 1);
    }

    /// Records the latency of an item that was due at this time and has just arrived.
    pub fn record_latency(&self, due: u64) {
        if due < self.since.get() {
            return;
        }
        let micros = self.now().saturating_sub(due) / 1_000;
        self.all.borrow_mut().saturating_record(micros);
        self.recent.borrow_mut().saturating_record(micros);
    }

    /// Shows the current activity.
    pub fn show(&self, activity: &str) {
        self.bar.set_message(format!("{}: {activity}", self.title));
        if self.bar.is_hidden() {
            eprintln!("{}: {activity}", self.title);
        } else {
            self.bar.tick();
        }
    }

    /// Starts a window.
    pub fn begin(self: &Rc<Self>) -> Window {
        self.since.set(self.now());
        let (sent, delivered) = (self.sent.get(), self.delivered.get());
        let before = processes::used(&self.watched);
        let sampling = tokio::task::spawn_local(self.clone().sample()).abort_handle();
        Window { before, sent, delivered, sampling }
    }

    /// Records and shows samples.
    async fn sample(self: Rc<Self>) {
        let began = Instant::now();
        let (mut at, mut sent, mut delivered) = (began, self.sent.get(), self.delivered.get());
        let mut line = began;
        let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
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
            if !self.bar.is_hidden() || now - line >= LINE_INTERVAL {
                line = now;
                self.show(&shown(&sample));
            }
            self.samples.borrow_mut().push(sample);
            self.update_peaks();
        }
    }

    fn update_peaks(&self) {
        let mut peaks = self.peaks.borrow_mut();
        for (name, used) in processes::used(&self.watched) {
            let peak = peaks.entry(name).or_default();
            *peak = used.memory.max(*peak);
        }
    }

    /// Ends a window.
    pub fn end(&self, window: Window) -> Measured {
        window.sampling.abort();
        self.update_peaks();
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
        usage.sort_by_key(|usage| usage.name == GENERATOR); // Last, because it is not part of the system.
        Measured {
            sent: self.sent.get() - window.sent,
            delivered: self.delivered.get() - window.delivered,
            usage,
        }
    }

    /// Latencies of the measured items.
    pub fn latency(&self) -> Option<Latency> {
        Latency::of(&self.all.borrow())
    }

    /// Samples up to the last sent or delivered item, because background work continues after that.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = self.samples.borrow().clone();
        let last = samples.iter().rposition(|sample| sample.sent > 0.0 || sample.delivered > 0.0);
        samples.truncate(last.map_or(0, |last| last + 1));
        samples
    }

    /// Ends the progress display.
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
