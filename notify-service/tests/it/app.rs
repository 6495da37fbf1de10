//! A notify-service with its own NATS and Postgres, and a client for tests.

use async_nats::{HeaderMap, jetstream};
use contract::{
    ConversationId, Lang, MessageId, NotificationId, Request, UserId,
    chat::{LogEntry, Stored},
    log::Range,
    notify::{
        InboxEvent, InboxRead, MarkNotification, Notification, NotificationPage, PageNotifications,
        RememberLanguages,
    },
    streams::{DEADLETTERS_STREAM, EVENTS_STREAM},
};
use futures_util::StreamExt;
use notify_service::{Config, NotifyService, PresenceDefault, Steps, Webhooks};
use service::{Bus, RequestError, config};
use sqlx::PgPool;
use std::net::SocketAddr;
use testkit::{NatsServer, TestDatabase};
pub use testkit::{eventually, wait::TIMEOUT, within};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

/// A running notify-service.
pub struct Replica {
    pub admin: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    /// Starts a replica, which may still wait for NATS and Postgres.
    pub async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let service = NotifyService::bind(config, shutdown.clone()).await.unwrap();
        let admin = service.admin_addr();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self { admin, shutdown, task }
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within("the service to stop", self.task).await.unwrap().unwrap();
    }

    /// Waits until it ends by itself, and returns the result.
    pub async fn ended(self) -> anyhow::Result<()> {
        within("the service to end", self.task).await.unwrap()
    }

    /// The response of `/readyz`.
    pub async fn readyz(&self) -> (bool, String) {
        get(self.admin, "/readyz").await
    }

    pub async fn is_ready(&self) {
        eventually("the service to be ready", async || self.readyz().await.0).await;
    }
}

/// A minimal HTTP client: returns whether the status is 200, and the whole response.
pub async fn get(addr: SocketAddr, path: &str) -> (bool, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    within("an HTTP response", stream.read_to_string(&mut response)).await.unwrap();
    (response.starts_with("HTTP/1.1 200"), response)
}

/// A configuration for tests, with every field explicit.
pub fn config(nats: &str, database: &str) -> Config {
    Config {
        command: None,
        nats: config::Nats { nats_url: nats.to_owned(), nats_creds: None },
        database: config::Database {
            database_url: database.to_owned(),
            database_direct_url: None,
            database_connections: 5,
        },
        telemetry: config::Telemetry {
            log_format: config::LogFormat::Text,
            rust_log: "info".to_owned(),
            otel_exporter_otlp_endpoint: None,
        },
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        notification_retention_days: 180,
        catalogue_dir: None,
        reminders: Steps::default(),
        optional_events: Vec::new(),
        tell_text: false,
        presence: config::Switch::On,
        presence_default: PresenceDefault::Shown,
        webhooks: Webhooks::default(),
    }
}

/// A client of a notify-service.
pub struct Client {
    pub bus: Bus,
    pub jetstream: jetstream::Context,
    pub pool: PgPool,
}

impl Client {
    pub async fn connect(nats: &str, database: &str) -> Self {
        let nats = config::Nats { nats_url: nats.to_owned(), nats_creds: None };
        let bus = Bus::connect("test", &nats, &CancellationToken::new()).await.unwrap().unwrap();
        let pool = PgPool::connect_lazy(&format!("{database}?options=-csearch_path%3Dnotify")).unwrap();
        Self { jetstream: bus.jetstream().clone(), bus, pool }
    }

    /// Publishes an event and waits for the acknowledgement of JetStream.
    pub async fn event(&self, kind: &str, body: impl Into<Vec<u8>>) {
        self.event_with(kind, &[], body).await;
    }

    pub async fn event_with(&self, kind: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let body: Vec<u8> = body.into();
        let sent = self.jetstream.publish_with_headers(format!("events.{kind}"), map, body.into()).await;
        within("JetStream", sent.unwrap().into_future()).await.unwrap();
    }

    /// Publishes a log entry as chat-service does.
    pub async fn log(&self, entry: &LogEntry) {
        let json = serde_json::to_vec(entry).unwrap();
        let sent = self.jetstream.publish("chat.log", json.into()).await.unwrap();
        within("JetStream", sent.into_future()).await.unwrap();
    }

    /// Publishes a message from a user to others.
    pub async fn message(&self, conversation: i64, message: i64, from: i64, to: &[i64]) {
        self.message_at(conversation, message, None, from, to).await;
    }

    /// The same, with the message's `seq`.
    pub async fn message_at(&self, conversation: i64, message: i64, seq: Option<i64>, from: i64, to: &[i64]) {
        let stored = Stored {
            kind: None,
            silent: false,
            system: false,
            conversation_id: ConversationId::new(conversation).unwrap(),
            message_id: MessageId::new(message).unwrap(),
            seq,
            sender_id: user(from),
            sender_username: format!("user-{from}"),
            recipients: to.iter().map(|id| user(*id)).collect(),
            muted: Vec::new(),
            traceparent: None,
        };
        self.log(&LogEntry::Stored { messages: vec![stored] }).await;
    }

    /// Publishes a marker that moved.
    pub async fn marker(&self, conversation: i64, id: i64, message: i64) {
        let conversation_id = ConversationId::new(conversation).unwrap();
        let message_id = MessageId::new(message).unwrap();
        self.log(&LogEntry::Read { user_id: user(id), conversation_id, message_id, marker: None }).await;
    }

