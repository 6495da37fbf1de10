use crate::wait_for_unread;
use e2e::{Kind, Options, Stack};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use std::{io::Write, path::PathBuf, process::Command};

/// Folder of Postgres' programs. `PATH` may have links to only some of them.
fn folder() -> PathBuf {
    let folder = testkit::provision::postgres(&testkit::provision::print).unwrap();
    folder.join("postgres").canonicalize().unwrap().parent().unwrap().to_owned()
}

/// Runs a program of Postgres on the stack's database.
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

/// Follows `docs/operations.md`: restores Postgres from a dump while NATS has lost all data.
#[tokio::test]
async fn restoring_a_dump_with_an_empty_nats_loses_no_data() {
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
    wait_for_unread(&stack, 2, 2, 3).await;
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
    // Ids that clients received after the dump are not assigned again.
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
    // The stream's sequence starts at 1 again. Its first event must not count as a repeat of an earlier one.
    let backend = stack.backend().await;
    backend.publish("events.payment_completed", paid.into()).await.unwrap();
    wait_for_unread(&stack, 2, 3, 4).await;
}
