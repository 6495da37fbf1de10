//! nats-server, as tests use it.

use async_nats::jetstream::{self, stream};
use testkit::{NatsOptions, NatsServer};

#[tokio::test]
async fn what_jetstream_acknowledged_is_there_after_a_kill() {
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
async fn each_has_its_own_data() {
    let (one, other) = tokio::join!(NatsServer::start(), NatsServer::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    let jetstream = jetstream::new(async_nats::connect(one.url()).await.unwrap());
    jetstream.create_stream(stream::Config { name: "MINE".to_owned(), ..Default::default() }).await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(other.url()).await.unwrap());
    assert!(jetstream.get_stream("MINE").await.is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stopped_one_goes_on_when_told_to() {
    let server = NatsServer::start().await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    server.stop();
    crate::eventually("it is frozen", || crate::state(server.pid()) == "T").await;
    server.cont();
    client.flush().await.unwrap();
}
