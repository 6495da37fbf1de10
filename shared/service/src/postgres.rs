//! Postgres: a connection pool on one schema, with migrations; waits for a database that isn't up yet.

mod begin;
mod pooler;

pub use begin::begin;
pub use pooler::{Pool, query, query_as, query_scalar};

use crate::{Backoff, bus::chain, config};
use anyhow::Context;
use contract::Refusal;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    borrow::Cow,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Planner settings of a connection. Queries are planned only once, because planning one costs several times its
/// execution. They use an index and nested loops, which suits any table, from an empty one to a billion rows.
pub const PLANS: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// None of our queries runs long enough to be worth compiling. But if a table has grown since it was last analyzed,
/// Postgres misjudges some, and each of its processes then loads LLVM, which costs 14 MB and 40 ms (`cargo xtask load
/// handshake`, when gateways compared 12,000 fresh conversations).
const NOT_COMPILED: (&str, &str) = ("jit", "off");

/// Server-side timeouts, so that no statement runs long after its service has given up, and none waits for a lock for
/// ever: a statement ends before [`STATEMENT_TIMEOUT`], and a wait for a lock sooner. The last one ends the transaction
/// of a service that is silent (frozen, or cut off), which may hold locks.
const TIMEOUTS: [(&str, &str); 3] = [
    ("statement_timeout", "3500ms"),
    ("lock_timeout", "1500ms"),
    ("idle_in_transaction_session_timeout", "10s"),
];

/// Connects to this service's own schema and migrates it, and logs every few seconds while it can't. Returns `None` if
/// the token is cancelled first. Replicas that start together wait for each other's migrations. `settings` apply to
/// each connection; behind a pooler, the settings of the role apply instead.
///
/// # Errors
/// If the configuration can't be used, or a migration fails for a permanent reason.
pub async fn open(
    schema: &'static str,
    migrations: &Migrator,
    settings: &[(&'static str, &'static str)],
    config: &config::Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Pool>> {
    pooler::set_used(config.database_direct_url.is_some());
    if !prepare_until(schema, migrations, config, shutdown).await? {
        return Ok(None);
    }
    crate::metrics::describe(crate::metrics::POSTGRES);
    let options = with_settings(connect_options(schema, config)?, settings);
    let pool = Pool::from(pool_options(config).connect_lazy_with(options));
    tokio::spawn(watch_transactions(pool.clone(), shutdown.clone()));
    Ok(Some(pool))
}

/// Migrates this service's own schema without running the service, for a job that runs before a rollout. Waits like
/// [`open`].
///
/// # Errors
/// If the configuration can't be used, a migration fails for a permanent reason, or the token is cancelled first.
pub async fn migrate_only(
    schema: &'static str,
    migrations: &Migrator,
    config: &config::Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let is_done = prepare_until(schema, migrations, config, shutdown).await?;
    anyhow::ensure!(is_done, "stopped before the schema was migrated");
    tracing::info!(schema, "the schema is up to date");
    Ok(())
}

fn connect_options(schema: &'static str, config: &config::Database) -> anyhow::Result<PgConnectOptions> {
    let options = parse("DATABASE_URL", &config.database_url, schema)?;
    Ok(with_settings(options, &session_settings(schema)))
}

fn parse(variable: &str, url: &str, schema: &str) -> anyhow::Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| anyhow::anyhow!("configuration: {variable} is not a Postgres URL"))?;
    Ok(options.application_name(schema).log_statements(tracing::log::LevelFilter::Trace))
}

/// Settings of every connection to a schema. `deploy/postgres/init.sql` has the same ones for the role, for connections
/// through a pooler.
fn session_settings(schema: &'static str) -> Vec<(&'static str, &'static str)> {
    [("search_path", schema), NOT_COMPILED].into_iter().chain(TIMEOUTS).collect()
}

/// Adds settings of a session, unless the connection leads to a pooler, which would refuse them.
pub fn with_settings(options: PgConnectOptions, settings: &[(&str, &str)]) -> PgConnectOptions {
    if pooler::is_used() { options } else { options.options(settings.iter().copied()) }
}

