//! Tests against a real nats-server, and against servers that violate the protocol.

use super::*;
use crate::nats::protocol;
use crate::topic::{LogKey, Topic};
use contract::ConversationId;
use service::config;
use std::collections::BTreeSet;
use testkit::{NatsOptions, NatsServer};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

/// A listener with topics in two parts, which records messages.
struct Recorder {
    topics: Mutex<BTreeSet<i64>>,
    messages: mpsc::Sender<(Subscriber, String)>,
}

impl Listener for Recorder {
    const PARTS: usize = 2;

    fn resubscribe(&self, part: usize, events: &Events) {
        for id in self.topics.lock().unwrap().iter().filter(|id| **id % 2 == part as i64) {
            events.subscribe(topic(*id));
        }
    }

    fn take(&self, message: &Message<'_>) {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        self.messages.try_send((Subscriber::of_sid(message.sid).unwrap(), payload)).unwrap();
    }
}

fn topic(id: i64) -> Subscriber {
    Topic::Log(LogKey::Conversation(ConversationId::new(id).unwrap())).into()
}

fn nats(url: String) -> config::Nats {
    config::Nats { nats_url: url, nats_creds: None }
}

/// A running connection with its listener.
struct Running {
    events: Events,
    recorder: Arc<Recorder>,
    messages: mpsc::Receiver<(Subscriber, String)>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(url: String) -> Self {
        let (sender, messages) = mpsc::channel(1024);
        let recorder = Arc::new(Recorder { topics: Mutex::default(), messages: sender });
        let (events, ended) = (Events::new(), CancellationToken::new());
        let dialer = Dialer::new(&nats(url)).unwrap();
        let task = tokio::spawn(events.clone().run(dialer, recorder.clone(), ended.clone()));
        Self { events, recorder, messages, ended, task }
    }

    async fn subscribe(&self, id: i64) {
        let mark = {
            let mut topics = self.recorder.topics.lock().unwrap();
            topics.insert(id);
            self.events.subscribe(topic(id))
        };
        self.events.passed(mark).await;
    }

    async fn stop(self) {
        self.ended.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn messages_after_the_mark_are_received_and_no_others() {
    let server = NatsServer::start().await.unwrap();
    let mut running = Running::start(server.url());
    let other = async_nats::connect(server.url()).await.unwrap();
    for id in 1..=300 {
        running.subscribe(id).await;
        other.publish(format!("chat.event.{id}"), id.to_string().into()).await.unwrap();
        other.flush().await.unwrap();
        assert_eq!(running.messages.recv().await.unwrap(), (topic(id), id.to_string()));
    }
    running.events.unsubscribe(topic(7));
    running.subscribe(301).await;
    let large = "x".repeat(900_000);
    for (id, payload) in [(7, "not subscribed"), (8, large.as_str()), (9, "")] {
        other.publish(format!("chat.event.{id}"), payload.to_owned().into()).await.unwrap();
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("A", "b");
    other.publish_with_headers("chat.event.301", headers, "with headers".into()).await.unwrap();
    for expected in [(8, large.as_str()), (9, ""), (301, "with headers")] {
        assert_eq!(running.messages.recv().await.unwrap(), (topic(expected.0), expected.1.to_owned()));
    }
    running.stop().await;
}

#[tokio::test]
async fn all_subscriptions_are_renewed_after_a_restart() {
    let mut server = NatsServer::start().await.unwrap();
    let mut running = Running::start(server.url());
    let mut disruptions = running.events.disruptions();
    running.subscribe(1).await;
    running.subscribe(2).await;
    disruptions.mark_unchanged();
    server.kill().await;
    // Subscribes while there is no server.
    let (events, recorder) = (running.events.clone(), running.recorder.clone());
    recorder.topics.lock().unwrap().insert(3);
    let mark = events.subscribe(topic(3));
    server.restart().await.unwrap();
    events.passed(mark).await;
    disruptions.changed().await.unwrap();
    let other = async_nats::connect(server.url()).await.unwrap();
    for id in 1..=3 {
        other.publish(format!("chat.event.{id}"), "again".into()).await.unwrap();
        assert_eq!(running.messages.recv().await.unwrap(), (topic(id), "again".to_owned()));
    }
    running.stop().await;
}

#[tokio::test]
async fn it_authenticates_as_the_user_in_the_address() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    assert!(matches!(dial_error(server.url()).await, ConnectionError::Refused(_)));
    let running = Running::start(server.url_as("gateway"));
    running.subscribe(1).await;
    running.stop().await;
}

/// The error of a connection attempt.
async fn dial_error(url: String) -> ConnectionError {
    match Dialer::new(&nats(url)).unwrap().dial().await {
        Ok(_) => panic!("the server accepted the connection"),
        Err(error) => error,
    }
}

/// Starts a server that sends the same bytes to every client: `greeting`, and `answer` after the client's first bytes.
/// Returns its URL and a receiver that counts the clients.
async fn fake_server(greeting: &'static str, answer: &'static str) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let (answered, clients) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting.as_bytes()).await.ok();
            let mut buffer = [0; 4096];
            let _read = stream.read(&mut buffer).await;
            stream.write_all(answer.as_bytes()).await.ok();
            answered.send(()).await.ok();
        }
    });
    (url, clients)
}

