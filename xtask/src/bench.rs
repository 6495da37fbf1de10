//! `cargo xtask bench-check`

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use e2e::{Kind, Options, Stack};
use serde::{Deserialize, Serialize};
use testkit::place;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::build;

/// File with the committed measurements.
const MEASUREMENTS_FILE: &str = "gateway/benches/hot.json";
/// Maximum ratio of a measurement to its committed value.
const MAX_RATIO: f64 = 1.10;
/// Number of operations in a shorter and a longer run. The difference between the runs is measured.
const OPERATIONS: [u64; 2] = [100, 600];
/// Number of idle sockets in the memory measurement, and of those that warm the gateway up before it.
const SOCKETS: usize = 4_000;
const WARM_UP: usize = 400;
/// Number of two-person conversations that the sockets join.
const CONVERSATIONS: usize = 40;

/// Check for regressions: instructions of the hot functions, and memory of an idle socket
///
/// Fails if one of them exceeds its value in gateway/benches/hot.json by more than 10%. Instructions are counted by
/// valgrind, so other load on the machine doesn't matter.
#[derive(Args)]
pub struct BenchCheck {
    /// Write the measurements to the file instead of checking them
    #[arg(long)]
    update: bool,
    /// Only count instructions; build and start nothing else
    #[arg(long)]
    no_memory: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Figures {
    /// Instructions of each operation.
    instructions: BTreeMap<String, u64>,
    /// Gateway memory per idle socket, with a hundred sockets on each conversation.
    bytes_per_socket: Option<u64>,
}

impl BenchCheck {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let file = place::workspace().join(MEASUREMENTS_FILE);
        let before: Figures = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {MEASUREMENTS_FILE}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Figures::default(),
            Err(error) => return Err(error).with_context(|| format!("read {MEASUREMENTS_FILE}")),
        };
        let mut now = Figures::default();
        for program in benchmarks().await? {
            for name in names(&program).await? {
                let count = instructions(&program, &name).await?;
                now.instructions.insert(name, count);
            }
        }
        now.bytes_per_socket =
            if self.no_memory { before.bytes_per_socket } else { Some(bytes_per_socket().await?) };
        let grown = compare(&before, &now);
        if self.update {
            fs::write(&file, serde_json::to_string_pretty(&now)? + "\n")
                .with_context(|| format!("write {MEASUREMENTS_FILE}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if grown.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("grown by more than 10%, or not measured before: {}", grown.join(", "));
        eprintln!("to accept the new values: cargo xtask bench-check --update");
        Ok(ExitCode::FAILURE)
    }
}

/// Prints old and new value of each measurement, and returns the names of those that have grown too much or are new.
fn compare<'a>(before: &Figures, now: &'a Figures) -> Vec<&'a str> {
    let operations = now
        .instructions
        .iter()
        .map(|(name, now)| (name.as_str(), before.instructions.get(name).copied(), *now));
    let socket = now.bytes_per_socket.map(|now| ("bytes_per_socket", before.bytes_per_socket, now));
    println!("| measurement | before | now | |\n| --- | ---: | ---: | ---: |");
    let mut grown = Vec::new();
    for (name, before, now) in operations.chain(socket) {
        let Some(before) = before else {
            println!("| {name} | none | {now} | |");
            grown.push(name);
            continue;
        };
        let ratio = now as f64 / before as f64;
        println!("| {name} | {before} | {now} | {:+.1}% |", (ratio - 1.0) * 100.0);
        if ratio > MAX_RATIO {
            grown.push(name);
        }
    }
    grown
}

/// Names of the operations in the benchmark program.
async fn names(program: &Path) -> anyhow::Result<Vec<String>> {
    let listed = Command::new(program).arg("--names").output().await.context("run the benchmarks")?;
    ensure!(listed.status.success(), "the benchmark program did not list its operations");
    Ok(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect())
}

