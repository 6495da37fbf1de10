//! Tests of the nats-server process.

use async_nats::jetstream::{self, stream};
use std::time::Duration;
use testkit::{NatsOptions, NatsServer};

#[tokio::test]
async fn an_acknowledged_message_survives_a_kill() {
    let mut server =
        NatsServer::start_with(NatsOptions { durable: true, ..Default::default() }).await.unwrap();
    let (url, pid) = (server.url(), server.pid());
    let stream = || stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..Default::default()
    };
    {
        let jetstream = jetstream::new(async_nats::connect(&url).await.unwrap());
        jetstream.create_stream(stream()).await.unwrap();
        jetstream.publish("kept.one", "hello".into()).await.unwrap().await.unwrap();
    }

    server.kill().await;
    assert!(async_nats::connect(&url).await.is_err());
    server.restart().await.unwrap();

    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    let jetstream = jetstream::new(async_nats::connect(&url).await.unwrap());
    let kept = jetstream.get_stream("KEPT").await.unwrap();
    assert_eq!(kept.get_raw_message(1).await.unwrap().payload, "hello");
}

#[tokio::test]
async fn each_server_has_its_own_data() {
    let (one, other) = tokio::join!(NatsServer::start(), NatsServer::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    let jetstream = jetstream::new(async_nats::connect(one.url()).await.unwrap());
    jetstream.create_stream(stream::Config { name: "MINE".to_owned(), ..Default::default() }).await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(other.url()).await.unwrap());
    assert!(jetstream.get_stream("MINE").await.is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stopped_server_can_be_resumed() {
    let server = NatsServer::start().await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    server.stop();
    testkit::eventually("it is frozen", async || crate::state(server.pid()) == "T").await;
    server.cont();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn a_cluster_keeps_acknowledged_messages_when_it_loses_a_server() {
    let cluster = NatsServer::cluster(3, NatsOptions::default()).await.unwrap();
    let urls: Vec<String> = cluster.iter().map(NatsServer::url).collect();
    let client = async_nats::connect(&urls[..]).await.unwrap();
    let (mut patient, mut polling) = (jetstream::new(client.clone()), jetstream::new(client));
    patient.set_timeout(testkit::wait::TIMEOUT);
    // A request that no server answers is repeated soon.
    polling.set_timeout(Duration::from_secs(2));
    let config = || stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        num_replicas: 3,
        ..Default::default()
    };
    // The servers may still be electing a leader.
    testkit::eventually("the stream", async || polling.create_stream(config()).await.is_ok()).await;
    patient.publish("kept.one", "hello".into()).await.unwrap().await.unwrap();
    cluster[0].kill().await;
    let read = async || polling.get_stream("KEPT").await.ok()?.get_raw_message(1).await.ok();
    let kept = testkit::eventually("the message", read).await;
    assert_eq!(kept.payload, "hello");
}
