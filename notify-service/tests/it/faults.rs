//! Faults of NATS, Postgres and replicas: nothing is lost or duplicated.

use crate::app::{App, Client, Replica, config, eventually, user, within};
use contract::log::Range;
use futures_util::future::join_all;
use std::collections::HashMap;
use testkit::{NatsServer, Postgres};
use tokio::net::{TcpListener, TcpStream};

/// Publishes events for users 1 to 10, and messages to them from other users, because sending would mark messages as
/// read.
async fn publish(client: &Client, from: i64, count: i64) {
    for n in from..from + count {
        let users = [n % 10 + 1, (n + 3) % 10 + 1];
        client.event("payment_completed", format!(r#"{{"user_ids":{users:?},"event_id":"e{n}"}}"#)).await;
        client.message(n % 4 + 1, n + 1, n % 10 + 101, &[(n + 1) % 10 + 1, (n + 2) % 10 + 1]).await;
    }
}

/// Checks the notifications of `count` events and messages of [`publish`]: one for each user of an event, and one unread
/// one for each user and conversation, of the newest message.
async fn check_notifications(client: &Client, count: i64) {
    let events: i64 =
        sqlx::query_scalar("select count(*) from notifications where type = 'payment_completed'")
            .fetch_one(&client.pool)
            .await
            .unwrap();
    assert_eq!(events, 2 * count);
    let unread: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select user_id, conversation_id, message_id from notifications
        where conversation_id is not null and read_at is null",
    )
    .fetch_all(&client.pool)
    .await
    .unwrap();
    let unread: HashMap<(i64, i64), i64> =
        unread.into_iter().map(|(user, conversation, message)| ((user, conversation), message)).collect();
    let expected = (0..count).flat_map(|n| [1, 2].map(|shift| (((n + shift) % 10 + 1, n % 4 + 1), n + 1)));
    assert_eq!(unread, expected.collect());
    client.check_inboxes().await;
}

#[tokio::test]
async fn replicas_share_the_work_and_leave_no_gap_in_seq() {
    let app = App::spawn().await;
    let other = Replica::start(app.config.clone()).await;
    other.is_ready().await;
    join_all((0..4).map(|n| publish(&app, n * 100, 100))).await;
    app.is_settled().await;
    check_notifications(&app, 400).await;
    other.stop().await;
}

#[tokio::test]
async fn other_replicas_take_over_the_work_of_a_killed_one() {
    let mut app = App::spawn().await;
    app.stop().await;
    publish(&app, 0, 150).await;
    // In its own runtime, whose shutdown ends all its tasks, as kill -9 does.
    let settings = app.config.clone();
    let pool = app.pool.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { drop(Replica::start(settings).await) });
    eventually("the replica to store events", async || {
        let started = sqlx::query_scalar::<_, bool>("select exists (select from notifications)");
        started.fetch_one(&pool).await.unwrap_or(false)
    })
    .await;
    runtime.shutdown_background();
    app.start().await;
    app.is_settled().await;
    check_notifications(&app, 150).await;
}

