//! Transactions that are cancelled.

use service::{
    config,
    postgres::{self, Pool},
};
use sqlx::{Connection, PgConnection, migrate::Migrator};
use std::{fs, pin::pin};
use testkit::Postgres;

/// Cancels the start of a transaction while Postgres executes it.
async fn cancel(begin: impl Future, server: &Postgres) {
    server.stop();
    {
        let mut begin = pin!(begin);
        for _ in 0..10 {
            assert!(futures_util::poll!(begin.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }
    server.cont();
}

#[tokio::test]
async fn what_is_stored_after_a_cancelled_begin_is_committed() {
    let server = Postgres::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0001_rows.sql"), "create table rows (value bigint)").unwrap();
    let migrations = Migrator::new(folder.path()).await.unwrap();
    let database_url = server.url("postgres");
    let config = config::Database { database_url, database_direct_url: None, database_connections: 1 };
    let pool = postgres::open("shop", &migrations, &[], &config, &Default::default()).await;
    let pool: Pool = pool.unwrap().unwrap();
    let mut other = PgConnection::connect(&config.database_url).await.unwrap();
    let mut store = async |value: i64| {
        postgres::query("insert into rows values ($1)").bind(value).execute(&pool).await.unwrap();
        let query = sqlx::query_scalar::<_, i64>("select count(*) from shop.rows");
        query.fetch_one(&mut other).await.unwrap()
    };
    assert_eq!(store(1).await, 1, "the pool has a connection");
    while pool.num_idle() == 0 {
        tokio::task::yield_now().await;
    }
    cancel(pool.begin(), &server).await;
    assert_eq!(store(2).await, 2);

    let mut connection = pool.acquire().await.unwrap();
    cancel(postgres::begin(&mut connection), &server).await;
    drop(connection);
    assert_eq!(store(3).await, 3);

    // One that is not cancelled.
    let mut transaction = pool.begin().await.unwrap();
    postgres::query("delete from rows").execute(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(store(4).await, 4);
}
