//! A database of its own for each test.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::postgres::Postgres;

/// Names a Postgres that the tests may create databases in, as `cargo xtask test` does.
pub const TEST_POSTGRES_URL: &str = "TEST_POSTGRES_URL";

/// An empty database that nobody else uses. Dropped, it is gone.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: String,
}

impl TestDatabase {
    /// Creates one: on the Postgres that `TEST_POSTGRES_URL` names, else on one that all tests of this process share.
    ///
    /// # Errors
    /// When there is no Postgres, or it doesn't do so.
    pub async fn create() -> anyhow::Result<Self> {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();

        let server = match std::env::var(TEST_POSTGRES_URL) {
            Ok(url) => url,
            Err(_) => SHARED.get_or_try_init(Postgres::start).await?.url("postgres"),
        };
        Self::create_on(server).await
    }

    /// Creates one on the Postgres at this address.
    ///
    /// # Errors
    /// When there is none, or it doesn't do so.
    pub async fn create_on(server: String) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{count}_{:08x}", std::process::id(), fastrand::u32(..));
        run(&server, format!("create database {name}"))
            .await
            .with_context(|| format!("create database {name}"))?;
        Ok(Self { name, server })
    }

    /// Its address.
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap_or((&self.server, ""));
        format!("{server}/{}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, statement) = (self.server.clone(), format!("drop database {} with (force)", self.name));
        // A thread, as a runtime can't be started within another.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), run(&server, statement)).await?
            })
        });
        let _ = dropping.join(); // What is left behind goes with the server.
    }
}

async fn run(server: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(server).await.context("connect to Postgres")?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await?;
    Ok(())
}
