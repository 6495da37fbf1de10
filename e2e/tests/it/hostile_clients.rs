//! The table of hostile clients in `docs/security.md`: the result of each client and its cost in memory.
//!
//! `UPDATE_DOCS=1` rewrites the table. Without it, the test compares the results with the table, but not the memory.

use crate::{
    crowds::{count, memory, with},
    raw::{self, BINARY, CONTINUATION, FIN, PING, PONG, RSV1, TEXT},
};
use e2e::{Kind, Stack, eventually};
use futures_util::future::join_all;
use serde_json::json;
use std::{
    cell::RefCell,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Maximum memory for all copies of one client, in KiB.
const BOUND_KIB: usize = 64 * 1024;
/// Number of copies of most clients.
const COPIES: usize = 50;

/// Rows of the table, in its order.
type Rows = RefCell<Vec<[String; 5]>>;

/// Runs clients on a stack of its own, and adds their rows to the table.
struct Table<'a> {
    stack: Stack,
    chat: String,
    rows: &'a Rows,
}

impl<'a> Table<'a> {
    async fn new(rows: &'a Rows, env: &[(&'static str, &str)]) -> Self {
        let stack = Stack::with(with(env)).await;
        let chat = format!("/ws/chat/{}/", stack.conversation(&[1, 2, 3]).await);
        Self { stack, chat, rows }
    }

    /// Adds a row: runs `copies` of a client at once while two other users chat.
    async fn row(&self, client: &str, copies: usize, run: impl AsyncFn() -> String) {
        let pid = self.stack.pid(Kind::Gateway, 0);
        // Resets the peak, `VmHWM`.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").ok();
        let rest = memory(pid, "VmRSS");
        let open = async |user| self.stack.socket(&self.chat, user).await;
        let (mut ada, mut ben) = (open(1).await, open(2).await);
        let clients = async { join_all((0..copies).map(|_| run())).await };
        tokio::pin!(clients);
        let mut worst = Duration::ZERO;
        let mut chat = async || {
            let started = Instant::now();
            ada.say("undisturbed").await;
            while ben.next().await["content"] != "undisturbed" {}
            while ada.next().await["content"] != "undisturbed" {}
            worst = worst.max(started.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let results = loop {
            let chats = async {
                loop {
                    chat().await
                }
            };
            tokio::select! {
                results = &mut clients => break results,
                () = chats => {}
            }
        };
        let (mut ada, mut ben) = (open(1).await, open(2).await);
        ada.say("still here").await;
        while ben.next().await["content"] != "still here" {}
        for result in &results {
            assert_eq!(*result, results[0], "{client}");
        }
        let cost = memory(pid, "VmHWM").saturating_sub(rest);
        assert!(cost < BOUND_KIB, "{client}: {cost} KiB");
        println!(
            "{client}, {copies}: {}; {cost} KiB; the others' messages took at most {worst:?}",
            results[0]
        );
        let per_client = if cost * 10 < copies {
            "<0.1".to_owned()
        } else {
            format!("{:.1}", cost as f64 / copies as f64)
        };
        self.rows.borrow_mut().push([
            client.to_owned(),
            results[0].clone(),
            copies.to_string(),
            cost.to_string(),
            per_client,
        ]);
    }
}

/// Result of an HTTP client: the status of the response, read until the connection ends.
async fn response(mut stream: TcpStream) -> String {
    let mut response = Vec::new();
    e2e::within("the end of a connection", stream.read_to_end(&mut response)).await.ok();
    let response = String::from_utf8_lossy(&response);
    match response.split(' ').nth(1) {
        Some(status) => format!("HTTP {status}, and the connection ends"),
        None => "the connection ends".to_owned(),
    }
}

/// Result of a WebSocket client: the close code.
async fn closed(mut stream: TcpStream) -> String {
    match raw::closed(&mut stream).await {
        Some(code) => format!("closed with {code}"),
        None => "the connection ends".to_owned(),
    }
}

/// Sends bytes on a new connection.
async fn send(stack: &Stack, bytes: &[u8]) -> TcpStream {
    let mut stream = raw::connect(stack, None).await;
    stream.write_all(bytes).await.ok();
    stream
}

/// Sends each byte in its own write.
async fn send_slowly(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        stream.write_all(&[*byte]).await.ok();
        tokio::task::yield_now().await;
    }
}