/// Prepares the schema, again and again while Postgres is unavailable. Returns false if the token is cancelled first.
async fn prepare_until(
    schema: &'static str,
    migrations: &Migrator,
    config: &config::Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    let options = connect_options(schema, config)?;
    let direct = match &config.database_direct_url {
        Some(url) => parse("DATABASE_DIRECT_URL", url, schema)?.options(session_settings(schema)),
        None => options.clone(),
    };
    let prepare = async || {
        prepare(schema, migrations, &direct).await?;
        if pooler::is_used() { check_role(schema, &options).await } else { Ok(()) }
    };
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
    loop {
        let prepared = tokio::select! {
            prepared = prepare() => prepared,
            () = shutdown.cancelled() => return Ok(false),
        };
        match prepared {
            Ok(()) => return Ok(true),
            Err(error) if is_tls_failure(&error) => {
                return Err(error.context(
                    "configuration: TLS to Postgres fails; check sslmode and sslrootcert in DATABASE_URL",
                ));
            }
            Err(error) if error.chain().any(is_transient) => {
                tracing::warn!(error = chain(error.as_ref()), "waiting for Postgres at DATABASE_URL");
            }
            Err(error) => return Err(with_remedy(error)),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.cancelled() => return Ok(false),
        }
    }
}

fn pool_options(config: &config::Database) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(config.database_connections)
        .acquire_timeout(Duration::from_secs(2))
        // A ping before each use costs a round trip; a broken connection fails on use, and every caller retries.
        .test_before_acquire(false)
        .before_acquire(|_, connection| {
            let made = Instant::now().checked_sub(connection.age);
            let is_current = made.is_none_or(|made| FAILOVER.is_current(made));
            Box::pin(async move { Ok(is_current) })
        })
        // A caller that gave up returns its connection in the middle of a reply. The pool waits for the rest of the
        // reply: for ever if the network drops everything, until all connections are such ones.
        .after_release(|connection, _| {
            Box::pin(async move {
                let rest = async {
                    begin::end_transaction(connection).await?;
                    if FAILOVER.is_check_due() {
                        is_writable(connection).await
                    } else {
                        connection.ping().await
                    }
                };
                tokio::time::timeout(RELEASE_TIMEOUT, rest).await.unwrap_or_else(|_| {
                    metrics::counter!("postgres_silent_connections_total").increment(1);
                    Err(no_reply())
                })?;
                Ok(true)
            })
        })
}

async fn prepare(schema: &str, migrations: &Migrator, options: &PgConnectOptions) -> anyhow::Result<()> {
    let mut connection = options.connect().await.context("connect to Postgres")?;
    let known: Option<bool> = sqlx::query_scalar("select true from pg_namespace where nspname = $1")
        .bind(schema)
        .fetch_optional(&mut connection)
        .await
        .context("check whether the schema exists")?;
    if known.is_none() {
        // The name is a constant of ours. If two replicas create the schema at once, the later one gets a unique
        // violation.
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

/// Checks that the role has the settings that a pooler does not pass on.
async fn check_role(schema: &'static str, options: &PgConnectOptions) -> anyhow::Result<()> {
    let mut connection = options.connect().await.context("connect to the pooler at DATABASE_URL")?;
    for (name, expected) in session_settings(schema) {
        let show = sqlx::AssertSqlSafe(format!("show {name}")); // The name is a constant of ours.
        let row =
            sqlx::raw_sql(show).fetch_one(&mut connection).await.context("read a setting of the role")?;
        let actual: String = row.try_get(0)?;
        anyhow::ensure!(
            actual == expected,
            "configuration: behind a pooler, {name} must be {expected} but is {actual}: alter role {} set {name} = \
             '{expected}', then reconnect the pooler",
            options.get_username(),
        );
    }
    connection.close().await.ok();
    Ok(())
}

/// Interval of a replica's attempts to take the migration lock.
const MIGRATION_RETRY: Duration = Duration::from_millis(250);
/// Interval of log lines while it waits.
const MIGRATION_REPORT: Duration = Duration::from_secs(5);

/// Applies the missing migrations, one replica at a time. Each schema has its own lock, and a waiting replica holds no
/// snapshot, for which `create index concurrently` would wait. A schema newer than this program is left unchanged,
/// because migrations only add.
async fn migrate(schema: &str, migrations: &Migrator, connection: &mut PgConnection) -> anyhow::Result<()> {
    // A migration may take long, but it must not queue for a lock, because every query would queue behind it.
    connection.execute("set statement_timeout = 0").await.context("prepare to migrate")?;
    let mut report_at = Instant::now();
    loop {
        let is_ours: bool =
            sqlx::query_scalar("select pg_try_advisory_lock(hashtext('vyzio'), hashtext($1))")
                .bind(schema)
                .fetch_one(&mut *connection)
                .await
                .context("take the migration lock")?;
        if is_ours {
            break;
        }
        if Instant::now() >= report_at {
            tracing::info!(schema, "waiting for another replica to migrate the schema");
            report_at = Instant::now() + MIGRATION_REPORT;
        }
        tokio::time::sleep(MIGRATION_RETRY).await;
    }
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true).set_locking(false);
    drop_invalid_indexes(schema, connection).await.context("drop unfinished indexes")?;
    for migration in migrations.iter() {
        // `create index concurrently` waits for all older transactions. No query queues behind it.
        let lock_timeout = if migration.no_tx { "set lock_timeout = 0" } else { "set lock_timeout = '3s'" };
        connection.execute(lock_timeout).await.context("prepare to migrate")?;
        // Not `run`, whose future is not `Send`, because it accepts more than connections.
        migrator
            .run_direct(Some(migration.version), connection, false)
            .await
            .context("migrate the schema")?;
    }
    Ok(()) // The migration lock ends with the connection.
}

/// Drops the indexes that an interrupted `create index concurrently` has left. Its migration creates them again.
async fn drop_invalid_indexes(schema: &str, connection: &mut PgConnection) -> sqlx::Result<()> {
    let names: Vec<String> = sqlx::query_scalar(
        "select indexrelid::regclass::text from pg_index join pg_class on pg_class.oid = indexrelid
         where not indisvalid and relnamespace = $1::regnamespace",
    )
    .bind(schema)
    .fetch_all(&mut *connection)
    .await?;
    for name in names {
        tracing::warn!(name, "dropping an unfinished index");
        // A `regclass` is quoted as an identifier.
        connection.execute(sqlx::AssertSqlSafe(format!("drop index concurrently {name}"))).await?;
    }
    Ok(())
}

/// Last known failover. Connections opened before it lead to a server that has become read-only.
static FAILOVER: Failover = Failover { since: Mutex::new(None), checked: AtomicI64::new(0) };

struct Failover {
    /// Time at which a read-only server was last seen.
    since: Mutex<Option<Instant>>,
    /// Unix seconds of the last check.
    checked: AtomicI64,
}

impl Failover {
    fn record_read_only(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection was opened after the last failover.
    fn is_current(&self, made: Instant) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|since| made > since)
    }

    /// Whether this is the first call in this second. The check is needed because reads alone don't reveal a read-only
    /// server.
    fn is_check_due(&self) -> bool {
        let now = contract::Timestamp::now().unix();
        self.checked.swap(now, Ordering::Relaxed) != now
    }
}

