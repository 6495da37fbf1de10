//! How many rows queries read, whatever Postgres says that it plans: nothing that grows with what is stored.

use std::{fmt::Debug, str::FromStr, time::Duration};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

use crate::TestDatabase;

/// Names a database that `cargo xtask load seed` has filled, to look at the queries there; each one's time is printed.
pub const SEEDED_DATABASE_URL: &str = "SEEDED_DATABASE_URL";

/// As often as it takes for Postgres to settle on a plan.
const TIMES: usize = 7;

/// A schema with much in it, and one connection to it.
#[derive(Debug)]
pub struct Reads {
    pool: PgPool,
    schema: &'static str,
    _database: Option<TestDatabase>,
}

impl Reads {
    /// The schema in the database that [`SEEDED_DATABASE_URL`] names; without it, in one that these statements fill. The
    /// connection has these settings.
    ///
    /// # Errors
    /// When there is no Postgres, or it doesn't do so.
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
        }
        // One connection: when it has told its statistics, they are all there.
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
        Ok(Self { pool, schema, _database: database })
    }

    /// The one connection.
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does something several times, and checks each time that it read no table from its start, and at most so many
    /// rows through indexes. See [`reads_at_most!`](crate::reads_at_most).
    ///
    /// # Panics
    /// When it read more, or failed.
    pub async fn at_most<T, E: Debug>(&self, most: i64, what: &str, query: impl AsyncFn() -> Result<T, E>) {
        let (mut times, mut rows) = ([Duration::ZERO; TIMES], 0);
        for time in &mut times {
            let before = self.rows_read().await;
            let started = Instant::now();
            if let Err(error) = query().await {
                panic!("{what}: {error:?}");
            }
            *time = started.elapsed();
            let after = self.rows_read().await;
            assert_eq!(after.0 - before.0, 0, "{what} reads a table from its start");
            let read = after.1 - before.1;
            assert!(read <= most, "{what} reads {read} rows");
            rows = rows.max(read);
        }
        if self._database.is_none() {
            times.sort_unstable();
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            println!("| `{what}` | {rows} | {:.2} |", times[TIMES / 2].as_secs_f64() * 1e3);
        }
    }

    /// Rows that were read of the schema's tables: from their start, and through indexes. What is as short as what is
    /// under way, `outbox` and `reports`, is not counted.
    async fn rows_read(&self) -> (i64, i64) {
        let flush = "select pg_stat_force_next_flush()";
        self.pool.execute(flush).await.expect("Postgres counts what it reads");
        sqlx::query_as(
            "select coalesce(sum(seq_tup_read), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
             from pg_stat_user_tables where schemaname = $1 and relname not in ('outbox', 'reports')",
        )
        .bind(self.schema)
        .fetch_one(&self.pool)
        .await
        .expect("Postgres says what it has read")
    }
}

/// Checks that a query reads at most so many rows: `reads_at_most!(reads, 20, members(pool, place))`.
#[macro_export]
macro_rules! reads_at_most {
    ($reads:expr, $most:expr, $query:expr) => {
        $reads.at_most($most, stringify!($query), async || $query.await).await
    };
}
