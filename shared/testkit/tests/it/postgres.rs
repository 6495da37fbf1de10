//! Tests of the Postgres process.

use sqlx::{Connection, Executor, PgConnection, Row};
use testkit::{Postgres, PostgresOptions, TestDatabase};

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    let (one, other) = (one.unwrap(), other.unwrap());
    connect(&one.url()).await.execute("create table mine (id int)").await.unwrap();
    assert!(connect(&other.url()).await.execute("select * from mine").await.is_err());
}

#[tokio::test]
async fn a_database_is_dropped_even_if_a_client_is_connected() {
    let database = TestDatabase::create().await.unwrap();
    let url = database.url();
    let _connection = connect(&url).await;
    drop(database);
    assert!(PgConnection::connect(&url).await.is_err());
}

#[tokio::test]
async fn committed_data_survives_a_kill() {
    let mut server = Postgres::start_with(PostgresOptions {
        durable: true,
        password: Some("of the test".replace(' ', "-")),
        ..Default::default()
    })
    .await
    .unwrap();
    let (url, pid) = (server.url("postgres"), server.pid());
    let mut connection = connect(&url).await;
    connection.execute("create table kept as select 'hello' as word").await.unwrap();

    server.kill().await;
    assert!(connection.execute("select 1").await.is_err());
    assert!(PgConnection::connect(&url).await.is_err());
    server.restart().await.unwrap();

    assert_eq!(server.url("postgres"), url);
    assert_ne!(server.pid(), pid);
    let row = connect(&url).await.fetch_one("select word from kept").await.unwrap();
    assert_eq!(row.get::<String, _>(0), "hello");
    let without_password = format!("postgres://postgres@{}", url.rsplit_once('@').unwrap().1);
    assert!(PgConnection::connect(&without_password).await.is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stopped_server_can_be_resumed() {
    let server = Postgres::start().await.unwrap();
    let mut connection = connect(&server.url("postgres")).await;
    let backend = connection.fetch_one("select pg_backend_pid()").await.unwrap().get::<i32, _>(0) as u32;
    server.stop();
    testkit::eventually("it is frozen", async || crate::state(server.pid()) == "T").await;
    testkit::eventually("its backends are frozen", async || crate::state(backend) == "T").await;
    server.cont();
    connection.execute("select 1").await.unwrap();
}
