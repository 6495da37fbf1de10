//! Deliveries to real receivers, with real NATS. The schedule is shortened; the test of the schedule itself has no I/O.

use super::*;
use async_nats::jetstream::{self, stream::RetentionPolicy};
use contract::{chat::MessageChanged, notify::original_header, streams::DEADLETTERS_STREAM};
use serde_json::{Value, json};
use service::config::Nats;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use testkit::{NatsServer, wait::within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// 24 zero bytes.
const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const DELAYS: [u64; 3] = [50, 100, 150];

/// What a receiver does with a request.
#[derive(Debug, Clone)]
enum Answer {
    Text(&'static str),
    Hang,
    Close,
    /// Waits for a permit, and then accepts.
    Gate(Arc<Semaphore>),
}

const OK: Answer = Answer::Text("HTTP/1.1 204 No Content\r\n\r\n");
const FAULT: Answer = Answer::Text("HTTP/1.1 500 Fault\r\ncontent-length: 300\r\n\r\noh no");

/// A request that a receiver got.
#[derive(Debug)]
struct Received {
    headers: HashMap<String, String>,
    text: String,
    body: Value,
}

impl Received {
    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }
}

/// A real HTTP server.
struct Receiver {
    url: String,
    answer: Arc<Mutex<Answer>>,
    received: mpsc::Receiver<Received>,
    /// The greatest number of requests at once that were not answered.
    most: Arc<AtomicUsize>,
}

impl Receiver {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, received) = mpsc::channel(20_000);
        let answer = Arc::new(Mutex::new(answer));
        let (current, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (shared, greatest) = (answer.clone(), most.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(
                    stream,
                    shared.clone(),
                    sender.clone(),
                    current.clone(),
                    greatest.clone(),
                ));
            }
        });
        Self { url, answer, received, most }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    async fn next(&mut self) -> Received {
        within("a delivery", self.received.recv()).await.unwrap()
    }

    fn endpoint(&self, name: &str) -> Endpoint {
        let text = format!("[endpoints.{name}]\nurl = \"{}\"\nsecrets = [\"{SECRET}\"]", self.url);
        endpoints::tests_parse(&text).remove(0)
    }
}

async fn connection(
    mut stream: TcpStream,
    answer: Arc<Mutex<Answer>>,
    sender: mpsc::Sender<Received>,
    current: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
) {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8(bytes.drain(..head + 4).collect()).unwrap();
        let lines = text.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: HashMap<String, String> =
            lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while bytes.len() < length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let text = String::from_utf8(bytes.drain(..length).collect()).unwrap();
        let body = serde_json::from_str(&text).unwrap();
        most.fetch_max(current.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sender.send(Received { headers, text, body }).await.unwrap();
        let mut answer = answer.lock().unwrap().clone();
        if let Answer::Gate(gate) = &answer {
            gate.acquire().await.unwrap().forget();
            answer = OK;
        }
        current.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Answer::Gate(_) => unreachable!(),
            Answer::Text(text) => {
                if stream.write_all(text.as_bytes()).await.is_err() || text.contains("content-length: 300") {
                    return;
                }
            }
            Answer::Hang => std::future::pending().await,
            Answer::Close => return,
        }
    }
}

/// Short delays, and this time limit for an answer.
fn schedule(timeout: Duration) -> Schedule {
    let delays = DELAYS.map(Duration::from_millis).to_vec();
    Schedule { timeout, ack_wait: timeout + Duration::from_secs(10), delays }
}

