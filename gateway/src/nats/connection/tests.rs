//! Tests against a real nats-server, and against servers that violate the protocol.

use super::*;
use crate::nats::protocol;
use crate::topic::LogKey;
use async_nats::Client;
use contract::{
    ConversationId, UserId,
    chat::{JoinBatch, JoinReply, JoinRequest},
    limits,
};
use futures_util::StreamExt;
use service::{Bus, bus::REFUSAL, config};
use std::collections::BTreeSet;
use testkit::{NatsOptions, NatsServer};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// A listener with topics in two parts, which records messages.
struct Recorder {
    topics: Mutex<BTreeSet<i64>>,
    messages: mpsc::Sender<(Subscriber, String)>,
}

impl Listener for Recorder {
    const PARTS: usize = 2;

    fn resubscribe(&self, part: usize, link: &Link) {
        for id in self.topics.lock().unwrap().iter().filter(|id| **id % 2 == part as i64) {
            link.subscribe(topic(*id));
        }
    }

    fn take(&self, message: &Message<'_>) {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        self.messages.try_send((Subscriber::of_sid(message.sid).unwrap(), payload)).unwrap();
    }
}

fn topic(id: i64) -> Subscriber {
    Subscriber::Log(LogKey::Conversation(ConversationId::new(id).unwrap()))
}

fn nats(url: String) -> config::Nats {
    config::Nats { nats_url: url, nats_creds: None }
}

/// A running connection with its listener.
pub struct Running {
    pub link: Link,
    recorder: Arc<Recorder>,
    messages: mpsc::Receiver<(Subscriber, String)>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    pub fn start(url: String) -> Self {
        let (sender, messages) = mpsc::channel(1024);
        let recorder = Arc::new(Recorder { topics: Mutex::default(), messages: sender });
        let link = Link::new();
        let dialer = Dialer::new(&nats(url)).unwrap();
        let _task = AbortOnDropHandle::new(tokio::spawn(link.clone().run(dialer, recorder.clone())));
        Self { link, recorder, messages, _task }
    }

    pub async fn subscribe(&self, id: i64) {
        let mark = self.add(id);
        self.link.passed(mark).await;
    }

    /// Subscribes without waiting.
    pub fn add(&self, id: i64) -> Mark {
        let mut topics = self.recorder.topics.lock().unwrap();
        topics.insert(id);
        self.link.subscribe(topic(id))
    }

    /// A message that has already arrived: its topic and its payload.
    pub fn received(&mut self) -> Option<(i64, String)> {
        let (subscriber, payload) = self.messages.try_recv().ok()?;
        let Subscriber::Log(LogKey::Conversation(id)) = subscriber else { return None };
        Some((id.get(), payload))
    }
}

/// Number of commands that a function adds, if they are written at once.
pub fn subscribed(link: &Link, subscribe: impl FnOnce()) -> usize {
    link.outgoing().is_open = true;
    subscribe();
    let commands = link.outgoing().take(false).expect("too many commands at once");
    commands.split(|byte| *byte == b'\n').count() - 1
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
    running.link.unsubscribe(topic(7));
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
}

#[tokio::test]
async fn all_subscriptions_are_renewed_after_a_restart() {
    let mut server = NatsServer::start().await.unwrap();
    let mut running = Running::start(server.url());
    let mut disruptions = running.link.disruptions();
    running.subscribe(1).await;
    running.subscribe(2).await;
    disruptions.mark_unchanged();
    server.kill().await;
    // Subscribes while there is no server.
    let (link, recorder) = (running.link.clone(), running.recorder.clone());
    recorder.topics.lock().unwrap().insert(3);
    let mark = link.subscribe(topic(3));
    server.restart().await.unwrap();
    link.passed(mark).await;
    disruptions.changed().await.unwrap();
    let other = async_nats::connect(server.url()).await.unwrap();
    for id in 1..=3 {
        other.publish(format!("chat.event.{id}"), "again".into()).await.unwrap();
        assert_eq!(running.messages.recv().await.unwrap(), (topic(id), "again".to_owned()));
    }
}

#[tokio::test]
async fn it_authenticates_as_the_user_in_the_address() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    assert!(matches!(dial_error(server.url()).await, ConnectionError::Refused(_)));
    let running = Running::start(server.url_as("gateway"));
    running.subscribe(1).await;
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
    let _running = Running::start(url);
    clients.recv().await.unwrap();
    clients.recv().await.unwrap();
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
        Subscriber::Log(LogKey::Inbox(contract::UserId::new(42).unwrap())),
        Subscriber::Typing(id),
        Subscriber::Person(contract::UserId::new(42).unwrap()),
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

