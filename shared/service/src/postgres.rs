//! Postgres: a pool on one schema, migrated, that waits for a database which isn't there yet.

use crate::{Backoff, config};
use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How the queries of a connection are planned: once, as planning one costs several times what it does; and by index, row by
/// row, which is right for any table, whether it is empty or has a billion rows.
pub const PLANS: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// None of our queries runs for long enough to be worth compiling, and where a table has grown since it was last
/// analyzed, Postgres takes some for such: each of its processes then loads LLVM, which is 14 MB and 40 ms
/// (`cargo xtask load handshake`, when gateways compared 12,000 fresh conversations).
const NOT_COMPILED: (&str, &str) = ("jit", "off");

/// What Postgres itself gives up, so that no statement outlives its service's interest in it for long, and none waits for
/// another's lock for ever: a statement before [`STATEMENT`] ends, a wait for a lock sooner; and a transaction whose
/// service says nothing (frozen, or cut off), which may hold locks.
const TIMEOUTS: [(&str, &str); 3] = [
    ("statement_timeout", "3500ms"),
    ("lock_timeout", "1500ms"),
    ("idle_in_transaction_session_timeout", "10s"),
];

/// Connects to this service's own schema and brings it up to date, saying every few seconds that it still tries;
/// `None` when the token is cancelled first. Replicas that start at once wait for each other's migrations. Each connection has
/// these settings.
///
/// # Errors
/// When the configuration can't be used, or a migration fails for a reason that will not pass.
pub async fn open(
    schema: &'static str,
    migrations: &Migrator,
    settings: &[(&'static str, &'static str)],
    config: &config::Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<PgPool>> {
    let options = PgConnectOptions::from_str(&config.database_url)
        .map_err(|_| anyhow::anyhow!("configuration: DATABASE_URL is not an address of Postgres"))?
        .application_name(schema)
        .options([("search_path", schema), NOT_COMPILED])
        .options(TIMEOUTS)
        .options(settings.iter().copied())
        .log_statements(tracing::log::LevelFilter::Trace);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
    loop {
        let prepared = tokio::select! {
            prepared = prepare(schema, migrations, &options) => prepared,
            () = shutdown.cancelled() => return Ok(None),
        };
        match prepared {
            Ok(()) => break,
            Err(error) if error.chain().any(is_passing) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "waiting for Postgres, which DATABASE_URL names"
                );
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
    crate::metrics::describe(crate::metrics::POSTGRES);
    let pool = PgPoolOptions::new()
        .max_connections(config.database_connections)
        .acquire_timeout(Duration::from_secs(2))
        // A ping before each use costs a round trip; a broken connection shows itself, and every caller retries.
        .test_before_acquire(false)
        .before_acquire(|_, connection| {
            let made = Instant::now().checked_sub(connection.age);
            let is_current = made.is_none_or(|made| FAILOVER.is_current(made));
            Box::pin(async move { Ok(is_current) })
        })
        // A caller that gave up returns its connection in the middle of a reply. The pool waits for the rest of it, without
        // an end if the network drops everything, and would be full of such connections.
        .after_release(|connection, _| {
            Box::pin(async move {
                let rest = async {
                    if FAILOVER.is_check_due() {
                        is_writable(connection).await
                    } else {
                        connection.ping().await
                    }
                };
                tokio::time::timeout(RELEASE, rest).await.unwrap_or_else(|_| {
                    metrics::counter!("postgres_silent_connections_total").increment(1);
                    Err(silence())
                })?;
                Ok(true)
            })
        })
        .connect_lazy_with(options);
    Ok(Some(pool))
}

async fn prepare(schema: &str, migrations: &Migrator, options: &PgConnectOptions) -> anyhow::Result<()> {
    let mut connection = options.connect().await.context("connect to Postgres")?;
    let known: Option<bool> = sqlx::query_scalar("select true from pg_namespace where nspname = $1")
        .bind(schema)
        .fetch_optional(&mut connection)
        .await
        .context("look for the schema")?;
    if known.is_none() {
        // The name is one of ours. Two replicas may both come here: the one that is late is told so.
        let created =
            connection.execute(sqlx::AssertSqlSafe(format!("create schema if not exists {schema}"))).await;
        if let Err(error) = created
            && !error.as_database_error().is_some_and(|error| error.is_unique_violation())
        {
            return Err(error).context("create the schema");
        }
    }
    migrate(schema, migrations, &mut connection).await?;
    connection.close().await.ok();
    Ok(())
}

/// How often a replica tries to be the one that migrates.
const MIGRATION_TURN: Duration = Duration::from_millis(250);
/// How often it reports that it waits.
const MIGRATION_REPORT: Duration = Duration::from_secs(5);

/// Applies the missing migrations, one replica at a time. Each schema has a lock of its own, and a waiting replica holds
/// no snapshot, which `create index concurrently` would wait for. A schema that is newer than this program is left as it
/// is: migrations only add.
async fn migrate(schema: &str, migrations: &Migrator, connection: &mut PgConnection) -> anyhow::Result<()> {
    // A migration may take long, but it must not queue for a lock: every query would queue behind it.
    connection
        .execute("set statement_timeout = 0; set lock_timeout = '3s'")
        .await
        .context("prepare to migrate")?;
    let mut report_at = Instant::now();
    loop {
        let is_ours: bool =
            sqlx::query_scalar("select pg_try_advisory_lock(hashtext('vyzio'), hashtext($1))")
                .bind(schema)
                .fetch_one(&mut *connection)
                .await
                .context("lock the migrations")?;
        if is_ours {
            break;
        }
        if Instant::now() >= report_at {
            tracing::info!(schema, "waiting for another replica, which migrates the schema");
            report_at = Instant::now() + MIGRATION_REPORT;
        }
        tokio::time::sleep(MIGRATION_TURN).await;
    }
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true).set_locking(false);
    // Not `run`, whose future is not `Send`: it takes more than connections. The lock ends with the connection.
    migrator.run_direct(None, connection, false).await.context("migrate the schema")
}

/// What is known of a failover: connections that were made before it lead to a server that takes no writes any more.
static FAILOVER: Failover = Failover { since: Mutex::new(None), checked: AtomicI64::new(0) };

struct Failover {
    /// When a read-only server was last seen.
    since: Mutex<Option<Instant>>,
    /// Unix seconds of the last check.
    checked: AtomicI64,
}

impl Failover {
    fn saw_read_only(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection was made after the last failover.
    fn is_current(&self, made: Instant) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|since| made > since)
    }

    /// Whether this is the first call in this second: reads alone would not show that a server takes no writes.
    fn is_check_due(&self) -> bool {
        let now = contract::Timestamp::now().unix();
        self.checked.swap(now, Ordering::Relaxed) != now
    }
}

