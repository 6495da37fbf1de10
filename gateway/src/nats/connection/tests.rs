//! Against a real nats-server, and against ones that no NATS is.

use super::*;
use crate::nats::protocol;
use crate::topic::{LogKey, Topic};
use contract::ConversationId;
use service::config;
use std::collections::BTreeSet;
use testkit::{NatsOptions, NatsServer};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

/// Two parts with topics, and what was heard.
struct Ears {
    topics: Mutex<BTreeSet<i64>>,
    heard: mpsc::Sender<(Subscriber, String)>,
}

impl Listener for Ears {
    const PARTS: usize = 2;

    fn resubscribe(&self, part: usize, events: &Events) {
        for id in self.topics.lock().unwrap().iter().filter(|id| **id % 2 == part as i64) {
            events.subscribe(topic(*id));
        }
    }

    fn take(&self, message: &Message<'_>) {
        let said = String::from_utf8(message.payload.to_vec()).unwrap();
        self.heard.try_send((Subscriber::of_sid(message.sid).unwrap(), said)).unwrap();
    }
}

fn topic(id: i64) -> Subscriber {
    Topic::Log(LogKey::Conversation(ConversationId::new(id).unwrap())).into()
}

fn nats(url: String) -> config::Nats {
    config::Nats { nats_url: url, nats_creds: None }
}

/// A listener that runs, until the token of the second is cancelled.
struct Running {
    events: Events,
    ears: Arc<Ears>,
    heard: mpsc::Receiver<(Subscriber, String)>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(url: String) -> Self {
        let (sender, heard) = mpsc::channel(1024);
        let ears = Arc::new(Ears { topics: Mutex::default(), heard: sender });
        let (events, ended) = (Events::new(), CancellationToken::new());
        let dialer = Dialer::new(&nats(url)).unwrap();
        let task = tokio::spawn(events.clone().run(dialer, ears.clone(), ended.clone()));
        Self { events, ears, heard, ended, task }
    }

    async fn subscribe(&self, id: i64) {
        let mark = {
            let mut topics = self.ears.topics.lock().unwrap();
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
async fn what_is_published_after_the_mark_is_heard_and_nothing_else() {
    let server = NatsServer::start().await.unwrap();
    let mut listens = Running::start(server.url());
    let other = async_nats::connect(server.url()).await.unwrap();
    for id in 1..=300 {
        listens.subscribe(id).await;
        other.publish(format!("chat.event.{id}"), id.to_string().into()).await.unwrap();
        other.flush().await.unwrap();
        assert_eq!(listens.heard.recv().await.unwrap(), (topic(id), id.to_string()));
    }
    listens.events.unsubscribe(topic(7));
    listens.subscribe(301).await;
    let large = "x".repeat(900_000);
    for (id, said) in [(7, "nobody hears"), (8, large.as_str()), (9, "")] {
        other.publish(format!("chat.event.{id}"), said.to_owned().into()).await.unwrap();
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("A", "b");
    other.publish_with_headers("chat.event.301", headers, "with headers".into()).await.unwrap();
    for expected in [(8, large.as_str()), (9, ""), (301, "with headers")] {
        assert_eq!(listens.heard.recv().await.unwrap(), (topic(expected.0), expected.1.to_owned()));
    }
    listens.stop().await;
}

#[tokio::test]
async fn after_a_restart_everything_is_heard_again() {
    let mut server = NatsServer::start().await.unwrap();
    let mut listens = Running::start(server.url());
    let mut disruptions = listens.events.disruptions();
    listens.subscribe(1).await;
    listens.subscribe(2).await;
    disruptions.mark_unchanged();
    server.kill().await;
    // While there is no server, and by the way to the next.
    let (events, topics) = (listens.events.clone(), listens.ears.clone());
    topics.topics.lock().unwrap().insert(3);
    let mark = events.subscribe(topic(3));
    server.restart().await.unwrap();
    events.passed(mark).await;
    disruptions.changed().await.unwrap();
    let other = async_nats::connect(server.url()).await.unwrap();
    for id in 1..=3 {
        other.publish(format!("chat.event.{id}"), "again".into()).await.unwrap();
        assert_eq!(listens.heard.recv().await.unwrap(), (topic(id), "again".to_owned()));
    }
    listens.stop().await;
}

#[tokio::test]
async fn it_comes_as_the_user_of_the_address() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    assert!(matches!(refused(server.url()).await, Lost::Refused(_)));
    let listens = Running::start(server.url_as("gateway"));
    listens.subscribe(1).await;
    listens.stop().await;
}

/// Why a server doesn't take us.
async fn refused(url: String) -> Lost {
    match Dialer::new(&nats(url)).unwrap().dial().await {
        Ok(_) => panic!("it took us"),
        Err(lost) => lost,
    }
}

/// A server that says the same to everyone who connects; and where it is.
async fn server_that_says(greeting: &'static str, answer: &'static str) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let (came, comes) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting.as_bytes()).await.ok();
            let mut introduction = [0; 4096];
            let _said = stream.read(&mut introduction).await;
            stream.write_all(answer.as_bytes()).await.ok();
            came.send(()).await.ok();
        }
    });
    (url, comes)
}

#[tokio::test]
async fn who_is_no_nats_server_is_no_nats_server() {
    let (url, _comes) = server_that_says("HTTP/1.1 400 Bad Request\r\n\r\n", "").await;
    assert!(matches!(refused(url).await, Lost::Broken(protocol::Broken::Unknown)));
    let (url, _comes) = server_that_says("INFO {}\r\n", "-ERR 'Authorization Violation'\r\n").await;
    assert!(matches!(refused(url).await, Lost::Refused(why) if why == "Authorization Violation"));
    let (url, _comes) = server_that_says("", "").await;
    assert!(matches!(refused(url).await, Lost::Silent));
}

#[tokio::test]
async fn what_no_server_says_ends_the_connection_and_another_is_made() {
    let (url, mut comes) = server_that_says("INFO {}\r\n", "PONG\r\nMSG a c1 3\r\nabcdef").await;
    let listens = Running::start(url);
    comes.recv().await.unwrap();
    comes.recv().await.unwrap();
    listens.stop().await;
}

#[test]
fn only_a_server_that_does_not_answer_is_silent() {
    let mut outgoing = Outgoing { is_open: true, ..Outgoing::default() };
    // However often a ping is under way, as long as it is another one.
    for _ in 0..10 {
        outgoing.tick().unwrap();
        assert_eq!(outgoing.take(true).unwrap(), b"PING\r\n");
        outgoing.pinged = false;
        outgoing.ping = true;
        outgoing.take(true).unwrap();
        outgoing.tick().unwrap();
        outgoing.pinged = false;
    }
    outgoing.take(true).unwrap();
    outgoing.tick().unwrap();
    assert_eq!(outgoing.take(true).unwrap(), b"", "one at a time");
    outgoing.tick().unwrap();
    assert!(matches!(outgoing.tick(), Err(Lost::Silent)));
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