/// Fails like a write if the server is read-only.
async fn is_writable(connection: &mut PgConnection) -> sqlx::Result<()> {
    // One request of the simple protocol, which also works through a pooler.
    let row = sqlx::raw_sql("show transaction_read_only").fetch_one(connection).await?;
    if row.try_get::<&str, _>(0)? == "on" {
        FAILOVER.record_read_only();
        return Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::ReadOnlyFilesystem,
            "Postgres is read-only",
        )));
    }
    Ok(())
}

/// A connection outside the pool that its owner keeps, opened on first use.
///
/// It is replaced after a temporary error (it may never reply again), and after a failover.
pub struct Dedicated {
    options: PgConnectOptions,
    connection: Option<(PgConnection, Instant)>,
}

impl Dedicated {
    /// Creates it without connecting.
    pub const fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: None }
    }

    /// Runs queries over the connection, with the timeout of [`in_time`].
    ///
    /// # Errors
    /// The errors of `query` and of connecting, and [`sqlx::Error::Io`] after the timeout.
    pub async fn run<T>(
        &mut self,
        query: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        // Taken out, so that a cancelled future drops the connection.
        let current = self.connection.take().filter(|(_, made)| FAILOVER.is_current(*made));
        let (result, connection) = in_time(async {
            let (mut connection, made) = match current {
                Some(current) => current,
                None => (self.options.connect().await?, Instant::now()),
            };
            let result = pooler::run(&mut connection, query).await;
            Ok((result, (connection, made)))
        })
        .await?;
        if !result.as_ref().is_err_and(is_transient_error) {
            self.connection = Some(connection);
        }
        result
    }

    /// Closes the connection. The next use opens it again.
    pub async fn close(&mut self) {
        if let Some((connection, _)) = self.connection.take() {
            // A broken connection is gone in any case.
            let _ = in_time(connection.close()).await;
        }
    }
}

/// Adds a remedy to a frequent error of the configuration.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let code = error.chain().find_map(|error| {
        let error = error.downcast_ref::<sqlx::Error>()?.as_database_error()?;
        error.code().map(Cow::into_owned)
    });
    let remedy = match code.as_deref() {
        Some("28000" | "28P01") => "configuration: check the user and password in DATABASE_URL",
        Some("3D000") => {
            "configuration: create the database in DATABASE_URL, then run deploy/postgres/init.sql in it"
        }
        Some("42501") => {
            "configuration: the role in DATABASE_URL lacks rights; deploy/postgres/init.sql grants them"
        }
        _ => return error,
    };
    error.context(remedy)
}