/// Fails with the error of a write if the server that a connection leads to takes none.
async fn is_writable(connection: &mut PgConnection) -> sqlx::Result<()> {
    let is_read_only: String =
        sqlx::query_scalar("select current_setting('transaction_read_only')").fetch_one(connection).await?;
    if is_read_only == "on" {
        FAILOVER.saw_read_only();
        return Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::ReadOnlyFilesystem,
            "Postgres takes no writes",
        )));
    }
    Ok(())
}

/// A connection that its owner uses again and again, outside the pool; made when it is needed.
///
/// It is replaced after an error that passes (it may never answer again), and after a failover.
pub struct Dedicated {
    options: PgConnectOptions,
    connection: Option<(PgConnection, Instant)>,
}

impl Dedicated {
    /// Not connected yet.
    pub const fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: None }
    }

    /// Does something over the connection, as [`in_time`].
    ///
    /// # Errors
    /// Those of `query` and of connecting, and [`sqlx::Error::Io`] if it takes too long.
    pub async fn run<T>(
        &mut self,
        query: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        // Taken out, so that a connection is dropped with a future that is given up.
        let current = self.connection.take().filter(|(_, made)| FAILOVER.is_current(*made));
        let (result, connection) = in_time(async {
            let (mut connection, made) = match current {
                Some(current) => current,
                None => (self.options.connect().await?, Instant::now()),
            };
            let result = query(&mut connection).await;
            Ok((result, (connection, made)))
        })
        .await?;
        if !result.as_ref().is_err_and(is_passing_error) {
            self.connection = Some(connection);
        }
        result
    }

    /// Closes the connection. It is made again when it is needed.
    pub async fn close(&mut self) {
        if let Some((connection, _)) = self.connection.take() {
            // If it is broken, it is gone all the same.
            let _ = in_time(connection.close()).await;
        }
    }
}

