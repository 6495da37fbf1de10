//! Logs: text for people, JSON for machines, both with the trace of each line.

use crate::config::{LogFormat, Telemetry};
use anyhow::Context;
use opentelemetry::trace::TraceContextExt;
use std::{fmt, sync::OnceLock};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

/// The filter of the process's logs, which has one subscriber.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why the filter can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The text is empty, which would hide everything but errors.
    #[error("the filter is empty")]
    Empty,
    /// The text is not a filter.
    #[error("not a filter: {0}")]
    Invalid(ParseError),
    /// [`start`] was not called.
    #[error("the logs are not started")]
    NotStarted,
}

/// Starts the logs, on standard error.
///
/// # Errors
/// If `RUST_LOG` is invalid, or a test has already started the logs.
pub fn start(config: &Telemetry) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.rust_log).context("RUST_LOG is not a valid filter")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.event_format(Traced::Text(format::format())).boxed(),
        LogFormat::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(Traced::Json(format::format().json())).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("start the logs")?;
    FILTER.get_or_init(|| handle);
    Ok(())
}

/// The present filter.
///
/// # Errors
/// If the logs are not started.
pub fn filter() -> Result<String, FilterError> {
    let handle = FILTER.get().ok_or(FilterError::NotStarted)?;
    handle.with_current(ToString::to_string).map_err(|_| FilterError::NotStarted)
}

/// Replaces the filter, and returns it as it was understood: a word that is not a level is the name of a target.
///
/// # Errors
/// If the filter is invalid, or the logs are not started.
pub fn set_filter(text: &str) -> Result<String, FilterError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(FilterError::Empty);
    }
    let filter = EnvFilter::try_new(text).map_err(FilterError::Invalid)?;
    let handle = FILTER.get().ok_or(FilterError::NotStarted)?;
    handle.reload(filter).map_err(|_| FilterError::NotStarted)?;
    self::filter()
}

/// A line format that appends the trace.
enum Traced {
    Text(format::Format),
    Json(format::Format<format::Json>),
}

impl<S, N> FormatEvent<S, N> for Traced
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace_id, span_id)) = trace() else { return self.line(context, writer, event) };
        let mut line = String::new();
        self.line(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match self {
            Self::Text(_) => writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}"),
            Self::Json(_) => {
                let fields = line.strip_suffix('}').ok_or(fmt::Error)?;
                writeln!(writer, r#"{fields},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#)
            }
        }
    }
}

impl Traced {
    fn line<S, N>(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        match self {
            Self::Text(format) => format.format_event(context, writer, event),
            Self::Json(format) => format.format_event(context, writer, event),
        }
    }
}

/// Trace id and span id of the current span.
fn trace() -> Option<(String, String)> {
    if !crate::trace::is_on() {
        return None;
    }
    opentelemetry::Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        let context = span.span_context();
        Some((context.trace_id().to_string(), context.span_id().to_string()))
    })
}
