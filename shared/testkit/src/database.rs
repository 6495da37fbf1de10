//! Separate databases for tests.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::postgres::Postgres;

/// Variable with the URL of a Postgres in which tests may create databases, set by `cargo xtask test`.
pub const TEST_POSTGRES_URL: &str = "TEST_POSTGRES_URL";

/// An empty database for one test. Dropping it deletes the database.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: String,
}

impl TestDatabase {
    /// Creates a database on the server of `TEST_POSTGRES_URL`, otherwise on a server shared by all tests of this
    /// process.
    ///
    /// # Errors
    /// If there is no Postgres, or it fails.
    pub async fn create() -> anyhow::Result<Self> {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();

        let server = match std::env::var(TEST_POSTGRES_URL) {
            Ok(url) => url,
            Err(_) => SHARED.get_or_try_init(Postgres::start).await?.url("postgres"),
        };
        Self::create_on(server).await
    }

    /// Creates a database on the Postgres at this URL.
    ///
    /// # Errors
    /// If there is no Postgres, or it fails.
    pub async fn create_on(server: String) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{count}_{:08x}", std::process::id(), fastrand::u32(..));
        run(&server, format!("create database {name}"))
            .await
            .with_context(|| format!("create database {name}"))?;
        Ok(Self { name, server })
    }

    /// URL of the database.
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap_or((&self.server, ""));
        format!("{server}/{}", self.name)
    }

    /// Host and port of the server.
    pub fn authority(&self) -> &str {
        let (_, rest) = self.server.split_once("://").unwrap_or(("", &self.server));
        let authority = rest.split('/').next().unwrap_or(rest);
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    }

    /// URL of the database for another role of a server that asks for no passwords.
    pub fn url_as(&self, role: &str) -> String {
        format!("postgres://{role}:unused@{}/{}", self.authority(), self.name)
    }

    /// Name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, statement) = (self.server.clone(), format!("drop database {} with (force)", self.name));
        // A thread, because a runtime can't be started within another one.
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), run(&server, statement)).await?
            })
        });
        let _ = thread.join(); // A remaining database ends with its server.
    }
}

async fn run(server: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(server).await.context("connect to Postgres")?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await?;
    Ok(())
}