/// Builds the benchmark programs.
async fn benchmarks() -> anyhow::Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["bench", "--no-run", "--package=gateway", "--package=notify-service", "--bench=hot"])
        .arg("--features=gateway/bench,notify-service/bench")
        .arg("--message-format=json-render-diagnostics")
        .current_dir(place::workspace())
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .context("run cargo")?;
    ensure!(built.status.success(), "the build failed");
    let programs: Vec<PathBuf> = String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| line["target"]["name"] == "hot")
        .filter_map(|line| line["executable"].as_str().map(PathBuf::from))
        .collect();
    ensure!(!programs.is_empty(), "cargo did not print the paths of the benchmark programs");
    Ok(programs)
}

/// Number of instructions of one operation.
async fn instructions(program: &Path, name: &str) -> anyhow::Result<u64> {
    let mut counts = [0; 2];
    for (count, times) in counts.iter_mut().zip(OPERATIONS) {
        let ran = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["--count", name, &times.to_string()])
            .output()
            .await
            .context("run valgrind, which counts instructions (Debian: apt-get install valgrind)")?;
        let output = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{name} failed under valgrind:\n{output}");
        let collected = output.lines().find_map(|line| line.split_once("Collected : "));
        *count = collected.context("valgrind did not print a count")?.1.trim().parse::<u64>()?;
    }
    Ok((counts[1] - counts[0]) / (OPERATIONS[1] - OPERATIONS[0]))
}

/// Gateway memory per idle socket.
async fn bytes_per_socket() -> anyhow::Result<u64> {
    let programs = build::programs(true).await?;
    let env = vec![("HANDSHAKE_RATE", "0".to_owned()), ("RUST_LOG", "error".to_owned())];
    let on_line = std::sync::Arc::new(|_: &str, _: &str| ());
    let options = Options { env, programs: Some(programs), on_line, ..Options::default() };
    let stack = Stack::with(options).await;
    let mut conversations = Vec::new();
    for pair in 0..CONVERSATIONS as i64 {
        let users = [2 * pair + 1, 2 * pair + 2];
        conversations.push((stack.conversation(&users).await, users));
    }
    let open = async |index: usize| {
        let (conversation, users) = conversations[index % CONVERSATIONS];
        open(&stack, conversation, users[index / CONVERSATIONS % 2]).await
    };
    let mut sockets = Vec::new();
    for index in 0..WARM_UP {
        sockets.push(open(index).await?);
    }
    let before = resident(stack.pid(Kind::Gateway, 0))?;
    for index in WARM_UP..WARM_UP + SOCKETS {
        sockets.push(open(index).await?);
    }
    // Temporary memory of the handshakes is released by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = resident(stack.pid(Kind::Gateway, 0))?;
    Ok(after.saturating_sub(before) / SOCKETS as u64)
}

/// Opens a socket that sends and reads nothing. Nothing is sent to it either.
async fn open(stack: &Stack, conversation: i64, user: i64) -> anyhow::Result<TcpStream> {
    let host = stack.host(0);
    let mut stream = TcpStream::connect(&host).await.context("connect to the gateway")?;
    let token = e2e::token(user);
    let request = format!(
        "GET /ws/chat/{conversation}/ HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Authorization: Bearer {token}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = [0; 12];
    stream.read_exact(&mut response).await.context("read the response to a handshake")?;
    if &response != b"HTTP/1.1 101" {
        bail!("unexpected reply to a handshake: {}", String::from_utf8_lossy(&response));
    }
    Ok(stream)
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read a process' memory")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find the resident memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("parse the resident memory")?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growth_of_more_than_ten_percent_is_reported() {
        let figures = |parse, encode, socket| Figures {
            instructions: [("parse".to_owned(), parse), ("encode".to_owned(), encode)].into(),
            bytes_per_socket: Some(socket),
        };
        let before = figures(1_000, 1_000, 2_000);
        assert!(compare(&before, &figures(1_100, 500, 2_200)).is_empty());
        assert_eq!(compare(&before, &figures(1_101, 1_000, 2_201)), ["parse", "bytes_per_socket"]);
        assert_eq!(compare(&Figures::default(), &before).len(), 3, "nothing to compare with");
    }
}
