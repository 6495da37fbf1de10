//! A collector of traces, as OpenTelemetry has it: OTLP over HTTP.

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// What was sent of one step.
#[derive(Debug, Clone)]
pub struct Step {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// The trace, in hexadecimal digits.
    pub trace: String,
    /// Itself.
    pub id: String,
    /// The step that it belongs under; empty for the first.
    pub parent: String,
    /// What is known of it, as text.
    pub attributes: BTreeMap<String, String>,
}

/// A collector that keeps all.
pub struct Collector {
    url: String,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
        let taken = steps.clone();
        let take = async move |body: Bytes| match ExportTraceServiceRequest::decode(body) {
            Ok(request) => {
                taken.lock().unwrap().extend(read(request));
                (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
            }
            Err(_) => (StatusCode::BAD_REQUEST, Vec::new()),
        };
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, steps }
    }

    /// What services are told of it.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// All that was sent so far.
    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().unwrap().clone()
    }
}

fn read(request: ExportTraceServiceRequest) -> Vec<Step> {
    let mut steps = Vec::new();
    for resource in request.resource_spans {
        let who = attributes(resource.resource.unwrap().attributes);
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            steps.push(Step {
                service: who["service.name"].clone(),
                instance: who["service.instance.id"].clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: attributes(span.attributes),
            });
        }
    }
    steps
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Some(Value::StringValue(text)) => text,
        value => format!("{value:?}"),
    };
    list.into_iter().map(|each| (each.key, text(each.value.and_then(|value| value.value)))).collect()
}