/// NATS with the streams, and deliveries to endpoints.
struct World {
    _server: NatsServer,
    bus: Bus,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let server = NatsServer::start().await.unwrap();
        let shutdown = CancellationToken::new();
        let nats = Nats { nats_url: server.url(), nats_creds: None };
        let bus = Bus::connect("notify-service", &nats, &shutdown).await.unwrap().unwrap();
        for stream in [service::streams::events_out(), crate::streams::deadletters()] {
            service::streams::open(&bus, stream).await.unwrap();
        }
        Self { _server: server, bus, tasks: TaskTracker::new(), shutdown }
    }

    /// Starts deliveries with short delays, and waits until the consumers exist.
    async fn deliver(&self, endpoints: Vec<Endpoint>) {
        self.deliver_with(endpoints, &schedule(Duration::from_secs(30))).await;
    }

    async fn deliver_with(&self, endpoints: Vec<Endpoint>, schedule: &Schedule) {
        let health = start(&self.bus, endpoints, schedule, &self.tasks, &self.shutdown).unwrap();
        testkit::eventually("the consumers", || async { health.check().is_ok() }).await;
    }

    async fn publish(&self, subject: &str, body: Value) {
        let sent = self.bus.jetstream().publish(subject.to_owned(), body.to_string().into()).await;
        sent.unwrap().await.unwrap();
    }

    async fn changed(&self, change: i64) {
        self.publish("chat.changed", event(change)).await;
    }

    /// The dead letter with this number.
    async fn dead_letter(&self, number: u64) -> jetstream::message::StreamMessage {
        let stream = self.bus.jetstream().get_stream_no_info(DEADLETTERS_STREAM).await.unwrap();
        let letter = || async { stream.get_raw_message(number).await.ok() };
        testkit::wait::eventually("a dead letter", letter).await
    }

    /// Publishes a dead letter on its original subject, and removes it, as `xtask deadletters replay` does.
    async fn replay(&self, letter: jetstream::message::StreamMessage) {
        let mut headers = HeaderMap::new();
        for (kept, values) in letter.headers.iter() {
            if let Some(name) = original_header(kept.as_ref()).filter(|name| *name != "Nats-Msg-Id") {
                headers.insert(name, values[0].clone());
            }
        }
        headers.insert("Nats-Msg-Id", format!("replay:{}", letter.sequence));
        let subject = letter.headers.get("Original-Subject").unwrap().as_str().to_owned();
        self.bus.store_bytes(subject, headers, letter.payload).await.unwrap();
        let stream = self.bus.jetstream().get_stream_no_info(DEADLETTERS_STREAM).await.unwrap();
        stream.delete_message(letter.sequence).await.unwrap();
    }
}

fn event(change: i64) -> Value {
    let event = json!({
        "event_id": format!("chat.changed-1-{change}"), "occurred_at": "2025-12-09T10:30:00.123456Z",
        "conversation_id": 1, "message_id": 7, "seq": 1, "sender_id": 3, "change": change,
    });
    serde_json::from_value::<MessageChanged>(event.clone()).unwrap();
    event
}

#[tokio::test]
async fn an_event_is_delivered_once_with_its_id_and_signature() {
    let (world, mut receiver) = (World::start().await, Receiver::start(OK).await);
    world.deliver(vec![receiver.endpoint("shop")]).await;
    world.changed(1).await;
    let got = receiver.next().await;
    let expected =
        json!({"type": "chat.changed", "timestamp": "2025-12-09T10:30:00.123456Z", "data": event(1)});
    assert_eq!((got.id(), &got.body), ("chat.changed-1-1", &expected));
    assert_eq!(got.headers["content-type"], "application/json");
    // A report has no `event_id` and no `occurred_at`.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "report-5");
    let report = json!({"report_id": 5, "created_at": "2025-12-09T10:30:00Z"}).to_string();
    world.bus.store_bytes("chat.reported".to_owned(), headers, report.into()).await.unwrap();
    let got = receiver.next().await;
    assert_eq!((got.id(), got.body["timestamp"].as_str()), ("report-5", Some("2025-12-09T10:30:00Z")));
    world.changed(2).await;
    assert_eq!(receiver.next().await.id(), "chat.changed-1-2", "nothing is delivered twice");
}

