//! Autobahn's test suite, as `kosoku` runs it, against an echo over our own socket. There is no such endpoint elsewhere.

use super::{Frame, Item, Socket};
use bytes::Bytes;
use contract::{Close, limits};
use serde_json::Value;
use std::{
    fs::{self, File},
    future::poll_fn,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    task::Poll,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const KOSOKU: &str = "kosoku==0.1.0";
/// What is not run: performance, and compression, which is not offered.
const EXCLUDED: [&str; 3] = ["9.*", "12.*", "13.*"];
/// Cases that send binary messages to have them back. The contract closes such a socket with 1003.
const BINARY: [&str; 8] = ["1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5", "1.2.6", "1.2.7", "1.2.8"];

#[tokio::test(flavor = "multi_thread")]
async fn autobahn_finds_nothing_wrong_except_that_binary_is_refused() {
    let kosoku = match tokio::task::spawn_blocking(kosoku).await.unwrap() {
        Ok(kosoku) => kosoku,
        Err(why) => return skip(why.trim()),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            tokio::spawn(echo(listener.accept().await.unwrap().0));
        }
    });
    let index = tokio::task::spawn_blocking(move || run(&kosoku, &address)).await.unwrap();
    server.abort();

    let cases = index.as_object().unwrap().values().next().unwrap().as_object().unwrap();
    let is = |case: &Value, kind: &str| case["behavior"] == kind && case["behaviorClose"] == kind;
    let (mut ok, mut informational, mut wrong) = (0, 0, Vec::new());
    for (id, case) in cases {
        match case {
            case if is(case, "OK") => ok += 1,
            case if is(case, "INFORMATIONAL") => informational += 1,
            case => wrong.push((id.as_str(), case["remoteCloseCode"].as_u64())),
        }
    }
    let refused: Vec<_> = BINARY.iter().map(|id| (*id, Some(1003))).collect();
    assert_eq!((wrong, informational, ok), (refused, 3, 236));
}

/// Answers the handshake, and then every message with itself.
async fn echo(mut stream: TcpStream) {
    let (mut head, end) = (Vec::new(), b"\r\n\r\n");
    let end = loop {
        if let Some(at) = head.windows(end.len()).position(|bytes| bytes == end) {
            break at + end.len();
        }
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            return;
        }
    };
    let text = String::from_utf8(head[..end].to_vec()).unwrap();
    let mut key = text.lines().filter_map(|line| line.split_once(": "));
    let key = key.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).unwrap().1;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut socket = Socket::new(stream, Bytes::copy_from_slice(&head[end..]), limits::FRAME_BYTES);
    let close = loop {
        let item = poll_fn(|cx| match socket.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(Close::Normal)),
            _ => socket.poll_next(cx),
        });
        match item.await {
            Ok(Item::Text(text)) => socket.queue(Frame::text(&text)),
            Ok(Item::Ping(_) | Item::Pong) => {}
            Ok(Item::Close) => break Close::Normal,
            Err(close) => break close,
        }
    };
    socket.goodbye(close).await;
}

/// The index of its report.
fn run(kosoku: &Path, address: &str) -> Value {
    let report = kosoku.join("report");
    fs::remove_dir_all(&report).ok();
    let mut command = Command::new(kosoku.join("bin/kosoku"));
    command.env("PYTHONPATH", kosoku).args(["--parallelism", "16", "--outdir"]).arg(&report);
    command.args(EXCLUDED.iter().flat_map(|cases| ["--exclude", cases])).arg(address);
    let output = command.output().unwrap(); // It ends with an error where a case fails.
    let index = fs::read(report.join("index.json"));
    let index = index.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_slice(&index).unwrap()
}

/// Where it is installed, once, below cargo's target folder.
fn kosoku() -> Result<PathBuf, String> {
    let io = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(io)?;
    let place = program.ancestors().nth(3).expect("the target folder").join("tools/autobahn");
    fs::create_dir_all(&place).map_err(io)?;
    let lock = File::create(place.join(".lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let done = place.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == KOSOKU) {
        return Ok(place);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    let output = pip.arg("--target").arg(&place).arg(KOSOKU).output().map_err(io)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::write(done, KOSOKU).map_err(io)?;
    Ok(place)
}

/// Says loudly that it was not run.
fn skip(why: &str) {
    // Not captured, as what a test prints is.
    std::io::stderr()
        .write_all(format!("\n*** SKIPPED: Autobahn's test suite: {why} ***\n\n").as_bytes())
        .ok();
}
