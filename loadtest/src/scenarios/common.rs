//! Arguments and results that the scenarios share.

use crate::{judge::Verdict, meter::Measured, run::Run};
use clap::{Args, builder::TypedValueParser};
use std::{ops::RangeInclusive, time::Duration};

/// Duration of a run.
#[derive(Debug, Clone, Copy, Args)]
pub struct Length {
    /// Duration of the measurement in seconds
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub seconds: f64,
    /// Duration of the same load before it, in seconds
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub warm_up: f64,
}

impl Length {
    pub fn measured(self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 3600.0))
    }

    pub fn warm_up(self) -> Duration {
        Duration::from_secs_f64(self.warm_up.clamp(0.0, 600.0))
    }
}

/// A run with the measurements, but without figures.
pub fn measured_run(measured: &Measured, seconds: f64) -> Run {
    Run {
        scenario: String::new(),
        system: String::new(),
        load: String::new(),
        seconds,
        figures: Vec::new(),
        sent: measured.sent,
        delivered: measured.delivered,
        errors: 0,
        closed: 0,
        verdict: Verdict::default(),
        latency: None,
        processes: measured.usage.clone(),
        samples: Vec::new(),
    }
}

/// Microseconds per item, from total seconds.
pub fn per(seconds: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { seconds * 1e6 / count }
}

/// Parses a number from 1 to `most`.
pub fn at_most(most: i64) -> impl TypedValueParser<Value = usize> {
    number(1..=most)
}

/// Parses a number from 0 to `most`.
pub fn up_to(most: i64) -> impl TypedValueParser<Value = usize> {
    number(0..=most)
}

/// Parses a number in a range that has no negative numbers.
fn number(range: RangeInclusive<i64>) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(i64).range(range).map(|value| usize::try_from(value).unwrap_or_default())
}

/// Parses a rate per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("must be from 0.1 to 1000000".to_owned()) }
}