#[tokio::test]
async fn an_endpoint_that_fails_gets_the_same_id_until_the_event_is_a_dead_letter() {
    let redirect = Answer::Text("HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n");
    for (answer, reason) in [
        (FAULT, "the last answer was 500: oh no"),
        (redirect, "the last answer was 302"),
        (Answer::Hang, "no answer in time"),
        (Answer::Close, "error sending request"),
    ] {
        // Only an endpoint that hangs exceeds a time limit.
        let timeout = Duration::from_secs(if matches!(answer, Answer::Hang) { 1 } else { 30 });
        let (world, mut receiver) = (World::start().await, Receiver::start(answer).await);
        world.deliver_with(vec![receiver.endpoint("shop")], &schedule(timeout)).await;
        world.changed(1).await;
        for _ in 0..=DELAYS.len() {
            assert_eq!(receiver.next().await.id(), "chat.changed-1-1");
        }
        let letter = world.dead_letter(1).await;
        assert_eq!(letter.subject.as_str(), "deadletters.webhook.shop");
        let given = letter.headers.get("Reason").unwrap().as_str();
        assert!(given.starts_with(reason), "{given}");
        assert_eq!(serde_json::from_slice::<Value>(&letter.payload).unwrap(), event(1));
        // The next event is delivered.
        receiver.answers(OK);
        world.changed(2).await;
        assert_eq!(receiver.next().await.id(), "chat.changed-1-2");
    }
}

#[tokio::test]
async fn an_answer_410_ends_the_retries() {
    let gone = Answer::Text("HTTP/1.1 410 Gone\r\ncontent-length: 3\r\n\r\nbye");
    let (world, mut receiver) = (World::start().await, Receiver::start(gone).await);
    world.deliver(vec![receiver.endpoint("shop")]).await;
    world.changed(1).await;
    assert_eq!(receiver.next().await.id(), "chat.changed-1-1");
    let letter = world.dead_letter(1).await;
    assert_eq!(letter.headers.get("Reason").unwrap().as_str(), "the last answer was 410: bye");
    world.changed(2).await;
    assert_eq!(receiver.next().await.id(), "chat.changed-1-2");
}

/// Law W4, and each endpoint's own events.
#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_other() {
    let world = World::start().await;
    let (mut slow, mut fast) = (Receiver::start(Answer::Hang).await, Receiver::start(OK).await);
    let only = Endpoint { events: vec!["chat.reported".to_owned()], ..fast.endpoint("only") };
    world.deliver(vec![slow.endpoint("slow"), fast.endpoint("fast"), only]).await;
    // More than the slow one may have in progress.
    for change in 0..40 {
        world.changed(change).await;
    }
    for _ in 0..40 {
        assert_eq!(fast.next().await.body["type"], "chat.changed");
    }
    slow.next().await;
}