/// Clients whose HTTP request or handshake is unusual. Those that wait for a time limit run on the stack with short
/// limits.
async fn requests(table: &Table<'_>, short: &Table<'_>) {
    let stack = &table.stack;
    let head = format!(
        "POST /api/reports HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        stack.host(0),
        e2e::token(3)
    );
    let long = "x".repeat(100_000);
    for (client, request) in [
        ("connects and sends nothing (`HEAD_SECONDS`)", String::new()),
        ("sends a head that doesn't end (`HEAD_SECONDS`)", "GET / HTTP/1.1\r\nx: ".to_owned()),
        ("sends a head of 100 KB (`HEAD_BYTES`)", format!("GET / HTTP/1.1\r\nx: {long}")),
        ("sends a body of 100 KB (`BODY_BYTES`)", format!("{head}content-length: 100000\r\n\r\n{long}")),
        (
            "announces a body and doesn't send it (`BODY_SECONDS`)",
            format!("{head}content-length: 9\r\n\r\n{{"),
        ),
        (
            "smuggles a request: both `Content-Length` and `Transfer-Encoding`",
            format!(
                "{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            ),
        ),
        (
            "smuggles a request: two `Content-Length`s",
            format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}   "),
        ),
    ] {
        let table = if client.contains("_SECONDS`") { short } else { table };
        table
            .row(client, COPIES, async || response(send(&table.stack, request.as_bytes()).await).await)
            .await;
    }
    let upgrade = raw::handshake(stack, "/ws/notifications/", 3);
    let ping = raw::frame(FIN | PING, b"hi");
    table
        .row("sends its handshake and a ping byte by byte", COPIES, async || {
            let mut stream = raw::connect(stack, None).await;
            send_slowly(&mut stream, upgrade.as_bytes()).await;
            raw::head(&mut stream).await;
            send_slowly(&mut stream, &ping).await;
            ping_result(&mut stream).await
        })
        .await;
    table
        .row("sends frames directly after its handshake, before the response", COPIES, async || {
            let mut stream = send(stack, &[upgrade.as_bytes(), &ping].concat()).await;
            raw::head(&mut stream).await;
            ping_result(&mut stream).await
        })
        .await;
    let forged = upgrade.replace("token=", "token=x");
    table
        .row("has a token that is not valid", COPIES, async || {
            let mut stream = send(stack, forged.as_bytes()).await;
            raw::head(&mut stream).await;
            closed(stream).await
        })
        .await;
}

/// Result of a client that sent a ping.
async fn ping_result(stream: &mut TcpStream) -> String {
    loop {
        match raw::next(stream).await {
            Some((PONG, payload)) if payload == b"hi" => return "is served".to_owned(),
            Some((TEXT, _)) => {} // A notification.
            _ => return "is not served".to_owned(),
        }
    }
}

/// Clients that violate the protocol after the handshake.
async fn frames(table: &Table<'_>) {
    let (stack, chat) = (&table.stack, &table.chat);
    let fragment = raw::frame(TEXT, b"x");
    let mut endless = fragment.clone();
    let more = raw::frame(CONTINUATION, &[b'x'; 1_000]);
    endless.extend(std::iter::repeat_n(more, 66).flatten());
    for (client, bytes) in [
        ("sends a message of 64 KiB and one byte (`FRAME_BYTES`)", raw::frame(FIN | TEXT, &[b'x'; 65_537])),
        ("announces a frame of 4 EiB", raw::header(FIN | TEXT, 1 << 62, true)),
        ("sends a message in fragments that never end", endless),
        ("doesn't mask its frames", [raw::header(FIN | TEXT, 2, false), b"hi".to_vec()].concat()),
        ("uses an unknown opcode, 3", raw::frame(FIN | 0x3, b"hi")),
        ("uses an unknown opcode, 11", raw::frame(FIN | 0xB, b"hi")),
        ("compresses without negotiation (RSV1)", raw::frame(FIN | RSV1 | TEXT, b"hi")),
        ("sends a ping in fragments", raw::frame(PING, b"hi")),
        ("sends a ping of 126 bytes", raw::frame(FIN | PING, &[b'x'; 126])),
        ("continues a message that it hasn't begun", raw::frame(FIN | CONTINUATION, b"hi")),
        ("begins a message within a message", [fragment.clone(), fragment].concat()),
        ("closes with a reserved code, 1005", raw::frame(FIN | raw::CLOSE, &1005_u16.to_be_bytes())),
        ("sends invalid UTF-8 in a text frame", raw::frame(FIN | TEXT, b"\xff\xfe")),
        ("sends a binary frame", raw::frame(FIN | BINARY, b"hi")),
    ] {
        table
            .row(client, COPIES, async || {
                let mut stream = raw::open(stack, chat, 3, None).await;
                stream.write_all(&bytes).await.ok();
                closed(stream).await
            })
            .await;
    }
    let deep = raw::frame(FIN | TEXT, "[".repeat(60_000).as_bytes());
    table
        .row("nests JSON 60,000 deep", COPIES, async || {
            let mut stream = raw::open(stack, "/ws/typing/1/", 3, None).await;
            stream.write_all(&deep).await.unwrap();
            let (_, payload) = raw::next(&mut stream).await.unwrap();
            let error: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            format!("error `{}`; the socket stays open", error["code"].as_str().unwrap_or_default())
        })
        .await;
    table
        .row("subscribes to 1,000 channels", 1, async || {
            let mut socket = stack.socket("/ws/", 3).await;
            for id in 1..=1_000 {
                socket.send(json!({"op": "subscribe", "channel": format!("chat/{id}"), "ref": id})).await;
            }
            let mut refused = 0;
            for _ in 0..1_000 {
                refused += usize::from(socket.next().await["op"] == "error");
            }
            assert!(refused >= 999 - 128);
            "an error for each channel of others; the socket stays open".to_owned()
        })
        .await;
}

