//! The Autobahn test suite, run by `kosoku` against an echo server over our socket. The echo server exists only here.

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
/// Excluded cases: performance, and compression, which we do not support.
const EXCLUDED: [&str; 3] = ["9.*", "12.*", "13.*"];
/// Cases that expect the echo of a binary message. The contract closes such a socket with 1003.
const BINARY: [&str; 8] = ["1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5", "1.2.6", "1.2.7", "1.2.8"];

#[tokio::test(flavor = "multi_thread")]
async fn autobahn_passes_except_that_binary_messages_are_refused() {
    let kosoku = match tokio::task::spawn_blocking(install).await.unwrap() {
        Ok(kosoku) => kosoku,
        Err(reason) => return skip(reason.trim()),
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
    let (mut ok, mut informational, mut failed) = (0, 0, Vec::new());
    for (id, case) in cases {
        match case {
            case if is(case, "OK") => ok += 1,
            case if is(case, "INFORMATIONAL") => informational += 1,
            case => failed.push((id.as_str(), case["remoteCloseCode"].as_u64())),
        }
    }
    let refused: Vec<_> = BINARY.iter().map(|id| (*id, Some(1003))).collect();
    assert_eq!((failed, informational, ok), (refused, 3, 236));
}

/// Answers the handshake, and then returns every message.
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
    socket.close(close).await;
}

/// Runs the suite. Returns the index of its report.
fn run(kosoku: &Path, address: &str) -> Value {
    let report = kosoku.join("report");
    fs::remove_dir_all(&report).ok();
    let mut command = Command::new(kosoku.join("bin/kosoku"));
    command.env("PYTHONPATH", kosoku).args(["--parallelism", "16", "--outdir"]).arg(&report);
    command.args(EXCLUDED.iter().flat_map(|cases| ["--exclude", cases])).arg(address);
    let output = command.output().unwrap(); // The exit code is an error if a case fails.
    let index = fs::read(report.join("index.json"));
    let index = index.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_slice(&index).unwrap()
}

/// Installs kosoku in cargo's target folder, unless it is there. Returns its folder.
fn install() -> Result<PathBuf, String> {
    let io = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(io)?;
    let folder = program.ancestors().nth(3).expect("the target folder").join("tools/autobahn");
    fs::create_dir_all(&folder).map_err(io)?;
    let lock = File::create(folder.join(".lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let done = folder.join(".installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == KOSOKU) {
        return Ok(folder);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    let output = pip.arg("--target").arg(&folder).arg(KOSOKU).output().map_err(io)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::write(done, KOSOKU).map_err(io)?;
    Ok(folder)
}

/// Reports that the suite was not run.
fn skip(reason: &str) {
    // Written directly, because the test harness captures `eprintln!`.
    std::io::stderr()
        .write_all(format!("\n*** SKIPPED: Autobahn's test suite: {reason} ***\n\n").as_bytes())
        .ok();
}
