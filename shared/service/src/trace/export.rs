//! Export of spans to a collector: OTLP over HTTP, configured by the standard `OTEL_*` variables.

use crate::{config, version};
use anyhow::{Context, ensure};
use opentelemetry::{Key, KeyValue, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchSpanProcessor, OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT, SdkTracerProvider,
        Span, SpanData, SpanExporter as Export, SpanProcessor,
    },
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Maximum time for the export of the remaining spans at a stop.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the collector's responses, unless `OTEL_EXPORTER_OTLP_TIMEOUT` is set.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response.
const RESPONSE_BYTES: usize = 1024 * 1024;
/// Seconds between two log lines about dropped spans.
const LOG_INTERVAL: i64 = 60;
/// Values that the SDK accepts for `OTEL_TRACES_SAMPLER`.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The tracing of a process. Dropping it exports the remaining spans, within a few seconds.
pub struct Tracing(Option<SdkTracerProvider>);

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Starts tracing, if a collector is configured.
///
/// # Errors
/// If one of the variables can't be used; the error names it.
pub fn start(service: &str, config: &config::Telemetry, runtime: &Handle) -> anyhow::Result<Tracing> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let general = config.otel_exporter_otlp_endpoint.clone().filter(|url| !url.trim().is_empty());
    let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    let endpoint = match (set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), general) {
        (Some(url), _) => url,
        (None, Some(url)) => format!("{}/v1/traces", url.trim_end_matches('/')),
        (None, None) => return Ok(Tracing(None)),
    };
    if off {
        return Ok(Tracing(None));
    }
    check(&endpoint, &set)?;
    let seconds = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let timeout = seconds.iter().find_map(|name| set(name)?.parse().ok()).map(Duration::from_millis);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_http_client(Http::new(timeout.unwrap_or(RESPONSE_TIMEOUT), runtime.clone())?)
        .build()
        .map_err(|error| anyhow::anyhow!("configuration: OTEL_EXPORTER_OTLP_*: {error}"))?;
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = Watched { exporter, waiting: waiting.clone(), failing: AtomicBool::new(false) };
    let queue = set(OTEL_BSP_MAX_QUEUE_SIZE).and_then(|size| size.parse().ok());
    let processor = Bounded {
        processor: BatchSpanProcessor::builder(exporter).build(),
        waiting,
        bound: queue.unwrap_or(OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT),
        logged_at: AtomicI64::new(0),
    };
    let provider =
        SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource(service)).build();
    let _ = super::TRACER.set(provider.tracer("vyzio"));
    tracing::info!("exporting traces to a collector");
    Ok(Tracing(Some(provider)))
}

/// Rejects invalid values, for which the SDK would silently use its default.
fn check(endpoint: &str, set: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    let url: Option<axum::http::Uri> = endpoint.parse().ok();
    ensure!(
        url.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https"))),
        "configuration: OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https address"
    );
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        let protocol = set(name);
        ensure!(
            protocol.is_none_or(|protocol| protocol == "http/protobuf"),
            "configuration: {name} can only be http/protobuf (a collector's port 4318)"
        );
    }
    let sampler = set("OTEL_TRACES_SAMPLER");
    ensure!(
        sampler.as_deref().is_none_or(|sampler| SAMPLERS.contains(&sampler)),
        "configuration: OTEL_TRACES_SAMPLER must be one of: {}",
        SAMPLERS.join(", ")
    );
    if sampler.is_some_and(|sampler| sampler.ends_with("ratio")) {
        let ratio = set("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.parse::<f64>().ok());
        ensure!(
            ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)),
            "configuration: OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1 with this sampler"
        );
    }
    Ok(())
}

/// The resource attributes: `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, and defaults for the rest.
fn resource(service: &str) -> Resource {
    const NAME: Key = Key::from_static_str("service.name");
    let configured = Resource::builder().build();
    let named = configured.get(&NAME).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder();
    if !named {
        resource = resource.with_service_name(service.to_owned());
    }
    for (key, value) in [
        ("service.version", version::VERSION.to_owned()),
        ("service.instance.id", format!("{:032x}", fastrand::u128(..))),
    ] {
        if configured.get(&Key::from_static_str(key)).is_none() {
            resource = resource.with_attribute(KeyValue::new(key, value));
        }
    }
    resource.build()
}

/// Passes spans on while the queue has room, and counts dropped ones.
#[derive(Debug)]
struct Bounded {
    processor: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    bound: usize,
    /// Time of the last log line, in Unix seconds.
    logged_at: AtomicI64,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.bound {
            return self.processor.on_end(span);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        metrics::counter!("trace_spans_dropped_total", "reason" => "queue_full").increment(1);
        let now = contract::Timestamp::now().unix();
        if now >= self.logged_at.load(Ordering::Relaxed) + LOG_INTERVAL {
            self.logged_at.store(now, Ordering::Relaxed);
            tracing::warn!(spans = self.bound, "the span queue is full: spans are dropped");
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// Exports spans, and logs when the export starts to fail and when it works again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl Export for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) => {
                metrics::counter!("trace_spans_exported_total").increment(spans as u64);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector accepts spans again");
                }
            }
            Err(error) => {
                metrics::counter!("trace_spans_dropped_total", "reason" => "export_failed")
                    .increment(spans as u64);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the export to the collector failed: spans are dropped");
                }
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends requests to the collector on our runtime, from any thread.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: Handle,
}

impl Http {
    fn new(timeout: Duration, runtime: Handle) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(timeout).build().context("create an HTTP client")?;
        Ok(Self { client, runtime })
    }
}

impl HttpClient for Http {
    fn send_bytes<'this, 'call>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'call>>
    where
        'this: 'call,
        Self: 'call,
    {
        let client = self.client.clone();
        let call = async move {
            let mut reply = client.execute(request.try_into()?).await?;
            let mut body = Vec::new();
            while let Some(chunk) = reply.chunk().await?
                && body.len() < RESPONSE_BYTES
            {
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = reply.status();
            *response.headers_mut() = std::mem::take(reply.headers_mut());
            Ok(response)
        };
        let sent = self.runtime.spawn(call);
        Box::pin(async move { sent.await? })
    }
}
