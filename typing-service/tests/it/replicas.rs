//! Replicas on a real nats-server, from the view of a gateway.

use async_nats::{Client, Subscriber};
use contract::{
    ConversationId, Event, Request, UserId,
    typing::{TypingAction, TypingEvent, TypingInput, TypingInputs, WhoTypes},
};
use futures_util::StreamExt;
use service::config::{LogFormat, Nats, Switch, Telemetry};
use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroUsize, time::Duration};
use testkit::{NatsOptions, NatsServer, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use typing_service::{Config, TypingService};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn many_inputs_are_one_start_and_one_end() {
    let mut app = App::start(SHORT, 1).await;
    for _ in 0..3 {
        app.send(1, "g1", TypingAction::Typing).await;
    }
    let last = Instant::now();
    assert_eq!(app.next().await, (1, true));
    assert_eq!(app.next().await, (1, false));
    assert!(last.elapsed() >= SHORT, "{:?}", last.elapsed());
    // No other event was published before this one.
    app.send(2, "g1", TypingAction::Typing).await;
    assert_eq!(app.next().await, (2, true));
}

#[tokio::test]
async fn inputs_of_one_message_are_processed_in_order() {
    let mut app = App::start(LONG, 1).await;
    let (typing, stopped) = (TypingAction::Typing, TypingAction::Stopped);
    app.send_together(&[(1, "g1", typing), (2, "g1", typing), (1, "g1", stopped), (1, "g1", typing)]).await;
    app.send_together(&[]).await;
    app.send_together(&[(1, "g1", TypingAction::Left), (2, "g1", stopped)]).await;
    for expected in [(1, true), (2, true), (1, false), (1, true), (1, false), (2, false)] {
        assert_eq!(app.next().await, expected);
    }
}

#[tokio::test]
async fn a_stop_ends_typing_at_once_at_any_replica() {
    let mut app = App::start(LONG, 2).await;
    for user in 1..=10 {
        app.send(user, "g1", TypingAction::Typing).await;
        app.send(user, "g1", TypingAction::Stopped).await;
        app.until(user, true).await;
        app.until(user, false).await;
    }
    app.nobody_types().await;
}

#[tokio::test]
async fn typing_ends_once_the_user_has_left_both_gateways() {
    let mut app = App::start(LONG, 2).await;
    for user in 1..=10 {
        app.send(user, "g1", TypingAction::Typing).await;
        app.until(user, true).await;
        app.send(user, "g2", TypingAction::Typing).await;
        app.until(user, true).await;
        app.send(user, "g1", TypingAction::Left).await;
        assert_eq!(app.next().await, (user, true), "still at g2");
        app.send(user, "g2", TypingAction::Left).await;
        app.until(user, false).await;
    }
    app.nobody_types().await;
}

#[tokio::test]
async fn the_other_replica_ends_the_typists_of_a_killed_one() {
    let mut app = App::start(Duration::from_secs(1), 2).await;
    for user in 1..=8 {
        app.send(user, "g1", TypingAction::Typing).await;
    }
    let (mut started, mut typing) = (0, BTreeSet::new());
    while started < 8 {
        let (user, is_typing) = app.next().await;
        if is_typing {
            started += 1;
            typing.insert(user);
        } else {
            typing.remove(&user); // On a slow machine, the first one may end before the last one starts.
        }
    }
    app.replicas.remove(0).kill().await;
    while !typing.is_empty() {
        let (user, is_typing) = app.next().await;
        assert!(!is_typing);
        typing.remove(&user);
    }
}

#[tokio::test]
async fn every_replica_returns_the_typists_of_a_conversation() {
    let mut app = App::start(LONG, 2).await;
    for user in [456, 457] {
        app.send(user, "g1", TypingAction::Typing).await;
        app.until(user, true).await;
    }
    let typists =
        async |app: &App| app.typing_in(1).await.iter().map(|event| event.user_id.get()).collect::<Vec<_>>();
    // The replica that did not process the input may receive the event later than this test.
    for _ in 0..20 {
        eventually("both type", async || typists(&app).await == [456, 457]).await;
    }
    let events = app.typing_in(1).await;
    assert!(events.iter().all(|event| event.is_typing && event.gateway.is_none()), "{events:?}");
    assert_eq!(events[0].username, "user-456");
    assert_eq!(app.typing_in(2).await, []);
}

#[tokio::test]
async fn invalid_payloads_change_nothing() {
    let mut app = App::start(LONG, 1).await;
    for payload in ["", "x", "{}", "[[[[", r#"{"conversation_id":-1}"#, "\u{0}"] {
        app.client.publish("typing.input", payload.into()).await.unwrap();
        app.client.publish("typing.event.1", payload.into()).await.unwrap();
    }
    app.send(1, "g1", TypingAction::Typing).await;
    app.until(1, true).await;
}

#[tokio::test]
async fn a_stopped_replica_finishes_the_inputs_that_it_has_received() {
    let mut app = App::start(LONG, 1).await;
    for user in 1..=100 {
        app.send(user, "g1", TypingAction::Typing).await;
    }
    app.client.flush().await.unwrap();
    // The replica has received all inputs that the server sent before this reply.
    app.nobody_types_in(2).await;
    let replica = app.replicas.remove(0);
    replica.shutdown.cancel();
    let ended = timeout(Duration::from_secs(10), replica.task).await.expect("stops in time");
    ended.unwrap().unwrap();
    for user in 1..=100 {
        assert_eq!(app.next().await, (user, true));
    }
}

#[tokio::test]
async fn a_replica_waits_for_nats_and_survives_its_restart() {
    let port = testkit::free_port().unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let replica = Replica::start(&url, SHORT).await;
    assert_eq!(replica.ready().await, (503, "starting\n".to_owned()));

    let options = NatsOptions { port: Some(port), ..NatsOptions::default() };
    let mut nats = NatsServer::start_with(options).await.unwrap();
    eventually("ready", async || replica.ready().await.0 == 200).await;
    nats.kill().await;
    eventually("not ready", async || replica.ready().await.0 == 503).await;
    nats.restart().await.unwrap();
    eventually("ready again", async || replica.ready().await.0 == 200).await;

    let mut app = App::on(nats, vec![replica]).await;
    app.send(1, "g1", TypingAction::Typing).await;
    app.until(1, true).await;
    app.until(1, false).await;
}

#[tokio::test]
async fn a_replica_that_waits_for_nats_can_be_stopped() {
    let url = format!("nats://127.0.0.1:{}", testkit::free_port().unwrap());
    let replica = Replica::start(&url, SHORT).await;
    replica.shutdown.cancel();
    timeout(Duration::from_secs(5), replica.task).await.expect("stops in time").unwrap().unwrap();
}

/// A gateway on conversation 1, and the replicas.
struct App {
    client: Client,
    events: Subscriber,
    replicas: Vec<Replica>,
    _nats: NatsServer,
}

impl App {
    async fn start(ttl: Duration, replicas: usize) -> Self {
        let nats = NatsServer::start().await.unwrap();
        let mut started = Vec::new();
        for _ in 0..replicas {
            let replica = Replica::start(&nats.url(), ttl).await;
            eventually("ready", async || replica.ready().await.0 == 200).await;
            started.push(replica);
        }
        Self::on(nats, started).await
    }

    async fn on(nats: NatsServer, replicas: Vec<Replica>) -> Self {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let events = client.subscribe("typing.event.1").await.unwrap();
        client.flush().await.unwrap();
        Self { client, events, replicas, _nats: nats }
    }

    async fn send(&self, user: i64, gateway: &str, action: TypingAction) {
        self.send_together(&[(user, gateway, action)]).await;
    }

    async fn send_together(&self, inputs: &[(i64, &str, TypingAction)]) {
        let input = |(user, gateway, action): &(i64, &str, TypingAction)| TypingInput {
            conversation_id: ConversationId::new(1).unwrap(),
            user_id: UserId::new(*user).unwrap(),
            username: format!("user-{user}"),
            gateway: (*gateway).to_owned(),
            action: *action,
            at_ms: None,
        };
        let inputs = TypingInputs(inputs.iter().map(input).collect());
        let payload = serde_json::to_vec(&inputs).unwrap();
        self.client.publish(inputs.subject(), payload.into()).await.unwrap();
    }

    /// The next event: the user, and whether the user is typing.
    async fn next(&mut self) -> (i64, bool) {
        let message = timeout(Duration::from_secs(15), self.events.next()).await;
        let message = message.expect("an event within 15 s").unwrap();
        let event: TypingEvent = serde_json::from_slice(&message.payload).unwrap_or_else(|_| {
            panic!("{:?} is not an event", message.payload);
        });
        (event.user_id.get(), event.is_typing)
    }

    /// Waits for this event and skips others.
    async fn until(&mut self, user: i64, is_typing: bool) {
        loop {
            let message = timeout(Duration::from_secs(15), self.events.next()).await;
            let message = message.unwrap_or_else(|_| panic!("{user} {is_typing} within 15 s")).unwrap();
            let event = serde_json::from_slice::<TypingEvent>(&message.payload);
            if event.is_ok_and(|event| event.user_id.get() == user && event.is_typing == is_typing) {
                return;
            }
        }
    }

    async fn typing_in(&self, conversation: i64) -> Vec<TypingEvent> {
        let request = WhoTypes { conversation_id: ConversationId::new(conversation).unwrap() };
        let payload = serde_json::to_vec(&request).unwrap();
        let reply = self.client.request(WhoTypes::SUBJECT, payload.into()).await.unwrap();
        serde_json::from_slice(&reply.payload).unwrap()
    }

    async fn nobody_types(&self) {
        for _ in 0..10 {
            eventually("nobody types", async || self.typing_in(1).await.is_empty()).await;
        }
    }

    async fn nobody_types_in(&self, conversation: i64) {
        assert_eq!(self.typing_in(conversation).await, []);
    }
}

struct Replica {
    admin: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    async fn start(url: &str, ttl: Duration) -> Self {
        let config = Config {
            nats: Nats { nats_url: url.to_owned(), nats_creds: None },
            telemetry: Telemetry {
                log_format: LogFormat::Text,
                rust_log: "info".to_owned(),
                otel_exporter_otlp_endpoint: None,
            },
            admin_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            typists_max: NonZeroUsize::new(1000).unwrap(),
            presence: Switch::On,
            ttl,
        };
        let shutdown = CancellationToken::new();
        let service = TypingService::bind(config, shutdown.clone()).await.unwrap();
        let admin = service.admin_addr();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self { admin, shutdown, task }
    }

    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Status and body of /readyz.
    async fn ready(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = "GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}
