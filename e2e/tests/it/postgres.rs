//! Migrations and failovers of Postgres while services run.

use e2e::{Kind, Options, Stack, eventually};
use sqlx::{Connection, Executor, PgConnection};
use testkit::TestDatabase;
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
            let mut migrate = Command::new(e2e::binary(kind.program()).unwrap());
            let output = migrate.arg("migrate").env("DATABASE_URL", database.url()).output().await.unwrap();
            assert!(output.status.success(), "{kind:?}, attempt {attempt}: {output:?}");
        }
    }
    let mut postgres = PgConnection::connect(&database.url()).await.unwrap();
    let tables = "select count(*) from pg_tables where tablename = '_sqlx_migrations'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut postgres).await.unwrap(), 2);
}
