//! The number of rows that queries really read, independent of their plans. It must not grow with the stored data.

use std::{fmt::Debug, str::FromStr, time::Duration};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

use crate::TestDatabase;

/// Variable with the URL of a database filled by `cargo xtask load seed`. The queries run there and their times are
/// printed.
pub const SEEDED_DATABASE_URL: &str = "SEEDED_DATABASE_URL";

/// Number of runs after which Postgres has settled on a plan.
const RUNS: usize = 7;

/// A schema with many rows, and a single connection to it.
#[derive(Debug)]
pub struct Reads {
    pool: PgPool,
    schema: &'static str,
    _database: Option<TestDatabase>,
}

impl Reads {
    /// Opens the schema in the database of [`SEEDED_DATABASE_URL`]. Without it, creates a database and fills it with
    /// the statements in `seed`. `settings` apply to the connection.
    ///
    /// # Errors
    /// If there is no Postgres, or it fails.
    pub async fn of(
        schema: &'static str,
        migrations: &Migrator,
        settings: &[(&'static str, &'static str)],
        seed: &[&'static str],
    ) -> anyhow::Result<Self> {
        let (url, database) = match std::env::var(SEEDED_DATABASE_URL) {
            Ok(url) => (url, None),
            Err(_) => {
                let database = TestDatabase::create().await?;
                (database.url(), Some(database))
            }
        };
        let options = PgConnectOptions::from_str(&url)?
            .options([("search_path", schema)])
            .options(settings.iter().copied());
        if database.is_some() {
            let mut connection = options.connect().await?;
            connection.execute(AssertSqlSafe(format!("create schema {schema}"))).await?;
            migrations.run(&mut connection).await?;
            for statement in seed {
                connection.execute(*statement).await.context(*statement)?;
            }
            // What the seed has read must not be counted later. Postgres writes these statistics before it is ready for
            // the ping.
            connection.execute("select pg_stat_force_next_flush()").await?;
            connection.ping().await?;
            connection.close().await?;
        }
        // A single connection: once it has flushed its statistics, they are complete.
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
        Ok(Self { pool, schema, _database: database })
    }

    /// The pool with the single connection.
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Runs a query several times, and checks each time that it scans no table and reads at most `most` rows through
    /// indexes. See [`reads_at_most!`](crate::reads_at_most).
    ///
    /// # Panics
    /// If the query reads more, or fails.
    pub async fn at_most<T, E: Debug>(&self, most: i64, what: &str, query: impl AsyncFn() -> Result<T, E>) {
        let (mut times, mut rows) = ([Duration::ZERO; RUNS], 0);
        for time in &mut times {
            let before = self.rows_read().await;
            let started = Instant::now();
            if let Err(error) = query().await {
                panic!("{what}: {error:?}");
            }
            *time = started.elapsed();
            let after = self.rows_read().await;
            assert_eq!(after.0 - before.0, 0, "{what} scans a table");
            let read = after.1 - before.1;
            assert!(read <= most, "{what} reads {read} rows");
            rows = rows.max(read);
        }
        if self._database.is_none() {
            times.sort_unstable();
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            println!("| `{what}` | {rows} | {:.2} |", times[RUNS / 2].as_secs_f64() * 1e3);
        }
    }

    /// Rows read from the schema's tables: by scans, and through indexes. Excludes `outbox` and `reports`, which are
    /// always short because they hold only pending rows.
    async fn rows_read(&self) -> (i64, i64) {
        let flush = "select pg_stat_force_next_flush()";
        self.pool.execute(flush).await.expect("Postgres flushes its statistics");
        sqlx::query_as(
            "select coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
             from pg_stat_user_tables where schemaname = $1 and relname not in ('outbox', 'reports')",
        )
        .bind(self.schema)
        .fetch_one(&self.pool)
        .await
        .expect("Postgres returns its statistics")
    }
}

/// Checks that a query reads at most so many rows: `reads_at_most!(reads, 20, members(pool, place))`.
#[macro_export]
macro_rules! reads_at_most {
    ($reads:expr, $most:expr, $query:expr) => {
        $reads.at_most($most, stringify!($query), async || $query.await).await
    };
}