/// Clients that don't respond or don't read.
async fn quiet(table: &Table<'_>) {
    let (stack, chat) = (&table.stack, &table.chat);
    table
        .row("never answers a ping (`IDLE_SECONDS`)", COPIES, async || {
            closed(raw::open(stack, "/ws/notifications/", 3, None).await).await
        })
        .await;
    let silent = async || {
        let metrics = stack.metrics(Kind::Gateway, 0).await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("gateway_silent_clients_total"));
        line.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or_default()
    };
    let before = silent().await;
    table
        .row("disappears without closing its connection (`IDLE_SECONDS`)", COPIES, async || {
            let _stream = raw::open(stack, "/ws/notifications/", 3, Some(4_096)).await;
            eventually("silent sockets to be closed", || async {
                (silent().await >= before + COPIES).then_some(())
            })
            .await;
            "closed with 1013".to_owned()
        })
        .await;
    table
        .row("closes its half of the connection and continues to read", COPIES, async || {
            let mut stream = raw::open(stack, "/ws/notifications/", 3, None).await;
            stream.shutdown().await.unwrap();
            closed(stream).await
        })
        .await;
    let text = "x".repeat(4_000);
    table
        .row("reads nothing of a busy conversation, on 50 sockets (`OUTBOX_BYTES`)", 1, async || {
            let sockets = join_all((0..COPIES).map(|_| raw::open(stack, chat, 3, Some(4_096)))).await;
            let mut sender = stack.socket(chat, 1).await;
            let closed = async || {
                let metrics = stack.metrics(Kind::Gateway, 0).await;
                let name = r#"gateway_closes_total{code="1013"}"#;
                let line = metrics.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or_default()
            };
            let before = closed().await;
            // The outbox is full, or, on a slow machine, the client has been silent for too long.
            while closed().await < before + sockets.len() {
                sender.say(&text).await;
                while sender.next().await["content"] != text {}
            }
            "closed with 1013".to_owned()
        })
        .await;
}

/// Many idle sockets, and one client that floods a conversation.
async fn many(table: &Table<'_>) {
    let stack = &table.stack;
    let idle = count("HOSTILE_IDLE", 1_000);
    table
        .row("opens many sockets and sends nothing", 1, async || {
            let mut sockets = Vec::new();
            while sockets.len() < idle {
                let open = (0..100).map(|_| raw::open(stack, "/ws/notifications/", 3, None));
                sockets.extend(join_all(open).await);
            }
            format!("is served: {idle} sockets")
        })
        .await;
    table
        .row("sends messages as fast as it can (`SEND_RATE`)", 1, async || {
            let mut stream = raw::open(stack, &table.chat, 3, None).await;
            let frame = raw::frame(FIN | TEXT, br#"{"message": "buy my coins"}"#);
            for _ in 0..200 {
                stream.write_all(&frame).await.ok();
            }
            format!("error `rate_limited`; after 100 errors {}", closed(stream).await)
        })
        .await;
}

const BEGIN: &str = "<!-- hostile clients: written by the test -->\n";
const END: &str = "<!-- end -->";

#[tokio::test]
async fn every_hostile_client_gets_the_documented_result_at_a_bounded_cost() {
    let sizes = [("SOCKETS_PER_USER", "20000"), ("OUTBOX_BYTES", "131072")];
    let short_times = [("HEAD_SECONDS", "2"), ("BODY_SECONDS", "2"), ("IDLE_SECONDS", "2")];
    let long_times = [("HEAD_SECONDS", "30"), ("BODY_SECONDS", "30")];
    let rows = Rows::default();
    let short = Table::new(&rows, &[&sizes[..], &short_times[..]].concat()).await;
    // Clients that are slow only because the machine is must not exceed a time limit.
    let table = Table::new(&rows, &[&sizes[..], &long_times[..]].concat()).await;
    requests(&table, &short).await;
    frames(&table).await;
    drop(table);
    quiet(&short).await;
    drop(short);
    let rates = [("SOCKETS_PER_USER", "20000"), ("SEND_RATE", "10"), ("SEND_BURST", "40")];
    let table = Table::new(&rows, &rates).await;
    many(&table).await;
    drop(table);
    let rows = rows.into_inner();

    let mut text =
        "| a client that | result | clients | memory, KiB | per client |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    for row in &rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let content = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = content.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, format!("{before}{BEGIN}{text}{END}{after}")).unwrap();
        return;
    }
    // Without the number of idle sockets, which depends on `HOSTILE_IDLE`.
    let results = |line: &str| {
        line.split(" | ").take(2).map(|cell| cell.split(':').next().unwrap().to_owned()).collect()
    };
    let lines = |table: &str| -> Vec<Vec<String>> { table.lines().map(results).collect() };
    assert_eq!(
        lines(&text),
        lines(written),
        "the table in docs/security.md is outdated; UPDATE_DOCS=1 rewrites it"
    );
}