#[tokio::test]
async fn a_restart_of_postgres_loses_and_duplicates_nothing() {
    let (nats, mut postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let replica = Replica::start(config(&nats.url(), &database)).await;
    replica.is_ready().await;
    let client = Client::connect(&nats.url(), &database).await;
    publish(&client, 0, 50).await;
    for round in 1..=2 {
        postgres.kill().await;
        publish(&client, round * 50, 50).await;
        eventually("/readyz to fail", async || !replica.readyz().await.0).await;
        let request = contract::notify::InboxHeads { users: vec![user(1)] };
        assert!(client.bus.request(&request, std::time::Duration::from_secs(10)).await.is_err());
        postgres.restart().await.unwrap();
    }
    client.is_settled().await;
    replica.is_ready().await;
    let fresh = Client::connect(&nats.url(), &database).await;
    check_notifications(&fresh, 150).await;
    assert_eq!(fresh.jetstream.get_stream("DEADLETTERS").await.unwrap().cached_info().state.messages, 0);
    replica.stop().await;
}

#[tokio::test]
async fn a_frozen_postgres_is_detected_and_events_are_retried() {
    let (nats, postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let replica = Replica::start(config(&nats.url(), &database)).await;
    replica.is_ready().await;
    let client = Client::connect(&nats.url(), &database).await;
    publish(&client, 0, 20).await;
    postgres.stop();
    publish(&client, 20, 20).await;
    eventually("a batch to fail", async || replica.readyz().await.1.contains("EVENTS: Postgres")).await;
    postgres.cont();
    client.is_settled().await;
    check_notifications(&client, 40).await;
    replica.is_ready().await;
    replica.stop().await;
}

/// A proxy for Postgres that can silence its existing connections: they transfer nothing and don't close.
async fn proxy(target: String) -> (String, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (host, rest) = target.split_once('@').unwrap().1.split_once('/').unwrap();
    let host = host.to_owned();
    let url = format!("{}@{}/{rest}", target.split_once('@').unwrap().0, listener.local_addr().unwrap());
    let silent = tokio::sync::watch::Sender::new(false);
    let silences = silent.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(&host).await.unwrap();
            let mut silence = silences.subscribe();
            silence.mark_unchanged();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = silence.changed() => std::future::pending().await,
                }
            });
        }
    });
    (url, silent)
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let (nats, postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let (proxied, silent) = proxy(database.clone()).await;
    let mut settings = config(&nats.url(), &proxied);
    settings.database.database_connections = 1;
    let replica = Replica::start(settings).await;
    replica.is_ready().await;
    let client = Client::connect(&nats.url(), &database).await;
    publish(&client, 0, 5).await;
    client.is_settled().await;
    silent.send_replace(true);
    publish(&client, 5, 5).await;
    client.is_settled().await;
    replica.is_ready().await;
    check_notifications(&client, 10).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_restart_of_nats_loses_and_duplicates_nothing() {
    let mut app = App::spawn().await;
    for round in 0..3 {
        publish(&app.client, round * 60, 60).await;
        app.nats.kill().await;
        app.nats.restart().await.unwrap();
        eventually("our connection", async || app.bus.round_trip().await.is_ok()).await;
    }
    app.is_settled().await;
    check_notifications(&app, 180).await;
    app.replica.as_ref().unwrap().is_ready().await;
}

#[tokio::test]
async fn a_service_that_starts_before_nats_waits_and_is_not_ready() {
    let (mut nats, database) =
        (NatsServer::start().await.unwrap(), testkit::TestDatabase::create().await.unwrap());
    let settings = config(&nats.url(), &database.url());
    nats.kill().await;
    let replica = Replica::start(settings.clone()).await;
    let (ready, response) = replica.readyz().await;
    assert!(!ready && response.ends_with("starting\n"), "{response}");
    assert!(crate::app::get(replica.admin, "/healthz").await.0);
    nats.restart().await.unwrap();
    replica.is_ready().await;
    replica.stop().await;

    // A service that is stopped while it waits stops at once.
    nats.kill().await;
    Replica::start(settings).await.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_batches_in_progress() {
    let mut app = App::spawn().await;
    publish(&app, 0, 100).await;
    app.stop().await;
    app.check_inboxes().await;
    app.start().await;
    // Returned messages are redelivered at once, not after the ack wait of 15 s.
    let began = tokio::time::Instant::now();
    app.is_settled().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(14));
    check_notifications(&app, 100).await;
}

#[tokio::test]
async fn counts_are_exact_after_random_operations() {
    let app = App::spawn().await;
    let other = Replica::start(app.config.clone()).await;
    other.is_ready().await;
    let actor = async |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        for n in 0..60 {
            let (id, conversation) = (random.i64(1..=3), random.i64(1..=2));
            // Each message is unique and belongs to one conversation.
            let message = (n * 8 + i64::try_from(seed).unwrap()) * 2 + conversation;
            match random.u8(0..8) {
                0 | 1 => app.event("payment_completed", format!(r#"{{"user_id":{id}}}"#)).await,
                2..=4 => app.message(conversation, message, id, &[id % 3 + 1, (id + 1) % 3 + 1]).await,
                5 => app.marker(conversation, id, message).await,
                6 => drop(app.read_all(id).await),
                _ => {
                    let newest = app.page(id, Range::Newest, 3).await.page.items;
                    if let Some(shown) = newest.last() {
                        app.read(id, shown.notification_id).await.unwrap();
                    }
                }
            }
        }
    };
    within("all actors", join_all((0..4).map(actor))).await;
    app.is_settled().await;
    app.check_inboxes().await;
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from notifications where read_at is null and conversation_id is not null
        group by user_id, conversation_id having count(*) > 1) as twice",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(twice, 0);
    other.stop().await;
}
