//! A child ends with its parent.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use testkit::{NatsServer, Output, Postgres, Program, Signal};

use crate::answers;
use testkit::eventually;

#[tokio::test]
async fn servers_and_their_data_are_removed_after_their_parent_is_killed() {
    // This test binary, running only the test below.
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "child::a_parent_that_never_stops"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = |key: &str| lines.find_map(|line| Some(line.split_once(key)?.1.to_owned())).unwrap();
    let (nats, nats_folder) = (next("nats at "), next("in "));
    let (postgres, postgres_folder) = (next("postgres at "), next("in "));
    assert!(answers(&nats) && answers(&postgres));
    assert!(Path::new(&nats_folder).exists() && Path::new(&postgres_folder).exists());

    parent.kill().unwrap(); // That is -9.
    parent.wait().unwrap();

    eventually("nats-server is gone", async || !answers(&nats)).await;
    eventually("postgres is gone", async || !answers(&postgres)).await;
    eventually("the data of nats-server is gone", async || !Path::new(&nats_folder).exists()).await;
    eventually("the data of postgres is gone", async || !Path::new(&postgres_folder).exists()).await;
}

#[tokio::test]
#[ignore = "started by the test above, which kills it"]
async fn a_parent_that_never_stops() {
    let nats = NatsServer::start().await.unwrap();
    println!("\nnats at {}\nin {}", nats.url(), nats.folder().display());
    let postgres = Postgres::start().await.unwrap();
    println!("postgres at {}\nin {}", postgres.url("postgres"), postgres.folder().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_dropped_child_is_gone() {
    let nats = NatsServer::start().await.unwrap();
    let (url, folder) = (nats.url(), nats.folder().to_path_buf());
    drop(nats);
    assert!(!answers(&url));
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_child_that_ignores_the_stop_signal_is_killed() {
    let (child, output) = shell("trap '' TERM; echo deaf; while :; do read -r line; done");
    eventually("it ignores SIGTERM", async || *output.lock().unwrap() == ["deaf"]).await;
    let status = child.terminate(Signal::Term, Duration::from_millis(50)).await.unwrap();
    assert!(!status.success());
    assert!(!child.is_running());
}

#[tokio::test]
async fn a_child_that_stops_on_the_signal_is_not_killed() {
    let (child, output) = shell("trap 'echo bye; exit 7' TERM; echo here; while :; do :; done");
    eventually("it is ready", async || !output.lock().unwrap().is_empty()).await;
    let status = child.terminate(Signal::Term, Duration::from_secs(20)).await.unwrap();
    assert_eq!(status.code(), Some(7));
    eventually("its last line is received", async || *output.lock().unwrap() == ["here", "bye"]).await;
}

#[tokio::test]
async fn a_missing_program_is_an_error() {
    assert!(Program::new("/nowhere/at-all").spawn().is_err());
    assert!(Program::new("no-such-program-on-path").spawn().is_err());
}

/// A shell that runs `script`, and the lines of its output.
fn shell(script: &str) -> (testkit::Child, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&lines);
    let output = Output::Lines(Arc::new(move |line| received.lock().unwrap().push(line.to_owned())));
    (Program::new("sh").args(["-c", script]).output(output).spawn().unwrap(), lines)
}
