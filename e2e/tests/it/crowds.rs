//! Many clients at once: those who don't read, and those who all come back together.

use crate::raw;
use e2e::{Kind, Options, Socket, Stack, eventually, token, within};
use futures_util::future::join_all;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// So many, or as many as this variable says: what takes long is asked for.
pub fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

pub fn with(env: &[(&'static str, &str)]) -> Options {
    let env = env.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    Options { env, ..Options::default() }
}

/// KiB of a process that `/proc` says, such as `VmHWM`: the most that it ever had.
pub fn memory(pid: u32, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Memory that a socket which doesn't read may cost, in KiB: its outbox, and what carries it.
const STALLED_KIB: usize = 128 + 64;

#[tokio::test]
async fn a_tenth_that_does_not_read_delays_nobody_and_costs_a_bounded_amount() {
    let sockets = count("SLOW_SOCKETS", 300);
    let stack = Stack::with(with(&[("OUTBOX_BYTES", "131072"), ("SOCKETS_PER_USER", "2000")])).await;
    let people: Vec<i64> = (1..=10).collect();
    let path = format!("/ws/chat/{}/", stack.conversation(&people).await);
    let mut speaker = stack.socket(&path, 1).await;
    let open = (0..sockets * 9 / 10).map(|place| stack.socket(&path, people[place % 9 + 1]));
    let mut readers = join_all(open).await;
    let pid = stack.pid(Kind::Gateway, 0);

    // Each broadcast: how long until every reader has it.
    let text = "x".repeat(4_000);
    let mut seq = 0;
    let mut broadcast = async |times: &mut Vec<Duration>| {
        seq += 1;
        let started = Instant::now();
        speaker.say(&text).await;
        assert_eq!(speaker.next().await["seq"], seq);
        let hear = readers.iter_mut().map(async |reader| {
            assert_eq!(reader.next().await["seq"], seq);
            started.elapsed()
        });
        times.extend(join_all(hear).await);
    };
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        broadcast(&mut before).await;
    }
    let stalled = join_all((0..sockets / 10).map(|_| raw::open(&stack, &path, 2, Some(4_096)))).await;
    let rest = memory(pid, "VmHWM");
    let closed = async || {
        let metrics = stack.metrics(Kind::Gateway, 0).await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("gateway_slow_clients_total"));
        line.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or_default()
    };
    while closed().await < stalled.len() {
        assert!(during.len() < 5_000 * sockets, "nobody was closed");
        broadcast(&mut during).await;
    }
    let peak = memory(pid, "VmHWM");
    let rounds = during.len() / (sockets * 9 / 10);
    let ((median, worst), (slow_median, slow_worst)) = (median_and_worst(before), median_and_worst(during));
    println!(
        "{} of {sockets} sockets stalled for {rounds} broadcasts of 4 KB: the others had each after {slow_median:?} \
         (at worst {slow_worst:?}); before, after {median:?} (at worst {worst:?}); \
         the gateway's peak grew from {rest} KiB by {} KiB",
        stalled.len(),
        peak - rest
    );
    let bound = 16 * 1024 + stalled.len() * STALLED_KIB;
    assert!(peak - rest < bound, "{} KiB for {} stalled sockets", peak - rest, stalled.len());
}

/// What a user's client asks. Each has an address of its own, as a proxy says, or the herd would be refused for coming
/// from one address so often.
fn handshake_of(stack: &Stack, user: i64) -> String {
    let [.., high, middle, low] = user.to_be_bytes();
    let address = format!("\r\nX-Forwarded-For: 10.{high}.{middle}.{low}\r\n\r\n");
    raw::handshake(stack, "/ws/notifications/", user).replace("\r\n\r\n", &address)
}

/// Comes back as the contract asks a client to, until it is let in; how often it was told to wait.
async fn come_back(stack: &Stack, user: i64, handshake: &str) -> (TcpStream, usize) {
    for refused in 0..1_000 {
        let mut stream = raw::connect(stack, None).await;
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let head = raw::head(&mut stream).await;
        if head.starts_with("HTTP/1.1 101 ") {
            return (stream, refused);
        }
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        let wait = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("retry-after: ")?.parse().ok());
        let wait = Duration::from_secs(wait.expect("when to come again"));
        assert!(wait <= Duration::from_secs(30));
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand_of(user))).await;
    }
    panic!("never let in");
}

/// Jitter that is the same in every run.
fn fastrand_of(user: i64) -> f64 {
    (user % 100) as f64 / 200.0
}

#[tokio::test]
async fn a_herd_is_let_in_little_by_little_and_harms_nobody_inside() {
    let herd = count("HERD", 300);
    let under_way = if herd > 300 { "128" } else { "2" };
    let stack =
        Stack::with(with(&[("HANDSHAKES_UNDER_WAY", under_way), ("TRUSTED_PROXIES", "127.0.0.0/8")])).await;
    let path = format!("/ws/chat/{}/", stack.conversation(&[1, 2]).await);
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let (here, refusals) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut chat = async |times: &mut Vec<Duration>, seq: i64| {
        let started = Instant::now();
        ada.say("undisturbed").await;
        assert_eq!(ben.next().await["seq"], seq);
        times.push(started.elapsed());
        assert_eq!(ada.next().await["seq"], seq);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for seq in 1..=50 {
        chat(&mut before, seq).await;
    }
    // Made before: whoever connects and then takes HEAD_SECONDS to say what it wants is not waited for.
    let users = 10..10 + i64::try_from(herd).unwrap();
    let handshakes: Vec<_> = users.map(|user| (user, handshake_of(&stack, user))).collect();
    let started = Instant::now();
    let come = async {
        let herd = handshakes.iter().map(async |(user, handshake)| {
            let (socket, refused) = come_back(&stack, *user, handshake).await;
            refusals.fetch_add(refused, Ordering::Relaxed);
            socket
        });
        let sockets = join_all(herd).await;
        here.store(true, Ordering::Relaxed);
        sockets
    };
    let talk = async {
        let mut seq = 50;
        while !here.load(Ordering::Relaxed) {
            seq += 1;
            chat(&mut during, seq).await;
        }
    };
    let (sockets, ()) = tokio::join!(come, talk);
    let ((median, worst), (herd_median, herd_worst)) = (median_and_worst(before), median_and_worst(during));
    println!(
        "{} came back at once and were in after {:?}, told to wait {} times; two who chatted meanwhile had each message \
         after {herd_median:?} (at worst {herd_worst:?}); before, after {median:?} (at worst {worst:?})",
        sockets.len(),
        started.elapsed(),
        refusals.load(Ordering::Relaxed)
    );
    assert!(refusals.load(Ordering::Relaxed) > 0, "nobody was told to wait");
    let counted = within("the metrics", stack.metrics(Kind::Gateway, 0)).await;
    assert!(counted.contains(r#"gateway_handshakes_refused_total{reason="overload"}"#));
}

#[tokio::test]
async fn those_who_leave_while_they_wait_for_their_turn_hold_none() {
    let stack = Stack::with(with(&[("HANDSHAKES_UNDER_WAY", "1")])).await;
    for _ in 0..200 {
        let mut stream = raw::connect(&stack, None).await;
        stream.write_all(raw::handshake(&stack, "/ws/", 1).as_bytes()).await.unwrap();
    }
    let url = format!("ws://{}/ws/?token={}", stack.host(0), token(2));
    eventually("a handshake after many that were given up", || async { Socket::try_connect(&url).await })
        .await;
}
