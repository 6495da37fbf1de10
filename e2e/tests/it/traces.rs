use crate::collector::{Collector, Span};
use e2e::{Kind, Options, Stack, eventually, token};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// Starts a stack that sends its traces only when it stops.
async fn start_traced(collector: &Collector, counts: [usize; 4]) -> Stack {
    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000".to_owned()),
    ];
    Stack::with(Options { counts, env, ..Options::default() }).await
}

async fn stop(mut stack: Stack) {
    for (kind, index) in stack.services() {
        assert_eq!(stack.terminate(kind, index).await, Some(0), "{kind:?}");
    }
}

/// Spans of a trace with their parents: `service name < service name`.
fn tree(spans: &[Span], trace: &str) -> Vec<String> {
    let spans: Vec<&Span> = spans.iter().filter(|span| span.trace == trace).collect();
    let mut lines: Vec<String> = spans
        .iter()
        .map(|span| {
            let parent = spans.iter().find(|parent| parent.id == span.parent);
            let parent = match parent {
                Some(parent) => format!("{} {}", parent.service, parent.name),
                None => span.parent.clone(),
            };
            format!("{} {} < {parent}", span.service, span.name)
        })
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_message_has_one_trace_across_all_processes() {
    let collector = Collector::start().await;
    let stack = start_traced(&collector, [2, 1, 1, 1]).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket_at(0, &path, 1).await;
    let mut ben = stack.socket_at(1, &path, 2).await;
    let mut inbox = stack.socket_at(1, "/ws/notifications/", 2).await;
    ada.say("the text of a message").await;
    assert_eq!(ada.next().await["seq"], 1);
    assert_eq!(ben.next().await["seq"], 1);
    assert_eq!(inbox.next().await["type"], "message_received");
    let path = format!("/api/conversations/{id}/messages");
    stack.post(&path, 2, json!({"message": "another text"})).await.expect(201);
    assert_eq!(ada.next().await["seq"], 2);
    stop(stack).await;

    let spans = collector.spans();
    let trace = &spans.iter().find(|span| span.name == "chat send").unwrap().trace;
    let expected = [
        "chat-service chat.messages.pack < gateway chat send",
        "chat-service commit < chat-service chat.messages.pack",
        "chat-service publish < chat-service chat.messages.pack",
        "gateway chat send < ",
        "gateway deliver < chat-service publish",
        "gateway deliver < chat-service publish",
        "gateway deliver < notify-service publish",
        "notify-service consume < chat-service publish",
        "notify-service publish < notify-service consume",
    ];
    assert_eq!(tree(&spans, trace), expected);
    let delivered = spans.iter().filter(|span| &span.trace == trace && span.name == "deliver");
    let gateways: BTreeSet<&String> = delivered.map(|span| &span.instance).collect();
    assert_eq!(gateways.len(), 2, "both gateways");

    let route = "/api/conversations/{conversation_id}/messages";
    let call = spans.iter().find(|span| span.name == format!("POST {route}")).unwrap();
    assert_eq!(call.attributes["http.route"], route);
    let called = tree(&spans, &call.trace);
    assert!(called.contains(&expected[1].to_owned()), "{called:#?}");
    let all = format!("{spans:?}");
    for secret in ["the text", "another text", "127.0.0.1", &token(1)[..20]] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[tokio::test]
async fn an_event_continues_the_trace_of_its_backend() {
    let collector = Collector::start().await;
    let stack = start_traced(&collector, [1, 1, 1, 0]).await;
    let mut inbox = stack.socket("/ws/notifications/", 7).await;
    let backend = stack.backend().await;
    let event = json!({"user_id": 7, "data": {"payment_id": 1}}).to_string();
    let (trace, unrecorded) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
    for parent in [format!("00-{unrecorded}-00f067aa0ba902b7-00"), format!("00-{trace}-00f067aa0ba902b7-01")]
    {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("traceparent", parent);
        backend
            .publish_with_headers("events.payment_completed", headers, event.clone().into())
            .await
            .unwrap();
        assert_eq!(inbox.next().await["type"], "payment_completed");
    }
    backend.publish("events.payment_completed", event.into()).await.unwrap();
    assert_eq!(inbox.next().await["type"], "payment_completed");
    stop(stack).await;

    let spans = collector.spans();
    let expected = |cause: &str| {
        [
            "gateway deliver < notify-service publish".to_owned(),
            format!("notify-service consume < {cause}"),
            "notify-service publish < notify-service consume".to_owned(),
        ]
    };
    assert_eq!(tree(&spans, trace), expected("00f067aa0ba902b7"));
    assert_eq!(tree(&spans, unrecorded), [""; 0], "a trace that the backend does not sample");
    let own = spans.iter().find(|span| span.name == "consume" && span.trace != trace).unwrap();
    assert_eq!(tree(&spans, &own.trace), expected(""), "a trace of its own");
}

#[tokio::test]
async fn a_log_line_contains_its_trace() {
    let collector = Collector::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (format, expected) in [
        ("text", format!(" trace_id={trace} span_id=")),
        ("json", format!(r#","trace_id":"{trace}","span_id":""#)),
    ] {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = lines.clone();
        let env = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("LOG_FORMAT", format.to_owned())];
        let on_line = Arc::new(move |_: &str, line: &str| kept.lock().unwrap().push(line.to_owned()));
        let stack = Stack::with(Options { counts: [1, 1, 1, 0], env, on_line, ..Options::default() }).await;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
        let backend = stack.backend().await;
        backend.publish_with_headers("events.payment_completed", headers, "no JSON".into()).await.unwrap();
        let line = eventually("the line of a dead letter", async || {
            lines.lock().unwrap().iter().find(|line| line.contains("dead letter")).cloned()
        })
        .await;
        assert!(line.contains(&expected), "{line}");
    }
}

#[tokio::test]
async fn an_unavailable_collector_does_not_affect_messages() {
    let env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2".to_owned()),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2".to_owned()),
    ];
    let stack = Stack::with(Options { counts: [1, 1, 0, 0], env, ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    for seq in 1..=50 {
        ada.say("text").await;
        assert_eq!(ada.next().await["seq"], seq);
    }
    for reason in ["queue_full", "export_failed"] {
        let dropped = async || {
            let metrics = stack.metrics(Kind::Chat, 0).await;
            metrics.contains(&format!("trace_spans_dropped_total{{reason=\"{reason}\"}}")).then_some(())
        };
        eventually("a count of dropped spans", dropped).await;
    }
    stop(stack).await;
}