    /// Waits until all messages are processed.
    pub async fn is_settled(&self) {
        for stream in [EVENTS_STREAM, contract::streams::CHAT_STREAM] {
            eventually(&format!("{stream} to be empty"), async || {
                match self.jetstream.get_stream(stream).await {
                    Ok(stream) => stream.cached_info().state.messages == 0,
                    Err(_) => false,
                }
            })
            .await;
        }
    }

    /// Subscribes to the events for a user's sockets.
    pub async fn watch(&self, id: i64) -> Watch {
        let subscriber = self.bus.subscribe(InboxEvent::subject_of(user(id))).await.unwrap();
        self.bus.client().flush().await.unwrap();
        Watch(subscriber)
    }

    /// Waits for this number of dead letters, and returns them.
    pub async fn dead_letters(&self, count: usize) -> Vec<jetstream::Message> {
        let stream = self.jetstream.get_stream(DEADLETTERS_STREAM).await.unwrap();
        let config = jetstream::consumer::pull::Config::default();
        let consumer = stream.create_consumer(config).await.unwrap();
        let messages = consumer.messages().await.unwrap();
        let letters = messages.take(count).map(Result::unwrap).collect();
        let letters: Vec<jetstream::Message> = within(&format!("{count} dead letters"), letters).await;
        let stored = self.jetstream.get_stream(DEADLETTERS_STREAM).await.unwrap();
        assert_eq!(stored.cached_info().state.messages, count as u64, "dead letters");
        letters
    }

    pub async fn request<R: Request>(&self, request: &R) -> Result<R::Reply, RequestError> {
        self.bus.request_until(request, TIMEOUT).await
    }

    /// Reports the languages of users.
    pub async fn report_languages(&self, seen: &[(i64, &str)]) {
        let seen = seen.iter().map(|(id, tag)| (user(*id), Lang::parse(tag).unwrap())).collect();
        self.request(&RememberLanguages { seen }).await.unwrap();
    }

    pub async fn page(&self, id: i64, range: Range, limit: u16) -> NotificationPage {
        let request =
            PageNotifications { user_id: user(id), range, limit, unread: false, hides_archived: false };
        self.request(&request).await.unwrap()
    }

    /// All of an inbox, oldest first.
    pub async fn inbox(&self, id: i64) -> Vec<Notification> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let page = self.page(id, Range::After(after), 200).await.page;
            all.extend(page.items);
            match page.next {
                Some(next) => after = next,
                None => return all,
            }
        }
    }

    pub async fn read(
        &self,
        id: i64,
        notification: NotificationId,
    ) -> Result<Option<InboxRead>, RequestError> {
        self.request(&MarkNotification { user_id: user(id), notification_id: Some(notification) }).await
    }

    pub async fn read_all(&self, id: i64) -> Option<InboxRead> {
        self.request(&MarkNotification { user_id: user(id), notification_id: None }).await.unwrap()
    }

    /// Checks the rows of all inboxes: counts are exact, `seq` has no gaps, and ids grow with `seq`.
    pub async fn check_inboxes(&self) {
        let wrong: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
            "select user_id, unread_count, last_seq, count(notification_id) from inboxes
            left join notifications using (user_id) group by user_id
            having unread_count <> count(*) filter (where notification_id is not null and read_at is null)
                or last_seq <> count(notification_id) or last_seq <> coalesce(max(seq), 0)
                or count(distinct seq) <> count(notification_id)
                or unseen_count <> count(*) filter (where seen_id > 0 and notification_id > seen_id and read_at is null)
                or last_id <> coalesce(max(notification_id), 0)",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert_eq!(wrong, [], "user, unread_count, last_seq, rows");
        let crossed: i64 = sqlx::query_scalar(
            "select count(*) from (select seq, lag(seq) over (partition by user_id order by notification_id) as before
            from notifications) as pairs where seq <> before + 1",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(crossed, 0, "ids grow with seq");
    }

    /// Number of notifications.
    pub async fn rows(&self) -> i64 {
        sqlx::query_scalar("select count(*) from notifications").fetch_one(&self.pool).await.unwrap()
    }
}

/// A user's events.
pub struct Watch(async_nats::Subscriber);

impl Watch {
    pub async fn json(&mut self) -> String {
        let message = within("an event of the inbox", self.0.next()).await.unwrap();
        String::from_utf8(message.payload.to_vec()).unwrap()
    }

    pub async fn shown(&mut self) -> Notification {
        let json = self.json().await;
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("not a notification: {error}: {json}"))
    }

    pub async fn read(&mut self) -> InboxRead {
        let json = self.json().await;
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("not a read: {error}: {json}"))
    }
}

/// An environment with one replica that is ready.
pub struct App {
    pub replica: Option<Replica>,
    pub client: Client,
    pub config: Config,
    // Dropped after the fields that use them.
    _database: TestDatabase,
    pub nats: NatsServer,
}

impl App {
    pub async fn spawn() -> Self {
        Self::spawn_with(|_| {}).await
    }

    pub async fn spawn_with(change: impl FnOnce(&mut Config)) -> Self {
        let (nats, database) = (NatsServer::start().await.unwrap(), TestDatabase::create().await.unwrap());
        let mut config = config(&nats.url(), &database.url());
        change(&mut config);
        let replica = Replica::start(config.clone()).await;
        replica.is_ready().await;
        let client = Client::connect(&nats.url(), &database.url()).await;
        Self { replica: Some(replica), client, config, _database: database, nats }
    }

    pub async fn stop(&mut self) {
        if let Some(replica) = self.replica.take() {
            replica.stop().await;
        }
    }

    pub async fn start(&mut self) {
        let replica = Replica::start(self.config.clone()).await;
        replica.is_ready().await;
        self.replica = Some(replica);
    }
}

impl std::ops::Deref for App {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
