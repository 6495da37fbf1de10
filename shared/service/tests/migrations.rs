//! Migrations of large tables.

use service::{config, postgres::migrate_only};
use sqlx::{Connection, Executor, PgConnection, migrate::Migrator};
use std::fs;
use testkit::TestDatabase;

/// An index that a service creates while others use the table.
const INDEX: &str =
    "-- no-transaction\ncreate unique index concurrently if not exists rows_unique on rows (value)";

#[tokio::test]
async fn an_unfinished_index_is_created_again() {
    let database = TestDatabase::create().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0001_rows.sql"), "create table rows (value bigint)").unwrap();
    let config =
        config::Database { database_url: database.url(), database_direct_url: None, database_connections: 2 };
    let migrate = async || {
        let migrations = Migrator::new(folder.path()).await.unwrap();
        migrate_only("shop", &migrations, &config, &Default::default()).await
    };
    migrate().await.unwrap();
    let mut postgres = PgConnection::connect(&database.url()).await.unwrap();
    postgres.execute("insert into shop.rows values (1), (1)").await.unwrap();
    fs::write(folder.path().join("0002_unique.sql"), INDEX).unwrap();
    migrate().await.unwrap_err();
    let valid = "select indisvalid from pg_index where indexrelid = 'shop.rows_unique'::regclass";
    let is_valid: bool = sqlx::query_scalar(valid).fetch_one(&mut postgres).await.unwrap();
    assert!(!is_valid, "Postgres keeps the unfinished index");

    postgres.execute("delete from shop.rows").await.unwrap();
    migrate().await.unwrap();
    let is_valid: bool = sqlx::query_scalar(valid).fetch_one(&mut postgres).await.unwrap();
    assert!(is_valid);
}
