//! Guarantee 4: each event that JetStream has acknowledged becomes exactly one notification for each of its users, or
//! one dead letter, even if notify-service (two replicas), Postgres and NATS are killed at random meanwhile. Messages of
//! the chat, sent in the same time, end in one unread notification for each conversation, with the exact count.
//!
//! `FAULT_EVENTS=100000` sets the number of events (5,000 by default), for 1,000 users, and a message is sent for each
//! event. `FAULT_SEED` repeats the events and the choice of faults, but not the exact times of the faults. `--nocapture`
//! shows the table.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::{HeaderMap, jetstream};
use e2e::{Kind, Options, Stack};
use futures_util::{StreamExt, future::join_all};
use serde_json::json;
use sqlx::PgPool;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

const USERS: i64 = 1_000;
/// Users whose sockets are open during the whole run.
const WATCHED: i64 = 20;
/// Conversations of two. Their users come after those of the events. One in three reads what it receives at times.
const CONVERSATIONS: usize = 40;
/// Maximum number of attempts of a request: no part is down for as long as they take.
const ATTEMPTS: usize = 600;
const PUBLISHERS: usize = 50;
/// Maximum number of published events per second.
const PER_SECOND: u64 = 1_000;
/// Minimum duration of publishing, so that each part fails at least once.
const MIN_DURATION: Duration = Duration::from_secs(15);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// Idempotency key of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    ByEventId,
    ByMessageId,
    /// None: the event is published only once, because a repeat would be another event.
    No,
    /// The event is unusable.
    Bad,
}

#[derive(Debug, Clone)]
struct Event {
    number: u64,
    known: Known,
    users: Vec<i64>,
    acknowledged: bool,
    attempts: u64,
}

impl Event {
    fn new(number: u64, random: &mut fastrand::Rng) -> Self {
        let known = match random.u8(0..100) {
            0 => Known::Bad,
            1..60 => Known::ByEventId,
            60..80 => Known::ByMessageId,
            _ => Known::No,
        };
        let count = if random.u8(0..10) == 0 { random.usize(2..=5) } else { 1 };
        let mut users: Vec<i64> = (0..count).map(|_| random.i64(1..=USERS)).collect();
        users.sort_unstable();
        users.dedup();
        Self { number, known, users, acknowledged: false, attempts: 0 }
    }

    fn message(&self) -> (HeaderMap, String) {
        let mut headers = HeaderMap::new();
        let mut body = json!({"user_ids": self.users, "data": {"number": self.number}});
        match self.known {
            Known::ByEventId => body["event_id"] = format!("event-{}", self.number).into(),
            Known::ByMessageId => headers.insert("Nats-Msg-Id", format!("message-{}", self.number)),
            Known::No => {}
            Known::Bad => body["user_ids"] = "everyone".into(),
        }
        (headers, body.to_string())
    }

    /// Publishes the event once. Returns whether JetStream acknowledged it.
    async fn publish(&mut self, jetstream: &jetstream::Context) -> bool {
        self.attempts += 1;
        let (headers, body) = self.message();
        let sent = async {
            let sent =
                jetstream.publish_with_headers("events.payment_completed", headers, body.into()).await?;
            sent.await
        };
        let acknowledged = matches!(timeout(Duration::from_secs(3), sent).await, Ok(Ok(_)));
        self.acknowledged |= acknowledged;
        acknowledged
    }
}

/// Publishes events. Repeats each event with a key until it is acknowledged, and some of them more often.
async fn publisher(
    mut events: Vec<Event>,
    jetstream: jetstream::Context,
    mut random: fastrand::Rng,
) -> Vec<Event> {
    let pace = Duration::from_secs(1) * PUBLISHERS as u32 / PER_SECOND as u32;
    let mut pace = interval(pace.max(MIN_DURATION / events.len().max(1) as u32));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for index in 0..events.len() {
        pace.tick().await;
        let once = events[index].known == Known::No;
        while !events[index].publish(&jetstream).await && !once {
            sleep(Duration::from_millis(random.u64(10..200))).await;
        }
        let before = random.usize(0..=index);
        if matches!(events[before].known, Known::ByEventId | Known::ByMessageId) && random.u8(0..10) == 0 {
            for _ in 0..random.u8(1..=4) {
                events[before].publish(&jetstream).await;
            }
        }
    }
    events
}