/// Whether the TLS handshake failed, for example because of the certificate.
fn is_tls_failure(error: &anyhow::Error) -> bool {
    // How rustls reports all its errors as errors of I/O.
    let is_invalid = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
    error.chain().any(|error| error.downcast_ref().is_some_and(is_invalid))
}

/// Whether an error may be temporary: the connection, or a server that starts, stops or is busy.
fn is_transient(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<sqlx::Error>() {
        Some(error) => is_transient_error(error),
        None => error.downcast_ref::<std::io::Error>().is_some(),
    }
}

/// Error code of a write on a read-only server.
const READ_ONLY: &str = "25006";
/// Error code with which Postgres closes a connection whose service was silent within a transaction, for example after
/// a freeze.
const IDLE_IN_TRANSACTION: &str = "25P03";

/// Whether a retry may help. An error that reveals a failover also invalidates every older connection.
pub fn is_transient_error(error: &sqlx::Error) -> bool {
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
                FAILOVER.record_read_only();
            }
            ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
                || [READ_ONLY, IDLE_IN_TRANSACTION].contains(&&*code)
        }),
        _ => false,
    }
}

/// Whether Postgres cancelled a statement because of a lock, a timeout or a deadlock. Other statements are not affected.
pub fn is_delayed(error: &sqlx::Error) -> bool {
    const DELAYS: [&str; 3] = ["55P03", "57014", "40P01"]; // lock_not_available, query_canceled, deadlock_detected
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| DELAYS.contains(&&*code))
}

/// The refusal of a request whose query failed: `unavailable` if a retry may help. The cause is only logged.
pub fn refusal(operation: &'static str, error: &sqlx::Error) -> Refusal {
    if is_transient_error(error) {
        tracing::warn!(error = chain(error), operation, "Postgres is unavailable");
        Refusal::unavailable()
    } else {
        tracing::error!(error = chain(error), operation, "a query failed");
        Refusal::internal()
    }
}

/// Timeout of one statement, or of a short transaction. Without it, a frozen server or a network that drops everything
/// would block callers for ever.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);

/// Time for a returned connection to finish its last request.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

fn no_reply() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "Postgres does not reply"))
}

/// Cancels a query after a timeout, with a temporary error. Postgres may have executed it nevertheless.
///
/// # Errors
/// The errors of `query`, and [`sqlx::Error::Io`] after the timeout.
pub async fn in_time<T>(query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(STATEMENT_TIMEOUT, query).await.unwrap_or_else(|_| {
        metrics::counter!("postgres_timeouts_total").increment(1);
        Err(no_reply())
    })
}

/// Timeout of the reply to [`answers`].
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks that Postgres replies and accepts writes.
///
/// # Errors
/// If it doesn't within 3 s.
pub async fn answers(pool: &PgPool) -> anyhow::Result<()> {
    let check = async {
        let mut connection = pool.acquire().await?;
        let checked = tokio::time::timeout(CHECK_TIMEOUT, is_writable(&mut connection)).await;
        if !matches!(checked, Ok(Ok(_))) {
            // It may never reply again, and must not return to the pool.
            connection.close_on_drop();
        }
        checked
            .context("no reply from Postgres within 2 s")?
            .context("check that Postgres accepts writes")?;
        anyhow::Ok(())
    };
    tokio::time::timeout(CHECK_TIMEOUT * 3 / 2, check)
        .await
        .context("no connection to Postgres within 3 s")?
}

/// Sets the metrics of a pool.
pub fn measure(pool: &PgPool) {
    let (size, idle) = (pool.size(), u32::try_from(pool.num_idle()).unwrap_or(u32::MAX));
    metrics::gauge!("db_client_connection_count", "state" => "idle").set(idle);
    metrics::gauge!("db_client_connection_count", "state" => "used").set(size.saturating_sub(idle));
    metrics::gauge!("db_client_connection_max").set(pool.options().get_max_connections());
}

/// Interval of the measurements of the oldest transaction.
const TRANSACTIONS_INTERVAL: Duration = Duration::from_secs(10);

/// Measures the age of the oldest transaction regularly, until the token is cancelled.
async fn watch_transactions(pool: Pool, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TRANSACTIONS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let oldest = metrics::gauge!("postgres_oldest_transaction_seconds");
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let age = in_time(oldest_transaction(&pool)).await;
        oldest.set(age.unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "can't measure the oldest transaction");
            f64::NAN
        }));
    }
}

/// Age in seconds of the oldest transaction of a client in this database. Those of other roles are visible only to
/// members of `pg_read_all_stats`.
async fn oldest_transaction(pool: &Pool) -> sqlx::Result<f64> {
    query_scalar(
        "select coalesce(extract(epoch from max(clock_timestamp() - xact_start)), 0)::float8
         from pg_stat_activity
         where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()",
    )
    .fetch_one(pool)
    .await
}