/// Whether an error may pass by itself: the connection, or a server that starts, stops or is busy.
fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<sqlx::Error>() {
        Some(error) => is_passing_error(error),
        None => error.downcast_ref::<std::io::Error>().is_some(),
    }
}

/// The code of a write on a server that takes none.
const READ_ONLY: &str = "25006";
/// The code with which Postgres ends a connection whose service was silent within a transaction, as after a freeze.
const IDLE_IN_TRANSACTION: &str = "25P03";

/// Whether doing it again may help. An error that shows a failover also ends every older connection.
pub fn is_passing_error(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        // Connection exceptions, serialization and deadlock, out of resources, operator intervention, system errors
        // (https://www.postgresql.org/docs/current/errcodes-appendix.html).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            if code == READ_ONLY {
                FAILOVER.saw_read_only();
            }
            ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
                || [READ_ONLY, IDLE_IN_TRANSACTION].contains(&&*code)
        }),
        _ => false,
    }
}

/// How long one statement, or one transaction of a few, may take. A server that is frozen, or a network that drops
/// everything, would otherwise hold whoever waits for ever.
const STATEMENT: Duration = Duration::from_secs(4);

/// How long a connection that is given back may take to be done with what it was asked.
const RELEASE: Duration = Duration::from_secs(2);

fn silence() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "Postgres does not answer"))
}

/// Gives up what takes too long, with an error that passes. It may have been done all the same.
///
/// # Errors
/// Those of `query`, and [`sqlx::Error::Io`] when it takes too long.
pub async fn in_time<T>(query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(STATEMENT, query).await.unwrap_or_else(|_| {
        metrics::counter!("postgres_timeouts_total").increment(1);
        Err(silence())
    })
}

/// How long Postgres may take to answer [`answers`].
const ANSWER: Duration = Duration::from_secs(2);

/// Whether Postgres answers, and takes writes.
///
/// # Errors
/// If it doesn't, within 3 s.
pub async fn answers(pool: &PgPool) -> anyhow::Result<()> {
    let asked = async {
        let mut connection = pool.acquire().await?;
        let answered = tokio::time::timeout(ANSWER, is_writable(&mut connection)).await;
        if !matches!(answered, Ok(Ok(_))) {
            // It may never answer again: back in the pool, it would be in the way.
            connection.close_on_drop();
        }
        answered
            .context("Postgres does not answer within 2 s")?
            .context("check that Postgres takes writes")?;
        anyhow::Ok(())
    };
    tokio::time::timeout(ANSWER * 3 / 2, asked).await.context("no connection to Postgres in 3 s")?
}

/// Sets the metrics of a pool.
pub fn measure(pool: &PgPool) {
    let (size, idle) = (pool.size(), u32::try_from(pool.num_idle()).unwrap_or(u32::MAX));
    metrics::gauge!("db_client_connection_count", "state" => "idle").set(idle);
    metrics::gauge!("db_client_connection_count", "state" => "used").set(size.saturating_sub(idle));
    metrics::gauge!("db_client_connection_max").set(pool.options().get_max_connections());
}