#[tokio::test]
async fn an_endpoint_has_only_so_many_deliveries_in_flight() {
    const EVENTS: usize = 40;
    let (world, gate) = (World::start().await, Arc::new(Semaphore::new(0)));
    let (mut gated, mut free) =
        (Receiver::start(Answer::Gate(gate.clone())).await, Receiver::start(OK).await);
    let endpoints = vec![gated.endpoint("gated"), free.endpoint("free")];
    world.deliver_with(endpoints, &Schedule::default()).await;
    for change in 0..EVENTS {
        world.changed(change as i64).await;
    }
    let mut ids = BTreeMap::new();
    for _ in 0..IN_FLIGHT {
        *ids.entry(gated.next().await.id().to_owned()).or_insert(0) += 1;
    }
    // Meanwhile, one more delivery would have come, as all came to the other endpoint.
    for _ in 0..EVENTS {
        free.next().await;
    }
    assert_eq!(gated.most.load(Ordering::SeqCst), IN_FLIGHT);
    gate.add_permits(EVENTS);
    for _ in IN_FLIGHT..EVENTS {
        *ids.entry(gated.next().await.id().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(ids.len(), EVENTS);
    assert!(ids.values().all(|count| *count == 1));
    assert_eq!(gated.most.load(Ordering::SeqCst), IN_FLIGHT);
}

/// An endpoint has its events from the moment on at which the service is ready.
#[tokio::test]
async fn the_service_is_not_ready_before_the_consumers_exist() {
    let (world, mut receiver) = (World::start().await, Receiver::start(OK).await);
    world.bus.jetstream().delete_stream(EVENTS_OUT_STREAM).await.unwrap();
    let schedule = Schedule::default();
    let endpoints = vec![receiver.endpoint("shop")];
    let health = start(&world.bus, endpoints, &schedule, &world.tasks, &world.shutdown).unwrap();
    let error = health.check().unwrap_err().to_string();
    assert_eq!(error, "the consumer of shop does not exist yet");
    service::streams::open(&world.bus, service::streams::events_out()).await.unwrap();
    testkit::eventually("the consumer", || async { health.check().is_ok() }).await;
    world.changed(1).await;
    assert_eq!(receiver.next().await.id(), "chat.changed-1-1");
}

/// A receiver that accepts one secret, before, during and after a rotation.
#[tokio::test]
async fn a_delivery_has_the_signature_of_each_secret() {
    let (world, mut receiver) = (World::start().await, Receiver::start(OK).await);
    let former = receiver.endpoint("shop").secrets.remove(0);
    let new = endpoints::tests_parse(&format!(
        "[endpoints.new]\nurl = \"https://a/\"\nsecrets = [\"whsec_{}\"]",
        "B".repeat(32)
    ));
    let new = new[0].secrets[0].clone();
    for (secrets, accepted) in [
        (vec![former.clone()], vec![&former]),
        (vec![new.clone(), former.clone()], vec![&former, &new]),
        (vec![new.clone()], vec![&new]),
    ] {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let endpoint = Endpoint { secrets, ..receiver.endpoint("shop") };
        let health = start(&world.bus, vec![endpoint], &Schedule::default(), &tasks, &shutdown).unwrap();
        testkit::eventually("the consumer", || async { health.check().is_ok() }).await;
        for change in 0..50 {
            world.changed(change).await;
        }
        for _ in 0..50 {
            let Received { headers, text, .. } = receiver.next().await;
            let given: Vec<&str> = headers["webhook-signature"].split(' ').collect();
            let at = headers["webhook-timestamp"].parse().unwrap();
            let expected = accepted.iter().map(|secret| secret.sign(&headers["webhook-id"], at, &text));
            let mut expected: Vec<String> = expected.collect();
            expected.sort_unstable();
            let mut given = given;
            given.sort_unstable();
            assert_eq!(given, expected);
        }
        shutdown.cancel();
        tasks.close();
        within("the deliveries to end", tasks.wait()).await;
    }
}

/// Law W3: a process that dies after the request and before the acknowledgement.
#[tokio::test]
async fn an_event_whose_delivery_was_cut_off_comes_again_with_its_id() {
    let (world, mut receiver) = (World::start().await, Receiver::start(Answer::Hang).await);
    let first = CancellationToken::new();
    let webhook = |world: &World| {
        Arc::new(Webhook {
            bus: world.bus.clone(),
            client: Client::new(),
            endpoint: receiver.endpoint("shop"),
            schedule: Schedule { ack_wait: Duration::from_secs(1), ..Schedule::default() },
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            tasks: TaskTracker::new(),
            is_open: AtomicBool::new(false),
        })
    };
    let (dying, living) = (webhook(&world), webhook(&world));
    let runtime = tokio::task::JoinSet::<()>::new();
    let mut runtime = runtime;
    let consumer = dying.open().await.unwrap();
    world.changed(1).await;
    let mut batch = consumer.batch().max_messages(1).expires(FETCH_WAIT).messages().await.unwrap();
    let message = within("the event", batch.next()).await.unwrap().unwrap();
    runtime.spawn(async move { dying.deliver(message).await });
    assert_eq!(receiver.next().await.id(), "chat.changed-1-1");
    runtime.abort_all();
    receiver.answers(OK);
    world.tasks.spawn(living.run(first.clone()));
    assert_eq!(receiver.next().await.id(), "chat.changed-1-1");
    first.cancel();
}

#[tokio::test]
async fn ten_thousand_events_wait_for_an_endpoint_that_is_away() {
    const EVENTS: i64 = 10_000;
    let (world, mut receiver) = (World::start().await, Receiver::start(FAULT).await);
    // Growing delays, as in the real schedule: NATS delivers events that are due again before new ones.
    let delays = [500, 2_000].into_iter().chain(std::iter::repeat_n(4_000, 100)).map(Duration::from_millis);
    let schedule = Schedule { delays: delays.collect(), ..Schedule::default() };
    world.deliver_with(vec![receiver.endpoint("shop")], &schedule).await;
    let stream = world.bus.jetstream().get_stream_no_info(EVENTS_OUT_STREAM).await.unwrap();
    for change in 0..EVENTS {
        let sent = world.bus.jetstream().publish("chat.changed", event(change).to_string().into()).await;
        if change % 500 == 499 {
            sent.unwrap().await.unwrap();
        }
    }
    // While it is away, each event is tried.
    let mut tried = BTreeMap::new();
    while tried.len() < 1_000 {
        *tried.entry(receiver.next().await.id().to_owned()).or_insert(0) += 1;
    }
    receiver.answers(OK);
    // Requests of before may still be in the channel: count the events, not the requests.
    while (tried.len() as i64) < EVENTS {
        *tried.entry(receiver.next().await.id().to_owned()).or_insert(0) += 1;
    }
    let drained = || async {
        let info = stream.consumer_info("webhook-shop").await.ok()?;
        (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
    };
    // The receiver's channel must not fill up meanwhile.
    let drain = async { while receiver.received.recv().await.is_some() {} };
    tokio::select! {
        () = testkit::wait::eventually("all deliveries", drained) => {}
        () = drain => {}
    }
    assert!(receiver.most.load(Ordering::SeqCst) <= IN_FLIGHT, "{:?}", receiver.most);
}

/// A dead letter is replayed as `xtask deadletters` does it: on its original subject.
#[tokio::test]
async fn a_replayed_dead_letter_reaches_only_its_endpoint_with_its_type_and_id() {
    let world = World::start().await;
    let gone = Answer::Text("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n");
    let (mut shop, mut other) = (Receiver::start(gone.clone()).await, Receiver::start(OK).await);
    world.deliver(vec![shop.endpoint("shop"), other.endpoint("other")]).await;
    world.changed(1).await;
    shop.next().await;
    other.next().await;
    // The first replay fails as the event did, so there is another dead letter.
    for (number, answer) in [(1, gone), (2, OK)] {
        let letter = world.dead_letter(number).await;
        assert_eq!(letter.subject.as_str(), "deadletters.webhook.shop");
        shop.answers(answer);
        world.replay(letter).await;
        let got = shop.next().await;
        assert_eq!((got.id(), got.body["type"].as_str()), ("chat.changed-1-1", Some("chat.changed")));
    }
    world.changed(2).await;
    assert_eq!(other.next().await.id(), "chat.changed-1-2", "the other one did not get it again");
}

#[test]
fn the_schedule_covers_three_days_with_a_tenth_of_jitter() {
    let schedule = Schedule::default();
    let mut total = Duration::ZERO;
    for (attempt, delay) in schedule.delays.iter().enumerate() {
        total += *delay;
        for _ in 0..100 {
            let jittered = schedule.delay(attempt + 1).unwrap();
            assert!(
                jittered >= delay.mul_f64(0.899) && jittered <= delay.mul_f64(1.101),
                "{jittered:?} {delay:?}"
            );
        }
    }
    assert_eq!(schedule.delays.len(), 10);
    assert!(total > Duration::from_secs(3 * 24 * 3_600));
    assert_eq!(schedule.delay(11), None);
    // The stream keeps events for longer than that, and outlives their acknowledgements by other endpoints.
    let stream = service::streams::events_out();
    assert!(stream.max_age > 2 * total && stream.retention == RetentionPolicy::Limits);
}

#[tokio::test]
async fn the_room_is_what_can_be_written_before_a_missing_event_is_removed() {
    let world = World::start().await;
    for change in 1..=4 {
        world.changed(change).await;
    }
    let stream = world.bus.jetstream().get_stream(EVENTS_OUT_STREAM).await.unwrap();
    let mut info = stream.cached_info().clone();
    let share = |info: &jetstream::stream::Info, oldest| (room(oldest, info) * 100.0).round();
    info.config.max_bytes = i64::try_from(info.state.bytes).unwrap() * 2;
    assert_eq!(
        [None, Some(5), Some(3), Some(1)].map(|oldest| share(&info, oldest)),
        [100.0, 100.0, 75.0, 50.0]
    );
    // Full, and the first event is removed next; it may be removed already.
    info.config.max_bytes /= 2;
    assert_eq!(
        [Some(5), Some(3), Some(1), Some(0)].map(|oldest| share(&info, oldest)),
        [100.0, 50.0, 0.0, 0.0]
    );
    info.config.max_bytes = -1;
    assert_eq!(share(&info, Some(1)), 100.0);
}
