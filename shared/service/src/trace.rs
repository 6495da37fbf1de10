//! Traces across processes: the spans caused by one frame, call or event.
//!
//! Code runs [`Span::within`] a span, and [`crate::Bus`] then adds the span to each request and event in the
//! `traceparent` header. If a batch combines several traces, each has its [`TraceParent`] in the payload. Only recorded
//! traces are propagated, so that unrecorded ones cost nothing.

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

/// Set once, if tracing is on.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A span, which ends when its last clone is dropped. It is empty, and free, if tracing is off or the trace is not
/// recorded.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// An empty span.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The root span of a new trace.
    pub fn root(name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        Self::start(name, kind, &Context::new())
    }

    /// A span under `parent`, of this process or another; empty if there is no parent.
    pub fn under(parent: Option<TraceParent>, name: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        match parent {
            Some(parent) if is_on() => Self::start(name, kind, &remote(parent)),
            _ => Self::none(),
        }
    }

    /// A span with an external cause: under the caller's span if it sent one, otherwise the root of a new trace.
    pub fn caused_by(headers: Option<&HeaderMap>, name: &'static str, kind: Kind) -> Self {
        if !is_on() {
            return Self::none();
        }
        match parent_in(headers) {
            Some(parent) => Self::start(name, kind, &remote(parent)),
            None => Self::root(name, kind),
        }
    }

    /// A child span.
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

    /// Whether the span is recorded.
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Sets an attribute. Keys are dotted, such as `conversation.id`; values are never a text, a token or an address.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks the span as failed, with the reason in one word.
    pub fn failed(&self, reason: &'static str) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", reason));
            context.span().set_status(Status::error(reason));
        }
    }

    /// Trace context that names this span as the parent.
    pub fn parent(&self) -> Option<TraceParent> {
        self.0.as_ref().map(trace_parent)
    }

    /// Runs a future within this span.
    pub fn within<F: Future>(self, future: F) -> Within<F> {
        Within { span: self, future }
    }

    /// Attaches the span to this thread until the guard is dropped, for its log lines and requests.
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

/// Whether tracing is on.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Trace context of the current span.
pub fn current() -> Option<TraceParent> {
    if !is_on() {
        return None;
    }
    Context::map_current(|context| context.has_active_span().then(|| trace_parent(context)))
}

/// Trace context in the headers of a NATS message.
pub fn parent_in(headers: Option<&HeaderMap>) -> Option<TraceParent> {
    let headers = headers.filter(|_| is_on())?;
    // NATS preserves the case of header names, and W3C allows any case.
    headers.get(TRACEPARENT).or_else(|| headers.get("Traceparent"))?.as_str().parse().ok()
}

/// Trace context from a case-insensitive lookup of a header.
pub fn parent<'a>(header: impl FnOnce(&str) -> Option<&'a str>) -> Option<TraceParent> {
    if is_on() { header(TRACEPARENT)?.parse().ok() } else { None }
}

/// Headers with a trace context; `None` without one.
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

fn trace_parent(context: &Context) -> TraceParent {
    let span = context.span();
    let context = span.span_context();
    TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        sampled: context.is_sampled(),
    }
}
