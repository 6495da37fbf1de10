use crate::is_notified;
use e2e::{Kind, Options, Stack};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use std::{io::Write, path::PathBuf, process::Command};

/// Where the programs of Postgres really are: what is on `PATH` may be a link to some of them.
fn folder() -> PathBuf {
    let folder = testkit::provision::postgres(&testkit::provision::print).unwrap();
    folder.join("postgres").canonicalize().unwrap().parent().unwrap().to_owned()
}

/// Runs one of Postgres' own programs, on this database.
fn run(program: &str, arguments: &[&str], stack: &Stack) -> Vec<u8> {
    let output =
        Command::new(folder().join(program)).args(arguments).arg(stack.database.url()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

async fn history(stack: &Stack, id: i64) -> (Value, Value, Value) {
    let messages = stack.get(&format!("/api/conversations/{id}/messages"), 2).await;
    (messages, stack.get("/api/notifications", 2).await, stack.get("/api/unread", 2).await)
}

/// As `docs/operations.md` has it: Postgres from a dump, and a NATS that has lost everything.
#[tokio::test]
async fn a_dump_of_postgres_and_an_empty_nats_bring_everything_back() {
    let folder = folder();
    if !folder.join("pg_dump").is_file() || !folder.join("pg_restore").is_file() {
        std::io::stderr()
            .write_all(b"\n*** SKIPPED: backup and restore: no pg_dump beside this Postgres ***\n")
            .ok();
        return;
    }
    let mut stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket(&path, 1).await;
    for text in ["one", "two", "three"] {
        ada.say(text).await;
        ada.next().await;
    }
    let paid = r#"{"user_id":2,"data":{"payment_id":789}}"#;
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", paid.into()).await.unwrap();
    is_notified(&stack, 2, 2, 3).await;
    let before = history(&stack, id).await;

    let dump = run("pg_dump", &["--format=custom", "--schema=chat", "--schema=notify", "--dbname"], &stack);
    for kind in Kind::ALL {
        assert_eq!(stack.terminate(kind, 0).await, Some(0));
    }
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    database.execute("drop schema chat, notify cascade").await.unwrap();
    stack.nats.kill().await;
    std::fs::remove_dir_all(stack.nats.folder().join("data")).unwrap();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    run("pg_restore", &["--exit-on-error", file.path().to_str().unwrap(), "--dbname"], &stack);
    // What clients have seen since the dump keeps its id for itself.
    let raise = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/postgres/after-restore.sql");
    database.execute(sqlx::AssertSqlSafe(std::fs::read_to_string(raise).unwrap())).await.unwrap();
    stack.nats.restart().await.unwrap();
    for kind in Kind::ALL {
        stack.restart(kind, 0);
    }
    stack.ready().await;

    assert_eq!(history(&stack, id).await, before);
    let last = before.0["items"][0]["message_id"].as_i64().unwrap();
    let mut ben = stack.socket(&format!("{path}?after={last}"), 2).await;
    stack.post(&format!("/api/conversations/{id}/messages"), 1, json!({"message": "four"})).await.expect(201);
    let four = ben.next_of("message").await;
    assert_eq!(four["seq"], 4);
    assert!(four["message_id"].as_i64().unwrap() > last + 1_000_000);
    assert!(stack.conversation(&[1, 3]).await > id + 1_000_000);
    // The stream counts from 1 again, and its first event is none of before.
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", paid.into()).await.unwrap();
    is_notified(&stack, 2, 3, 4).await;
}
