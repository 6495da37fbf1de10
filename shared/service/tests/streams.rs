//! Streams of an earlier release.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::jetstream::{self, stream};
use clap::Parser;
use service::{
    Bus, config,
    streams::{self, StreamsHealth},
};
use testkit::{NatsOptions, NatsServer, eventually};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    nats: config::Nats,
}

/// A server on which the user `chat` may do everything but what is denied.
async fn server(denied: &str) -> NatsServer {
    let configuration = format!(
        r#"authorization {{ users: [
            {{ user: operator, password: operator }}
            {{ user: chat, password: chat, permissions: {{ publish: {{ deny: [ "{denied}" ] }} }} }}
        ] }}"#
    );
    NatsServer::start_with(NatsOptions { configuration, ..NatsOptions::default() }).await.unwrap()
}

/// The stream as an earlier release created it, with a limit that an operator has set.
async fn earlier(server: &NatsServer) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_user_and_password("operator".into(), "operator".into());
    let client = options.connect(server.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let subjects = vec!["chat.reported".to_owned()];
    let earlier = stream::Config { subjects, max_bytes: 5_000_000, ..streams::events_out() };
    jetstream.create_stream(earlier).await.unwrap();
    jetstream
}

async fn maintain(server: &NatsServer, shutdown: &CancellationToken) -> StreamsHealth {
    let url = server.url().replace("nats://", "nats://chat:chat@");
    let nats = Config::parse_from(["test", "--nats-url", &url]).nats;
    let bus = Bus::connect("chat-service", &nats, shutdown).await.unwrap().unwrap();
    let health = StreamsHealth::default();
    tokio::spawn(streams::maintain(bus, vec![streams::events_out()], health.clone(), shutdown.clone()));
    health
}

#[tokio::test]
async fn missing_subjects_are_added_and_changes_of_operators_are_kept() {
    let server = server("nothing").await;
    let jetstream = earlier(&server).await;
    let shutdown = CancellationToken::new();
    let health = maintain(&server, &shutdown).await;
    let config = eventually("the new subject", async || {
        let stream = jetstream.get_stream("EVENTS_OUT").await.ok()?;
        let config = stream.cached_info().config.clone();
        (config.subjects.len() > 1).then_some(config)
    })
    .await;
    assert_eq!(config.subjects, contract::streams::EVENTS_OUT_SUBJECTS);
    assert_eq!(config.max_bytes, 5_000_000);
    health.check().unwrap();
    shutdown.cancel();
}

#[tokio::test]
async fn a_missing_permission_is_reported_until_an_operator_adds_the_subject() {
    let server = server("$JS.API.STREAM.UPDATE.EVENTS_OUT").await;
    let jetstream = earlier(&server).await;
    let shutdown = CancellationToken::new();
    let health = maintain(&server, &shutdown).await;
    let error = eventually("the missing permission", async || health.check().err()).await.to_string();
    assert!(error.contains("$JS.API.STREAM.UPDATE.EVENTS_OUT") && error.contains("chat.changed"), "{error}");

    let subjects = ["chat.>", "notify.>", "presence.>", "users.>", "webhook.*"].map(str::to_owned).to_vec();
    jetstream.update_stream(stream::Config { subjects, ..streams::events_out() }).await.unwrap();
    eventually("the check to pass", async || health.check().ok()).await;
    shutdown.cancel();
}