#[tokio::test]
async fn a_failed_connection_attempt_has_a_reason() {
    let (url, _clients) = fake_server("HTTP/1.1 400 Bad Request\r\n\r\n", "").await;
    let error = dial_error(url).await;
    assert!(matches!(error, ConnectionError::Protocol(protocol::ProtocolError::InvalidLine)), "{error:?}");
    let (url, _clients) = fake_server("INFO {}\r\n", "-ERR 'Authorization Violation'\r\n").await;
    let error = dial_error(url).await;
    assert!(
        matches!(&error, ConnectionError::Refused(reason) if reason == "Authorization Violation"),
        "{error:?}"
    );
    let (url, _clients) = fake_server("", "").await;
    let error = dial_error(url).await;
    assert!(matches!(error, ConnectionError::AnswerTimeout), "{error:?}");
}

#[tokio::test]
async fn a_protocol_error_ends_the_connection_and_another_is_opened() {
    let (url, mut clients) = fake_server("INFO {}\r\n", "PONG\r\nMSG a c1 3\r\nabcdef").await;
    let running = Running::start(url);
    clients.recv().await.unwrap();
    clients.recv().await.unwrap();
    running.stop().await;
}

#[test]
fn only_a_server_that_does_not_answer_times_out() {
    let mut outgoing = Outgoing { is_open: true, ..Outgoing::default() };
    // A ping may be unanswered at every tick, if it is not the same one.
    for _ in 0..10 {
        outgoing.tick().unwrap();
        assert_eq!(outgoing.take(true).unwrap(), b"PING\r\n");
        outgoing.is_pinging = false;
        outgoing.needs_ping = true;
        outgoing.take(true).unwrap();
        outgoing.tick().unwrap();
        outgoing.is_pinging = false;
    }
    outgoing.take(true).unwrap();
    outgoing.tick().unwrap();
    assert_eq!(outgoing.take(true).unwrap(), b"", "one ping at a time");
    outgoing.tick().unwrap();
    assert!(matches!(outgoing.tick(), Err(ConnectionError::AnswerTimeout)));
    outgoing.close();
    outgoing.tick().unwrap();
}

#[test]
fn a_subscription_id_names_its_subscriber() {
    let id = ConversationId::new(42).unwrap();
    let subscribers = [
        topic(42),
        Topic::Log(LogKey::Inbox(contract::UserId::new(42).unwrap())).into(),
        Topic::Typing(id).into(),
        Subscriber::Probe(u64::MAX),
    ];
    for subscriber in subscribers {
        let sid = subscriber.sid();
        let message = Message { subject: "", sid: &sid, headers: b"", payload: b"" };
        assert_eq!(Subscriber::of_sid(message.sid), Some(subscriber));
    }
    for sid in ["", "é", "x1", "c", "c0", "c-1"] {
        assert_eq!(Subscriber::of_sid(sid), None);
    }
}