const WITHIN: Duration = limits::SEND_DEADLINE;

fn request() -> JoinBatch {
    let (conversation_id, user_id) = (ConversationId::new(1).unwrap(), UserId::new(2).unwrap());
    JoinBatch {
        entries: vec![JoinRequest {
            conversation_id,
            user_id,
            username: None,
            named_at: None,
            with_people: false,
        }],
    }
}

async fn attempt(link: &Link) -> Result<Vec<JoinReply>, RequestError> {
    link.attempt(&request(), WITHIN, Deadline::after(WITHIN)).await
}

/// A client that has subscribed to the requests.
async fn responder(server: &NatsServer) -> (Client, async_nats::Subscriber) {
    let config = config::Nats { nats_url: server.url(), nats_creds: None };
    let bus = Bus::connect("test", &config, &CancellationToken::new()).await.unwrap().unwrap();
    let requests = bus.subscribe(JoinBatch::SUBJECT.to_owned()).await.unwrap();
    bus.round_trip().await.unwrap();
    (bus.client().clone(), requests)
}

#[tokio::test]
async fn a_request_has_a_reply_a_refusal_or_nobody_to_reply() {
    let server = NatsServer::start().await.unwrap();
    let running = Running::start(server.url());
    running.subscribe(1).await;
    assert!(matches!(attempt(&running.link).await, Err(RequestError::NoResponders(JoinBatch::SUBJECT))));
    let (client, mut requests) = responder(&server).await;
    let replies = tokio::spawn(async move {
        let first = requests.next().await.unwrap();
        let headers = first.headers.unwrap();
        assert!(headers.get(DEADLINE).unwrap().as_str().parse::<Deadline>().is_ok());
        let reply = br#"[{"refused":{"code":"forbidden","detail":"no"}}]"#;
        client.publish(first.reply.unwrap(), reply.to_vec().into()).await.unwrap();
        let second = requests.next().await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(REFUSAL, "unavailable: later");
        client.publish_with_headers(second.reply.unwrap(), headers, "".into()).await.unwrap();
        let third = requests.next().await.unwrap();
        client.publish(third.reply.unwrap(), "{".into()).await.unwrap();
        client.flush().await.unwrap();
    });
    assert_eq!(attempt(&running.link).await.unwrap().len(), 1);
    let refused = attempt(&running.link).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "{refused:?}");
    let undecodable = attempt(&running.link).await;
    assert!(matches!(undecodable, Err(RequestError::Payload(..))), "{undecodable:?}");
    replies.await.unwrap();
    assert!(running.link.0.requests.is_empty());
}

#[tokio::test]
async fn a_subscription_precedes_a_later_request() {
    let server = NatsServer::start().await.unwrap();
    let mut running = Running::start(server.url());
    running.subscribe(1).await;
    let (client, mut requests) = responder(&server).await;
    // The service publishes an event of the channel before it replies.
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let text = std::str::from_utf8(&request.payload).unwrap();
            let event = format!("chat.event.{}", text.matches("conversation_id").count());
            client.publish(event, "event".into()).await.unwrap();
            client.publish(request.reply.unwrap(), "[]".into()).await.unwrap();
        }
    });
    for topics in 2..50 {
        running.add(topics);
        let entries = vec![request().entries[0].clone(); topics as usize];
        running.link.request_until(&JoinBatch { entries }, WITHIN).await.unwrap();
        assert_eq!(running.received(), Some((topics, "event".to_owned())), "before the reply");
    }
}

#[tokio::test]
async fn requests_fail_with_their_connection() {
    let mut server = NatsServer::start().await.unwrap();
    let running = Running::start(server.url());
    running.subscribe(1).await;
    let (_client, mut requests) = responder(&server).await;
    let link = running.link.clone();
    let waiting = tokio::spawn(async move { attempt(&link).await });
    requests.next().await.unwrap();
    server.kill().await;
    let failed = waiting.await.unwrap();
    assert!(matches!(failed, Err(RequestError::Failed(..))), "{failed:?}");
    let refused = attempt(&running.link).await;
    assert!(matches!(refused, Err(RequestError::NotConnected(_))), "{refused:?}");
    server.restart().await.unwrap();
    // A repeated request is sent once there is a connection again, and reaches the responder once it is back.
    let (client, mut requests) = responder(&server).await;
    tokio::spawn(async move {
        let request = requests.next().await.unwrap();
        client.publish(request.reply.unwrap(), "[]".into()).await.unwrap();
        client.flush().await.unwrap();
    });
    assert_eq!(running.link.request_until(&request(), WITHIN).await.unwrap(), []);
}
