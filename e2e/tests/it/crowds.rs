//! Many clients at once: sockets that don't read, and clients that all reconnect together.

use crate::raw;
use e2e::{Kind, Options, Socket, Stack, eventually, token, within};
use futures_util::future::join_all;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Value of an environment variable for longer runs, or the default.
pub fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// Default options with these environment variables.
pub fn with(env: &[(&'static str, &str)]) -> Options {
    let env = env.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    Options { env, ..Options::default() }
}

/// Memory of a process from `/proc`, in KiB. `VmHWM` is the peak, `VmRSS` the current value.
pub fn memory(pid: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Maximum memory for a socket that doesn't read, in KiB: its outbox and its overhead.
const STALLED_KIB: usize = 128 + 64;

#[tokio::test]
async fn a_tenth_of_stalled_sockets_does_not_delay_the_others_and_has_a_bounded_cost() {
    let sockets = count("SLOW_SOCKETS", 300);
    // Sockets that stall answer no pings either, and must not be closed for that.
    let env = [("OUTBOX_BYTES", "131072"), ("SOCKETS_PER_USER", "2000"), ("IDLE_SECONDS", "3600")];
    let stack = Stack::with(with(&env)).await;
    let people: Vec<i64> = (1..=10).collect();
    let path = format!("/ws/chat/{}/", stack.conversation(&people).await);
    let mut sender = stack.socket(&path, 1).await;
    let open = (0..sockets * 9 / 10).map(|index| stack.socket(&path, people[index % 9 + 1]));
    let mut readers = join_all(open).await;
    let pid = stack.pid(Kind::Gateway, 0);

    // Sends a broadcast and measures its delivery to every reader.
    let text = "x".repeat(4_000);
    let mut seq = 0;
    let mut broadcast = async |times: &mut Vec<Duration>| {
        seq += 1;
        let started = Instant::now();
        sender.say(&text).await;
        assert_eq!(sender.next().await["seq"], seq);
        let receive = readers.iter_mut().map(async |reader| {
            assert_eq!(reader.next().await["seq"], seq);
            started.elapsed()
        });
        times.extend(join_all(receive).await);
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
        assert!(during.len() < 5_000 * sockets, "no socket was closed");
        broadcast(&mut during).await;
    }
    let peak = memory(pid, "VmHWM");
    let rounds = during.len() / (sockets * 9 / 10);
    let ((median, worst), (slow_median, slow_worst)) = (median_and_worst(before), median_and_worst(during));
    println!(
        "{} of {sockets} sockets stalled for {rounds} broadcasts of 4 KB, which reached the others after \
         {slow_median:?} (at worst {slow_worst:?}), and before after {median:?} (at worst {worst:?}); \
         the gateway's peak memory grew from {rest} KiB by {} KiB",
        stalled.len(),
        peak - rest
    );
    let bound = 16 * 1024 + stalled.len() * STALLED_KIB;
    assert!(peak - rest < bound, "{} KiB for {} stalled sockets", peak - rest, stalled.len());
}

/// Handshake of a user, with an address of its own in `X-Forwarded-For`: from a single address, the herd would exceed
/// the rate of handshakes.
fn handshake_of(stack: &Stack, user: i64) -> String {
    let [.., high, middle, low] = user.to_be_bytes();
    let address = format!("\r\nX-Forwarded-For: 10.{high}.{middle}.{low}\r\n\r\n");
    raw::handshake(stack, "/ws/notifications/", user).replace("\r\n\r\n", &address)
}

/// Reconnects as the protocol requires until the handshake is accepted. Returns the number of refusals.
async fn reconnect(stack: &Stack, user: i64, handshake: &str) -> (TcpStream, usize) {
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
        let wait = Duration::from_secs(wait.expect("a `Retry-After` header"));
        assert!(wait <= Duration::from_secs(30));
        tokio::time::sleep(wait.mul_f64(0.5 + jitter(user))).await;
    }
    panic!("never admitted");
}

/// Jitter that is the same in every run.
fn jitter(user: i64) -> f64 {
    (user % 100) as f64 / 200.0
}

#[tokio::test]
async fn a_herd_is_admitted_gradually_and_does_not_delay_open_sockets() {
    let herd = count("HERD", 300);
    let concurrent = if herd > 300 { "128" } else { "2" };
    let stack =
        Stack::with(with(&[("HANDSHAKES_UNDER_WAY", concurrent), ("TRUSTED_PROXIES", "127.0.0.0/8")])).await;
    let path = format!("/ws/chat/{}/", stack.conversation(&[1, 2]).await);
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let (is_complete, refusals) = (AtomicBool::new(false), AtomicUsize::new(0));
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
    // Created in advance: the gateway closes a connection whose request takes longer than HEAD_SECONDS.
    let users = 10..10 + i64::try_from(herd).unwrap();
    let handshakes: Vec<_> = users.map(|user| (user, handshake_of(&stack, user))).collect();
    let started = Instant::now();
    let arrive = async {
        let herd = handshakes.iter().map(async |(user, handshake)| {
            let (socket, refused) = reconnect(&stack, *user, handshake).await;
            refusals.fetch_add(refused, Ordering::Relaxed);
            socket
        });
        let sockets = join_all(herd).await;
        is_complete.store(true, Ordering::Relaxed);
        sockets
    };
    let talk = async {
        let mut seq = 50;
        while !is_complete.load(Ordering::Relaxed) {
            seq += 1;
            chat(&mut during, seq).await;
        }
    };
    let (sockets, ()) = tokio::join!(arrive, talk);
    let ((median, worst), (herd_median, herd_worst)) = (median_and_worst(before), median_and_worst(during));
    println!(
        "{} clients reconnected at once and were admitted after {:?}, with {} refusals; messages of two other users \
         took {herd_median:?} meanwhile (at worst {herd_worst:?}) and {median:?} before (at worst {worst:?})",
        sockets.len(),
        started.elapsed(),
        refusals.load(Ordering::Relaxed)
    );
    assert!(refusals.load(Ordering::Relaxed) > 0, "no handshake was refused");
    let counted = within("the metrics", stack.metrics(Kind::Gateway, 0)).await;
    assert!(counted.contains(r#"gateway_handshakes_refused_total{reason="overload"}"#));
}

#[tokio::test]
async fn abandoned_handshakes_in_the_queue_do_not_delay_later_ones() {
    let stack = Stack::with(with(&[("HANDSHAKES_UNDER_WAY", "1")])).await;
    for _ in 0..200 {
        let mut stream = raw::connect(&stack, None).await;
        stream.write_all(raw::handshake(&stack, "/ws/", 1).as_bytes()).await.unwrap();
    }
    let url = format!("ws://{}/ws/?token={}", stack.host(0), token(2));
    eventually("a handshake after many abandoned ones", || async { Socket::try_connect(&url).await }).await;
}