/// A conversation of two users with `id`: the first one sends.
struct Chat {
    id: i64,
    reader: i64,
    /// The number of messages that were sent, and of those that were read.
    sent: i64,
    read: i64,
}

/// Repeats an attempt until it has a result.
async fn repeat<T, F: Future<Output = Option<T>>>(name: &str, attempt: impl Fn() -> F) -> T {
    for _ in 0..ATTEMPTS {
        if let Ok(Some(result)) = timeout(Duration::from_secs(5), attempt()).await {
            return result;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{name}: none of {ATTEMPTS} attempts succeeded");
}

/// Repeats a request until a service answers without a fault of its own.
async fn request(nats: &async_nats::Client, subject: &str, body: &serde_json::Value) -> serde_json::Value {
    let attempt = || async {
        let answer = nats.request(subject.to_owned(), body.to_string().into()).await.ok()?;
        match answer.headers.as_ref().and_then(|all| all.get("Nats-Service-Error-Code")) {
            None => Some(serde_json::from_slice(&answer.payload).unwrap()),
            Some(code) => {
                assert!(code.as_str().starts_with('5'), "{:?}", answer.headers);
                None
            }
        }
    };
    repeat(subject, attempt).await
}

/// Sends messages to a conversation as a backend does, in bursts; a reader marks some of them as read.
async fn chatter(
    backend: async_nats::Client,
    (http, gateway): (reqwest::Client, String),
    mut chat: Chat,
    messages: u64,
    mut random: fastrand::Rng,
) -> Chat {
    let reads = chat.reader % 3 == 0;
    for number in 0..messages {
        if random.u8(0..20) == 0 {
            sleep(MIN_DURATION * 20 / messages.max(1) as u32).await;
        }
        let client_id = format!("{}-{number}", chat.id);
        let body = json!({
            "conversation_id": chat.id, "sender_id": chat.reader - 1, "message": "hello", "client_id": client_id,
        });
        let sent = request(&backend, "chat.messages.send", &body).await;
        chat.sent += 1;
        assert_eq!(sent["seq"], chat.sent, "{sent}");
        if reads && random.u8(0..10) == 0 {
            let id = &sent["message_id"];
            let url = format!("http://{gateway}/api/conversations/{}/read", chat.id);
            let (token, body) = (e2e::token(chat.reader), json!({"message_id": id}));
            let read = || async {
                let answer = http.post(&url).bearer_auth(&token).json(&body).send().await.ok()?;
                (answer.status() == 204).then_some(())
            };
            repeat(&url, read).await;
            chat.read = chat.sent;
        }
    }
    chat
}

/// Kills one part after the other until `over` is set. Returns the number of kills by part.
async fn faults(
    stack: &mut Stack,
    over: &AtomicBool,
    mut random: fastrand::Rng,
) -> BTreeMap<&'static str, u32> {
    let mut killed = BTreeMap::new();
    let mut next = Vec::new();
    while !over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(random.u64(200..1_500))).await;
        let down = Duration::from_millis(random.u64(0..1_200));
        if next.is_empty() {
            next.extend([
                "Postgres",
                "NATS",
                "one notify-service",
                "one notify-service",
                "both notify-services",
            ]);
            random.shuffle(&mut next);
        }
        let which = next.pop().unwrap();
        match which {
            "Postgres" => {
                stack.postgres.as_ref().unwrap().kill().await;
                sleep(down).await;
                stack.postgres.as_mut().unwrap().restart().await.unwrap();
            }
            "NATS" => {
                stack.nats.kill().await;
                sleep(down).await;
                stack.nats.restart().await.unwrap();
            }
            one_or_both => {
                let first = random.usize(0..2);
                let indices = if one_or_both == "one notify-service" { first..first + 1 } else { 0..2 };
                for index in indices.clone() {
                    stack.kill(Kind::Notify, index).await;
                }
                sleep(down).await;
                indices.for_each(|index| stack.restart(Kind::Notify, index));
            }
        }
        *killed.entry(which).or_default() += 1;
    }
    killed
}

