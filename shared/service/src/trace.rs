//! Traces: the steps of what one frame, call or event caused, over every process that it went through.
//!
//! A step is a [`Span`]. What it does runs [`Span::within`] it, and then [`crate::Bus`] names it to whoever is asked or
//! told, in the `traceparent` header. Where steps of several traces travel together, each has its [`TraceParent`]
//! in the payload. Only traces that are recorded are passed on, so that what can't be seen in the end costs nothing.

pub mod export;

use async_nats::HeaderMap;
use contract::{TraceParent, trace::TRACEPARENT};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    context::ContextGuard,
    trace::{SpanBuilder, SpanContext, Status, TraceContextExt, TraceState, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use pin_project_lite::pin_project;
use std::{
    borrow::Cow,
    pin::Pin,
    sync::OnceLock,
    task::{self, Poll},
};

pub use opentelemetry::trace::SpanKind as Kind;

/// Set once, where tracing is on.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// One step of a trace, which ends when the last clone of this is dropped. Nothing, and free, where tracing is off or
/// this trace is not recorded.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// No step.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The first step of a trace of its own.
    pub fn root(name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        Self::start(name, kind, &Context::new())
    }

    /// The step under `parent`, in this process or another; without one, none.
    pub fn under(parent: Option<TraceParent>, name: &'static str, kind: Kind) -> Self {
        match parent {
            Some(parent) if is_on() => Self::start(name, kind, &remote(parent)),
            _ => Self::none(),
        }
    }

    /// What is caused from outside: the step under what the caller named, else a trace of its own.
    pub fn caused_by(headers: Option<&HeaderMap>, name: &'static str, kind: Kind) -> Self {
        if !is_on() {
            return Self::none();
        }
        match parent_in(headers) {
            Some(parent) => Self::start(name, kind, &remote(parent)),
            None => Self::root(name, kind),
        }
    }

    /// A step of this one.
    pub fn child(&self, name: &'static str, kind: Kind) -> Self {
        self.0.as_ref().map_or_else(Self::none, |parent| Self::start(name, kind, parent))
    }

    fn start(name: impl Into<Cow<'static, str>>, kind: Kind, parent: &Context) -> Self {
        let Some(tracer) = TRACER.get() else { return Self::none() };
        let span = tracer.build_with_context(SpanBuilder::from_name(name).with_kind(kind), parent);
        let context = Context::new().with_span(span);
        let recorded = context.span().span_context().is_sampled();
        Self(recorded.then_some(context))
    }

    /// Whether this step is recorded.
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// What is known of it: dotted names, as `conversation.id`; never a text, a token or an address.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It did not do what it should, and why in a word.
    pub fn failed(&self, why: &'static str) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", why));
            context.span().set_status(Status::error(why));
        }
    }

    /// What the next step names as its parent.
    pub fn parent(&self) -> Option<TraceParent> {
        self.0.as_ref().map(named)
    }

    /// Runs a future within this step.
    pub fn within<F: Future>(self, future: F) -> Within<F> {
        Within { span: self, future }
    }

    /// Until the guard is dropped, what this thread logs and asks belongs to this step.
    pub fn enter(&self) -> Option<ContextGuard> {
        self.0.as_ref().map(|context| context.clone().attach())
    }
}

pin_project! {
    /// A future that runs within a span.
    pub struct Within<F> {
        span: Span,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        this.future.poll(context)
    }
}

/// Whether traces go anywhere.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// The step within which this runs.
pub fn current() -> Option<TraceParent> {
    if !is_on() {
        return None;
    }
    Context::map_current(|context| context.has_active_span().then(|| named(context)))
}

/// What the sender of a message named as its step.
pub fn parent_in(headers: Option<&HeaderMap>) -> Option<TraceParent> {
    let headers = headers.filter(|_| is_on())?;
    // NATS keeps the letters of a name as they are; W3C says that any will do.
    headers.get(TRACEPARENT).or_else(|| headers.get("Traceparent"))?.as_str().parse().ok()
}

/// The same, where `header` finds the value of a header whatever the letters of its name.
pub fn parent<'a>(header: impl FnOnce(&str) -> Option<&'a str>) -> Option<TraceParent> {
    if is_on() { header(TRACEPARENT)?.parse().ok() } else { None }
}

/// The headers that name a step; none where there is none.
pub fn headers(parent: Option<TraceParent>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, parent?.to_string());
    Some(headers)
}

fn remote(parent: TraceParent) -> Context {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    let parent = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
    Context::new().with_remote_span_context(parent)
}

fn named(context: &Context) -> TraceParent {
    let span = context.span();
    let context = span.span_context();
    TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
    }
}
