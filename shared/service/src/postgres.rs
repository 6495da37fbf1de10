//! Postgres: a pool on one schema, migrated, that waits for a database which isn't there yet.

use crate::{Backoff, config};
use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, Executor, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{str::FromStr, time::Duration};
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
        // Who gave up waiting gives its connection back in the middle of an answer. The pool waits for the rest of it,
        // without an end where the network drops everything, and would be full of such connections.
        .after_release(|connection, _| {
            Box::pin(async move {
                let rest = tokio::time::timeout(RELEASE, connection.ping()).await;
                rest.unwrap_or_else(|_| {
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
    // Not `run`, whose future is not `Send`: it takes more than connections.
    migrations.run_direct(None, &mut connection, false).await.context("migrate the schema")?;
    connection.close().await.ok();
    Ok(())
}

/// Whether an error may pass by itself: the connection, or a server that starts, stops or is busy.
fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<sqlx::Error>() {
        Some(error) => is_passing_error(error),
        None => error.downcast_ref::<std::io::Error>().is_some(),
    }
}

/// Whether doing it again may help.
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
            ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
                || code == "25006"
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

/// Whether Postgres answers.
///
/// # Errors
/// When it doesn't, within 3 s.
pub async fn answers(pool: &PgPool) -> anyhow::Result<()> {
    let asked = async {
        let mut connection = pool.acquire().await?;
        let select = sqlx::query("select 1").execute(&mut *connection);
        let answered = tokio::time::timeout(ANSWER, select).await;
        if !matches!(answered, Ok(Ok(_))) {
            // It may never answer again: back in the pool, it would be in the way.
            connection.close_on_drop();
        }
        answered.context("Postgres does not answer within 2 s")??;
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