/// Reads an inbox on a socket like a page, and checks that each `seq` arrives once and in order.
async fn watch(url: String, last: Arc<Mutex<HashMap<i64, i64>>>, user: i64) {
    let mut after = "0".to_owned();
    loop {
        let Some(mut socket) = e2e::Socket::try_connect(&format!("{url}&after={after}")).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(frame) = socket.receive().await {
            let (Some(seq), Some(id)) = (frame["seq"].as_i64(), frame["notification_id"].as_i64()) else {
                continue;
            };
            after = id.to_string();
            let before = last.lock().unwrap().insert(user, seq).unwrap_or(0);
            assert_eq!(seq, before + 1, "user {user}'s socket");
        }
    }
}

/// Number of dead letters by event.
async fn dead_letters(jetstream: &jetstream::Context) -> HashMap<u64, u64> {
    let stream = jetstream.get_stream("DEADLETTERS").await.unwrap();
    let mut pending = stream.cached_info().state.messages;
    let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut found = HashMap::new();
    while pending > 0 {
        let message = e2e::within("a dead letter", messages.next()).await.unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        *found.entry(body["data"]["number"].as_u64().unwrap()).or_default() += 1;
        pending -= 1;
    }
    found
}

/// Waits until every message of a stream is handled.
async fn handled(jetstream: &jetstream::Context, stream: &str) {
    e2e::eventually(&format!("the messages of {stream} to be handled"), || async {
        let stream = jetstream.get_stream_no_info(stream).await.ok()?;
        let consumer = stream.consumer_info("notify").await.ok()?;
        (consumer.num_pending == 0 && consumer.num_ack_pending == 0).then_some(())
    })
    .await;
}

