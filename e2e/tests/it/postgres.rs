//! Migrations, failovers, roles, TLS and a pooler of Postgres.

use crate::events_out::Events;
use e2e::{Kind, Options, Stack, eventually};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::{
    collections::HashMap,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Output,
};
use testkit::{Postgres, PostgresOptions, TestDatabase, pgbouncer::create_roles, provision::has_programs};
use tokio::process::Command;

#[tokio::test]
async fn a_service_starts_on_a_schema_of_a_later_release() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    for schema in ["chat", "notify"] {
        let later = format!(
            "insert into {schema}._sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of a later release', true, '', 0)"
        );
        postgres.execute(sqlx::AssertSqlSafe(later)).await.unwrap();
    }
    for kind in [Kind::Chat, Kind::Notify] {
        stack.kill(kind, 0).await;
        stack.restart(kind, 0);
    }
    stack.ready().await;
}

#[tokio::test]
async fn a_migration_of_one_service_does_not_delay_another() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let lock = "select pg_advisory_lock(hashtext('vyzio'), hashtext('notify'))";
    postgres.execute(lock).await.unwrap();
    for kind in [Kind::Chat, Kind::Notify] {
        stack.kill(kind, 0).await;
        stack.restart(kind, 0);
    }
    let is_ready = async |stack: &Stack, kind| (stack.readyz(kind, 0).await == Some(200)).then_some(());
    eventually("chat-service to be ready", || is_ready(&stack, Kind::Chat)).await;
    assert_eq!(stack.readyz(Kind::Notify, 0).await, Some(503));
    postgres.close().await.unwrap();
    eventually("notify-service to be ready", || is_ready(&stack, Kind::Notify)).await;
}

