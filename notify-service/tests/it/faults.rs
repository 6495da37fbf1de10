//! What breaks comes back, and nothing is lost or doubled for it.

use crate::app::{App, Client, Replica, config, eventually, user, within};
use contract::log::Range;
use futures_util::future::join_all;
use testkit::{NatsServer, Postgres};
use tokio::net::{TcpListener, TcpStream};

/// Events for users 1 to 10, and messages to them from others, as who writes has read what came before.
async fn publish(client: &Client, from: i64, count: i64) {
    for n in from..from + count {
        let users = [n % 10 + 1, (n + 3) % 10 + 1];
        client.event("payment_completed", format!(r#"{{"user_ids":{users:?},"event_id":"e{n}"}}"#)).await;
        client.message(n % 4 + 1, n + 1, n % 10 + 101, &[(n + 1) % 10 + 1, (n + 2) % 10 + 1]).await;
    }
}

#[tokio::test]
async fn replicas_share_the_work_and_keep_each_seq_whole() {
    let app = App::spawn().await;
    let other = Replica::start(app.config.clone()).await;
    other.is_ready().await;
    join_all((0..4).map(|n| publish(&app, n * 100, 100))).await;
    app.is_settled().await;
    assert_eq!(app.rows().await, 1_600, "800 by events, 800 by messages");
    app.check_inboxes().await;
    other.stop().await;
}

#[tokio::test]
async fn a_replica_that_vanishes_leaves_its_work_to_the_others() {
    let mut app = App::spawn().await;
    app.stop().await;
    publish(&app, 0, 150).await;
    // In a runtime of its own, which takes everything of it along, as kill -9 does.
    let settings = app.config.clone();
    let pool = app.pool.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { drop(Replica::start(settings).await) });
    eventually("it to be at work", async || {
        let started = sqlx::query_scalar::<_, bool>("select exists (select from notifications)");
        started.fetch_one(&pool).await.unwrap_or(false)
    })
    .await;
    runtime.shutdown_background();
    app.start().await;
    app.is_settled().await;
    assert_eq!(app.rows().await, 600);
    app.check_inboxes().await;
}

#[tokio::test]
async fn postgres_that_dies_and_comes_back_loses_and_doubles_nothing() {
    let (nats, mut postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let replica = Replica::start(config(&nats.url(), &database)).await;
    replica.is_ready().await;
    let client = Client::connect(&nats.url(), &database).await;
    publish(&client, 0, 50).await;
    for round in 1..=2 {
        postgres.kill().await;
        publish(&client, round * 50, 50).await;
        eventually("/readyz to say so", async || !replica.readyz().await.0).await;
        let question = contract::notify::InboxHeads { users: vec![user(1)] };
        assert!(client.bus.request(&question, std::time::Duration::from_secs(10)).await.is_err());
        postgres.restart().await.unwrap();
    }
    client.is_settled().await;
    replica.is_ready().await;
    let fresh = Client::connect(&nats.url(), &database).await;
    assert_eq!(fresh.rows().await, 600);
    fresh.check_inboxes().await;
    assert_eq!(fresh.jetstream.get_stream("DEADLETTERS").await.unwrap().cached_info().state.messages, 0);
    replica.stop().await;
}

#[tokio::test]
async fn postgres_that_freezes_is_noticed_and_waited_for() {
    let (nats, postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let replica = Replica::start(config(&nats.url(), &database)).await;
    replica.is_ready().await;
    let client = Client::connect(&nats.url(), &database).await;
    publish(&client, 0, 20).await;
    postgres.stop();
    publish(&client, 20, 20).await;
    eventually("a batch to be given up", async || replica.readyz().await.1.contains("EVENTS: Postgres"))
        .await;
    postgres.cont();
    client.is_settled().await;
    assert_eq!(client.rows().await, 160);
    client.check_inboxes().await;
    replica.is_ready().await;
    replica.stop().await;
}

/// A way to Postgres on which the connections that there are can fall silent: nothing comes through, nothing ends.
async fn way_to(target: String) -> (String, tokio::sync::watch::Sender<bool>) {
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
async fn a_connection_that_falls_silent_does_not_keep_its_place() {
    let (nats, postgres) = (NatsServer::start().await.unwrap(), Postgres::start().await.unwrap());
    let database = postgres.url("postgres");
    let (way, silent) = way_to(database.clone()).await;
    let mut settings = config(&nats.url(), &way);
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
    assert_eq!(client.rows().await, 40);
    replica.stop().await;
}

#[tokio::test]
async fn nats_that_dies_and_comes_back_loses_and_doubles_nothing() {
    let mut app = App::spawn().await;
    for round in 0..3 {
        publish(&app.client, round * 60, 60).await;
        app.nats.kill().await;
        app.nats.restart().await.unwrap();
        eventually("our connection", async || app.bus.round_trip().await.is_ok()).await;
    }
    app.is_settled().await;
    assert_eq!(app.rows().await, 720);
    app.check_inboxes().await;
    app.replica.as_ref().unwrap().is_ready().await;
}

#[tokio::test]
async fn a_service_that_starts_first_waits_and_says_so() {
    let (mut nats, database) =
        (NatsServer::start().await.unwrap(), testkit::TestDatabase::create().await.unwrap());
    let settings = config(&nats.url(), &database.url());
    nats.kill().await;
    let replica = Replica::start(settings.clone()).await;
    let (ready, said) = replica.readyz().await;
    assert!(!ready && said.ends_with("starting\n"), "{said}");
    assert!(crate::app::get(replica.admin, "/healthz").await.0);
    nats.restart().await.unwrap();
    replica.is_ready().await;
    replica.stop().await;

    // One that is stopped while it still waits stops at once.
    nats.kill().await;
    Replica::start(settings).await.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_what_was_taken() {
    let mut app = App::spawn().await;
    publish(&app, 0, 100).await;
    app.stop().await;
    app.check_inboxes().await;
    app.start().await;
    // What was given back comes at once, not after the time for an answer.
    let began = tokio::time::Instant::now();
    app.is_settled().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    assert_eq!(app.rows().await, 400);
    app.check_inboxes().await;
}

#[tokio::test]
async fn counts_are_exact_after_anything_in_any_order() {
    let app = App::spawn().await;
    let other = Replica::start(app.config.clone()).await;
    other.is_ready().await;
    let actor = async |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        for n in 0..60 {
            let (id, place) = (random.i64(1..=3), random.i64(1..=2));
            // Unique, and of one conversation.
            let message = (n * 8 + i64::try_from(seed).unwrap()) * 2 + place;
            match random.u8(0..8) {
                0 | 1 => app.event("payment_completed", format!(r#"{{"user_id":{id}}}"#)).await,
                2..=4 => app.message(place, message, id, &[id % 3 + 1, (id + 1) % 3 + 1]).await,
                5 => app.marker(place, id, message).await,
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
    within("all of them", join_all((0..4).map(actor))).await;
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