/// Waits until every event is handled and removed. Returns the number of events that were still in the stream when none
/// was pending: a killed nats-server may restore removed messages.
async fn settle(jetstream: &jetstream::Context) -> u64 {
    let began = Instant::now();
    let mut restored = 0;
    loop {
        if let Ok(stream) = jetstream.get_stream_no_info("EVENTS").await
            && let Ok(consumer) = stream.consumer_info("notify").await
            && consumer.num_pending == 0
            && consumer.num_ack_pending == 0
            && let Ok(info) = stream.get_info().await
        {
            match info.state.messages {
                0 => return restored,
                messages => restored = messages,
            }
        }
        assert!(began.elapsed() < Duration::from_secs(300), "some events are still pending");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_acknowledged_event_is_in_its_inboxes_once_despite_kills() {
    let count = number("FAULT_EVENTS").unwrap_or(5_000);
    let seed = number("FAULT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("FAULT_EVENTS={count} FAULT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let options = Options { counts: [1, 1, 2, 0], own_postgres: true, ..Options::default() };
    let mut stack = Stack::with(Options {
        env: vec![("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned()))],
        ..options
    })
    .await;
    let jetstream = jetstream::new(stack.backend().await);
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let sockets: Vec<_> = (1..=WATCHED)
        .map(|user| {
            let url = format!("ws://{}/ws/notifications/?token={}", stack.host(0), e2e::token(user));
            tokio::spawn(watch(url, seen.clone(), user))
        })
        .collect();
    let backend = stack.backend().await;
    let gateway = (stack.http().clone(), stack.host(0));
    let mut chats = Vec::new();
    for pair in 0..CONVERSATIONS as i64 {
        let users = [USERS + 2 * pair + 1, USERS + 2 * pair + 2];
        let participants = json!({"participants": users.map(|user| json!({"user_id": user}))});
        let made = request(&backend, "chat.conversations.create", &participants).await;
        chats.push(Chat {
            id: made["conversation_id"].as_i64().unwrap(),
            reader: users[1],
            sent: 0,
            read: 0,
        });
    }
    let mut events: Vec<Vec<Event>> = vec![Vec::new(); PUBLISHERS];
    for number in 0..count {
        events[number as usize % PUBLISHERS].push(Event::new(number, &mut random));
    }
    let (began, over) = (Instant::now(), AtomicBool::new(false));
    let publishers: Vec<_> = events
        .into_iter()
        .map(|events| tokio::spawn(publisher(events, jetstream.clone(), random.fork())))
        .collect();
    let messages = count / CONVERSATIONS as u64;
    let chatters: Vec<_> = chats
        .into_iter()
        .map(|chat| tokio::spawn(chatter(backend.clone(), gateway.clone(), chat, messages, random.fork())))
        .collect();
    let published = async {
        let published = tokio::join!(join_all(publishers), join_all(chatters));
        over.store(true, Ordering::Relaxed);
        published
    };
    let fault_random = random.fork();
    let ((published, chats), killed) = tokio::join!(published, faults(&mut stack, &over, fault_random));
    let chats: Vec<Chat> = chats.into_iter().map(Result::unwrap).collect();
    let events: Vec<Event> = published.into_iter().flat_map(Result::unwrap).collect();
    let publishing = began.elapsed();
    let restored = settle(&jetstream).await;
    println!("restored by a killed nats-server at the end, and handled again: {restored}\n");
    let pool =
        PgPool::connect(&format!("{}?options=-csearch_path%3Dnotify", stack.database.url())).await.unwrap();
    e2e::eventually("chat-service's outbox to be empty", || async {
        let rows = sqlx::query_scalar("select count(*) from chat.outbox").fetch_one(&pool).await;
        (rows.ok() == Some(0_i64)).then_some(())
    })
    .await;
    handled(&jetstream, "CHAT").await;
    stack.ready().await;
    let took = began.elapsed();

    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select user_id, (data::json->>'number')::bigint, count(*) from notifications
        where type = 'payment_completed' group by 1, 2",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let rows: HashMap<(i64, u64), i64> =
        rows.into_iter().map(|(user, number, count)| ((user, number as u64), count)).collect();
    let letters = dead_letters(&jetstream).await;
    let verdict = Verdict::of(&events, &rows, &letters);
    let holes: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
        "select user_id, last_seq, unread_count, count(notification_id)
        from inboxes left join notifications using (user_id) group by user_id
        having unread_count <> count(notification_id) filter (where read_at is null) or last_seq <> count(notification_id)
            or count(distinct seq) <> count(notification_id) or last_seq <> coalesce(max(seq), 0)
            or array_agg(seq order by notification_id) <> array_agg(seq order by seq)",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    verdict.print(&killed, publishing, took, holes.len());
    assert_eq!((verdict.missing, verdict.doubled, verdict.unexpected), (0, 0, 0));
    assert_eq!((verdict.letters_missing, verdict.letters_too_many), (0, 0));
    assert_eq!(holes, [], "user, last_seq, unread_count, rows");
    check_chats(&pool, &chats).await;
    for user in 1..=WATCHED {
        let stored = rows.keys().filter(|(owner, _)| *owner == user).count() as i64;
        let counted = stack.get("/api/notifications/unread_count", user).await;
        assert_eq!(counted["unread_count"], stored, "user {user}");
        e2e::eventually(&format!("user {user}'s socket to receive all {stored}"), || async {
            (seen.lock().unwrap().get(&user).copied().unwrap_or(0) == stored).then_some(())
        })
        .await;
    }
    for socket in sockets {
        assert!(!socket.is_finished(), "a socket received a seq out of order");
        socket.abort();
    }
}

/// Checks that each conversation with unread messages has one unread notification with their number, and that no notification
/// superseded another within a second.
async fn check_chats(pool: &PgPool, chats: &[Chat]) {
    for chat in chats {
        let unread: Vec<(i64, i64)> = sqlx::query_as(
            "select conversation_id, (data::json->>'count')::bigint from notifications
            where user_id = $1 and read_at is null",
        )
        .bind(chat.reader)
        .fetch_all(pool)
        .await
        .unwrap();
        let (user, expected) = (chat.reader, chat.sent - chat.read);
        let conversations: Vec<i64> = unread.iter().map(|(conversation, _)| *conversation).collect();
        assert_eq!(conversations, Vec::from_iter((expected > 0).then_some(chat.id)), "user {user}");
        for (_, count) in unread {
            assert_eq!(count, expected, "user {user}");
        }
    }
    let superseding: (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where gap < interval '1 s') from (
            select replaces, created_at - lag(created_at) over (partition by user_id order by seq) as gap
            from notifications where type = 'message_received'
        ) as shown where replaces is not null",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(
        superseding.1, 0,
        "of {} notifications, so many superseded another within a second",
        superseding.0
    );
    println!(
        "messages {}, notifications that superseded others {}",
        chats.iter().map(|chat| chat.sent).sum::<i64>(),
        superseding.0
    );
}

/// Result of the run.
#[derive(Debug, Default)]
struct Verdict {
    /// By key of the events: number of events, of attempts, and of acknowledged events.
    events: BTreeMap<Known, (u64, u64, u64)>,
    promised: u64,
    stored: u64,
    missing: u64,
    doubled: u64,
    unexpected: u64,
    letters: u64,
    letters_missing: u64,
    letters_too_many: u64,
}

impl Verdict {
    fn of(events: &[Event], rows: &HashMap<(i64, u64), i64>, letters: &HashMap<u64, u64>) -> Self {
        let mut verdict = Self { stored: rows.values().sum::<i64>() as u64, ..Self::default() };
        let mut allowed = 0;
        for event in events {
            let (count, attempts, acknowledged) = verdict.events.entry(event.known).or_default();
            *count += 1;
            *attempts += event.attempts;
            *acknowledged += u64::from(event.acknowledged);
            if event.known == Known::Bad {
                let found = letters.get(&event.number).copied().unwrap_or(0);
                verdict.letters += found;
                verdict.letters_missing += u64::from(event.acknowledged && found == 0);
                // Each attempt during a kill of NATS may have been stored as a separate event.
                verdict.letters_too_many += found.saturating_sub(event.attempts);
                continue;
            }
            for user in &event.users {
                let found = rows.get(&(*user, event.number)).copied().unwrap_or(0);
                allowed += u64::from(found > 0);
                verdict.promised += u64::from(event.acknowledged);
                verdict.missing += u64::from(event.acknowledged && found == 0);
                verdict.doubled += u64::from(found > 1);
            }
        }
        verdict.unexpected = rows.len() as u64 - allowed;
        verdict
    }

    fn print(&self, killed: &BTreeMap<&str, u32>, publishing: Duration, took: Duration, holes: usize) {
        println!("| events | | published | acknowledged |\n| --- | ---: | ---: | ---: |");
        for (known, (count, attempts, acknowledged)) in &self.events {
            println!("| {known:?} | {count} | {attempts} | {acknowledged} |");
        }
        println!("\n| | |\n| --- | ---: |");
        for (what, times) in killed {
            println!("| {what} killed | {times} |");
        }
        let (publishing, took) = (publishing.as_secs_f32(), took.as_secs_f32());
        println!("| seconds of publishing, until all was done | {publishing:.0}, {took:.0} |");
        println!("| notifications promised by acknowledged events | {} |", self.promised);
        println!("| notifications stored, with those of unacknowledged events | {} |", self.stored);
        println!(
            "| missing, duplicated, unexpected | {}, {}, {} |",
            self.missing, self.doubled, self.unexpected
        );
        println!(
            "| dead letters; missing, too many | {}; {}, {} |",
            self.letters, self.letters_missing, self.letters_too_many
        );
        println!("| inboxes of {USERS} with a wrong count or a gap in seq | {holes} |");
    }
}