#[tokio::test]
async fn after_a_failover_services_drop_connections_to_the_read_only_server() {
    let stack = Stack::with(Options { own_postgres: true, ..Options::one_of_each() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    ada.say("before").await;
    let message_id = ada.next().await["message_id"].clone();
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let reconnect = "select pg_terminate_backend(pid) from pg_stat_activity
                     where pid <> pg_backend_pid() and datname = current_database()";
    postgres.execute("alter role current_user set default_transaction_read_only = on").await.unwrap();
    postgres.execute(reconnect).await.unwrap();
    for kind in [Kind::Chat, Kind::Notify] {
        let is_unready = || async { (stack.readyz(kind, 0).await == Some(503)).then_some(()) };
        eventually("a service to be unready", is_unready).await;
    }
    // Requests fill the pools with connections to the read-only server.
    ada.say("refused").await;
    assert_eq!(ada.next().await["code"], "unavailable");
    for _ in 0..20 {
        stack.get(&format!("/api/conversations/{id}/messages"), 1).await;
        stack.get("/api/notifications", 1).await;
    }
    postgres.execute("set default_transaction_read_only = off").await.unwrap();
    postgres.execute("alter role current_user reset default_transaction_read_only").await.unwrap();
    // From here on, only new connections can write.
    stack.ready().await;
    for _ in 0..10 {
        let path = format!("/api/conversations/{id}/read");
        stack.post(&path, 2, serde_json::json!({"message_id": message_id})).await.expect(204);
    }
    ada.say("after").await;
    assert_eq!(ada.next_of("message").await["seq"], 2);
}

#[tokio::test]
async fn a_job_can_migrate_a_schema_before_its_service_starts() {
    let database = TestDatabase::create().await.unwrap();
    for kind in [Kind::Chat, Kind::Notify] {
        for attempt in 1..=2 {
            let output = migrate(kind, &database.url()).await;
            assert!(output.status.success(), "{kind:?}, attempt {attempt}: {output:?}");
        }
    }
    let mut postgres = PgConnection::connect(&database.url()).await.unwrap();
    let tables = "select count(*) from pg_tables where tablename = '_sqlx_migrations'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut postgres).await.unwrap(), 2);
}

/// Runs the command `migrate` of a service.
async fn migrate(kind: Kind, url: &str) -> Output {
    let mut migrate = Command::new(e2e::binary(kind.program()).unwrap());
    migrate.arg("migrate").env("DATABASE_URL", url).env_remove("DATABASE_DIRECT_URL");
    migrate.output().await.unwrap()
}

#[tokio::test]
async fn the_roles_can_be_created_by_an_owner_who_is_no_superuser() {
    if !has_programs(&["psql"]) {
        return;
    }
    let server = Postgres::start().await.unwrap();
    let database = TestDatabase::create_on(server.url("postgres")).await.unwrap();
    let mut superuser = PgConnection::connect(&database.url()).await.unwrap();
    let owner =
        format!("create role owner login createrole; alter database {} owner to owner", database.name());
    superuser.execute(AssertSqlSafe(owner)).await.unwrap();
    create_roles(&database.url_as("owner")).unwrap();
    for (kind, role) in [(Kind::Chat, "chat"), (Kind::Notify, "notify")] {
        let output = migrate(kind, &database.url_as(role)).await;
        assert!(output.status.success(), "{output:?}");
    }
    let mut chat = PgConnection::connect(&database.url_as("chat")).await.unwrap();
    chat.execute("select count(*) from messages").await.unwrap();
    for denied in
        ["select count(*) from notify.inboxes", "create schema other", "create temporary table t ()"]
    {
        let error = chat.execute(denied).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        assert_eq!(code, "42501", "{denied}: {error}");
    }
    // The owner can't act as a service.
    let mut owner = PgConnection::connect(&database.url_as("owner")).await.unwrap();
    owner.execute("set role chat").await.unwrap_err();
}

#[tokio::test]
async fn services_work_behind_a_pooler_in_transaction_mode() {
    if !has_programs(&["psql", "pgbouncer"]) {
        return;
    }
    let env = vec![("REMINDERS", "push:5s/7d:settle".to_owned())];
    let counts = [1, 2, 2, 1];
    let mut stack = Stack::with(Options {
        counts,
        env,
        own_postgres: true,
        roles: true,
        pooled: true,
        ..Options::default()
    })
    .await;
    let users = 1..=8_i64;
    let mut conversations = Vec::new();
    for user in users.clone() {
        conversations.push(stack.conversation(&[user, user + 100]).await);
    }
    // All users at once, so that statements of different clients meet on each connection to Postgres.
    let chat = users.zip(&conversations).map(async |(user, id)| {
        let mut socket = stack.socket(&format!("/ws/chat/{id}/"), user).await;
        for number in 1..=20 {
            socket.say(&format!("message {number}")).await;
            assert_eq!(socket.next_of("message").await["seq"], number);
        }
        let messages = stack.get(&format!("/api/conversations/{id}/messages"), user + 100).await;
        assert_eq!(messages["items"].as_array().unwrap().len(), 20, "{messages}");
        let unread = || async {
            let unread = stack.get("/api/unread", user + 100).await;
            (unread["messages"] == 20).then_some(())
        };
        eventually("the unread count", unread).await;
        let last = json!({"message_id": messages["items"][0]["message_id"]});
        stack.post(&format!("/api/conversations/{id}/read"), user + 100, last).await.expect(204);
    });
    futures_util::future::join_all(chat).await;
    let notified = || async {
        let page = stack.get("/api/notifications", 101).await;
        (!page["items"].as_array()?.is_empty()).then_some(())
    };
    eventually("a notification", notified).await;
    // Work in the background: reminders, and an erasure.
    let mut last = Vec::new();
    for (user, id) in (1..=8_i64).zip(&conversations) {
        let path = format!("/api/conversations/{id}/messages");
        last.push(stack.post(&path, user, json!({"message": "unread"})).await.expect(201));
    }
    let mut reminders = Events::of(&stack, "notify.reminder", "reminderForBackends").await;
    let mut reminded = HashMap::new();
    while reminded.len() < last.len() {
        let reminder = reminders.next().await;
        // On a slow machine, an earlier message may also have been unread for 5 s.
        if last.iter().any(|last| last["message_id"] == reminder["items"][0]["data"]["message_id"]) {
            let twice = reminded.insert(reminder["user_id"].as_i64(), reminder["event_id"].clone());
            assert_eq!(twice, None, "{reminder}");
        }
    }
    let read = json!({"message_id": last[0]["message_id"]});
    stack.post(&format!("/api/conversations/{}/read", conversations[0]), 101, read).await.expect(204);
    let mut settled = Events::of(&stack, "notify.settled", "settledForBackends").await;
    while settled.next().await["reminders"] != json!([reminded[&Some(101)]]) {}
    stack.request("users.erase", &json!({"user_id": 102})).await.unwrap();
    assert_eq!(Events::of(&stack, "users.erased", "erased").await.next().await["user_id"], 102);
    for kind in [Kind::Chat, Kind::Notify] {
        stack.kill(kind, 0).await;
        stack.restart(kind, 0);
    }
    stack.ready().await;
    // A role without its settings would use another schema, or wait for locks without limit.
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    postgres.execute("alter role chat reset search_path").await.unwrap();
    postgres
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'chat'")
        .await
        .unwrap();
    stack.kill(Kind::Chat, 0).await;
    stack.restart(Kind::Chat, 0);
    assert_eq!(stack.wait_for_exit(Kind::Chat, 0).await, Some(1));
}

/// Creates a certificate authority and a certificate of 127.0.0.1, which it has signed.
async fn certificates(folder: &Path) {
    let openssl = async |arguments: &str| {
        let mut openssl = Command::new("openssl");
        let output = openssl.current_dir(folder).args(arguments.split(' ')).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&format!("{new} -subj /CN=authority -keyout ca.key -out ca.pem")).await;
    openssl(&format!("{new} -subj /CN=other -keyout other.key -out other.pem")).await;
    let leaf =
        "-subj /CN=postgres -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("{new} {leaf} -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem")).await;
}

#[tokio::test]
async fn tls_to_postgres_is_verified_with_a_private_authority() {
    if !has_programs(&["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path()).await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let server = Postgres::start().await.unwrap();
    let database = TestDatabase::create_on(server.url("postgres")).await.unwrap();
    // Postgres, which may run as another user, must own its key.
    let user = std::fs::metadata(server.folder()).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(path("server.key"), Some(user.uid()), Some(user.gid())).unwrap();
    let mut postgres = PgConnection::connect(&database.url()).await.unwrap();
    for (name, value) in [
        ("ssl_cert_file", path("server.pem")),
        ("ssl_key_file", path("server.key")),
        ("ssl", "on".to_owned()),
    ] {
        postgres.execute(AssertSqlSafe(format!("alter system set {name} = '{value}'"))).await.unwrap();
    }
    postgres.execute("select pg_reload_conf()").await.unwrap();
    let is_on = || async {
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let on: String = sqlx::query_scalar("show ssl").fetch_one(&mut connection).await.unwrap();
        (on == "on").then_some(())
    };
    eventually("Postgres to read its settings", is_on).await;
    let verified =
        |authority: &str| format!("{}?sslmode=verify-full&sslrootcert={authority}", database.url());
    let output = migrate(Kind::Chat, &verified(&path("ca.pem"))).await;
    assert!(output.status.success(), "{output:?}");
    let public = format!("{}?sslmode=verify-full", database.url());
    let other_name = verified(&path("ca.pem")).replace("127.0.0.1", "localhost");
    for url in [public, verified(&path("other.pem")), other_name] {
        let output = migrate(Kind::Chat, &url).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("certificate"), "{url}: {log}");
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_reported_with_the_remedy() {
    let password = Some("right".to_owned());
    let server =
        Postgres::start_with(PostgresOptions { password, ..PostgresOptions::default() }).await.unwrap();
    for (url, remedy) in [
        (server.url("postgres").replace("right", "wrong"), "check the user and password in DATABASE_URL"),
        (server.url("missing"), "create the database in DATABASE_URL"),
    ] {
        let output = migrate(Kind::Chat, &url).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.trim_end().lines().count() == 1, "{log}");
        assert!(log.contains(remedy) && !log.contains("wrong") && !log.contains("right"), "{log}");
    }
}

#[test]
fn a_migration_creates_indexes_of_existing_tables_concurrently() {
    // From before the first release.
    const EARLIER: [&str; 2] = ["0003_reports_told.sql", "0003_event_first.sql"];
    let mut checked = 0;
    for service in ["chat-service", "notify-service"] {
        let folder = testkit::place::workspace().join(service).join("migrations");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            let name = path.file_name().unwrap().to_str().unwrap();
            let indexes =
                text.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
            for index in
                indexes.filter(|statement| statement.contains(" index ") && statement.contains("create "))
            {
                checked += 1;
                let (_, table) = index.split_once(" on ").unwrap();
                let table = table.split([' ', '(']).next().unwrap();
                let is_new = text.contains(&format!("create table {table} ("));
                let is_concurrent = text.starts_with("-- no-transaction") && index.contains("concurrently");
                assert!(is_new || is_concurrent || EARLIER.contains(&name), "{name}: {index}");
            }
        }
    }
    assert!(checked > EARLIER.len());
}

#[tokio::test]
async fn the_age_of_the_oldest_transaction_is_measured() {
    const METRIC: &str = "postgres_oldest_transaction_seconds";
    let stack = Stack::with(Options::one_of_each()).await;
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let age = async |kind| stack.metric(kind, 0, METRIC).await;
    let both = [Kind::Chat, Kind::Notify];
    // No transaction of the services takes this long.
    const LONG: f64 = 5.0;
    postgres.execute("begin").await.unwrap();
    postgres.execute("select pg_current_xact_id()").await.unwrap();
    for kind in both {
        eventually("an old transaction", async || (age(kind).await >= LONG).then_some(())).await;
    }
    postgres.execute("rollback").await.unwrap();
    for kind in both {
        eventually("no old transaction", async || (age(kind).await < LONG).then_some(())).await;
    }
}
