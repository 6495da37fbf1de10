//! Runs the commands of `docs/operations.md`.

use crate::{
    guides::{cargo_shim, terminal},
    snippets::OPERATIONS,
    tools,
};
use e2e::{Kind, Options, Stack, eventually};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};

/// Folder of Postgres' programs. `PATH` may have links to only some of them.
fn postgres() -> PathBuf {
    let folder = testkit::provision::postgres(&testkit::provision::print).unwrap();
    folder.join("postgres").canonicalize().unwrap().parent().unwrap().to_owned()
}

/// A terminal in a checkout, with the address of the owner's database.
struct Terminal {
    stack: Stack,
    folder: tempfile::TempDir,
    path: String,
}

impl Terminal {
    async fn run(&self, lines: &str) -> String {
        let owner = self.stack.database.url();
        let lines =
            lines.replace("gateway:9000", self.stack.admin(Kind::Gateway, 0).trim_start_matches("http://"));
        terminal(&self.stack, self.folder.path(), &self.path, &format!("OWNER_URL='{owner}'\n{lines}")).await
    }

    async fn snippet(&self, name: &str) -> String {
        self.run(&OPERATIONS.snippet(name)).await
    }

    /// Runs a snippet in SQL as a superuser.
    async fn sql(&self, name: &str) {
        let options = "--no-psqlrc --set=ON_ERROR_STOP=1";
        self.run(&format!("psql {options} \"$OWNER_URL\" <<'SQL'\n{}SQL\n", OPERATIONS.snippet(name))).await;
    }
}

#[tokio::test]
async fn the_commands_of_operations_work() {
    let subject = "docs/operations.md";
    let mut path = postgres();
    for program in ["psql", "pg_dump", "pg_restore"] {
        let program = path.join(program);
        if let Err(reason) = tools::check_installed(&program.display().to_string(), "--version").await {
            return tools::skip(subject, &reason);
        }
    }
    let nats = tools::nats().await;
    if let Ok(nats) = &nats {
        path = format!("{}:{}", path.display(), nats.display()).into();
    }
    let options = Options { own_postgres: true, roles: true, ..Options::one_of_each() };
    let stack = Stack::with(options).await;
    let folder = tempfile::tempdir().unwrap();
    cargo_shim(folder.path());
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::os::unix::fs::symlink(checkout.join("deploy"), folder.path().join("deploy")).unwrap();
    let mut terminal = Terminal { stack, folder, path: path.display().to_string() };

    // Log level.
    let output = terminal.snippet("log.sh").await;
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["warn", "gateway=debug,info"]);

    // Roles.
    terminal.sql("new-role.sql").await;
    let mut database = PgConnection::connect(&terminal.stack.database.url_as("chat_2")).await.unwrap();
    let roles: (String, String) = sqlx::query_as("select session_user::text, current_user::text")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(roles, ("chat_2".to_owned(), "chat".to_owned()));
    database.close().await.unwrap();
    terminal.sql("statistics.sql").await;

    // Dead letters: 19 events that can't be used. A replayed one becomes a new dead letter.
    let jetstream = async_nats::jetstream::new(terminal.stack.backend().await);
    for index in 0..19 {
        let body = format!("{{\"user_id\": \"{index}\"");
        jetstream.publish("events.payment_completed", body.into()).await.unwrap().await.unwrap();
    }
    eventually("19 dead letters", async || {
        let output = terminal.run("cargo xtask deadletters list --json").await;
        (output.lines().count() == 19).then_some(())
    })
    .await;
    let output = terminal.snippet("deadletters.sh").await;
    assert!(output.contains("2 replayed, 0 left as they were") && output.contains("1 dropped"), "{output}");

    // Backup and restore.
    let conversation = terminal.stack.conversation(&[456, 457]).await;
    let messages = format!("/api/conversations/{conversation}/messages");
    terminal.stack.post(&messages, 456, json!({"message": "Bonjour"})).await.expect(201);
    terminal.snippet("backup.sh").await;
    let streams = OPERATIONS.snippet("streams.sh");
    let (backup, restore) = streams.trim_end().split_once('\n').unwrap();
    match &nats {
        Ok(_) => drop(terminal.run(backup).await),
        Err(reason) => tools::skip("the `nats` commands of docs/operations.md", reason),
    }
    let before = jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
    for kind in Kind::ALL {
        assert_eq!(terminal.stack.terminate(kind, 0).await, Some(0));
    }
    terminal.snippet("restore.sh").await;
    if nats.is_ok() {
        jetstream.delete_stream("EVENTS").await.unwrap();
        terminal.run(restore).await;
        let after = jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
        assert_eq!(after, before);
    }
    for kind in Kind::ALL {
        terminal.stack.restart(kind, 0);
    }
    terminal.stack.ready().await;
    let page = terminal.stack.get(&messages, 457).await;
    assert_eq!(page["items"][0]["content"], "Bonjour");
    // The ids of the lost moment are not used again.
    assert!(terminal.stack.conversation(&[456, 458]).await > conversation + 1);
}

#[test]
fn every_snippet_of_the_page_is_run_by_a_test() {
    let known = [
        "backup.sh",
        "deadletters.sh",
        "log.sh",
        "new-role.sql",
        "restore.sh",
        "statistics.sql",
        "streams.sh",
    ];
    assert_eq!(OPERATIONS.names(), known);
}
