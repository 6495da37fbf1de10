//! Support for a pooler in transaction mode, such as PgBouncer, between a service and Postgres.
//!
//! Such a pooler may execute each transaction on another connection to Postgres. sqlx prepares a statement in one
//! request and executes it in the next. So both must be in one transaction, and the statement must have no name, because
//! other clients of the same connection use the same names. Settings of a session come from its role
//! (`deploy/postgres/init.sql`), because poolers refuse them when a client connects.

use super::begin::{begin, uncancelled};
use futures_util::{
    TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Error, Execute, Executor, FromRow, PgConnection, PgPool, Postgres, SqlSafeStr, SqlStr,
    Transaction,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
    query::{Query, QueryAs, QueryScalar},
};
use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether this process connects through a pooler. A process has one database, so this never changes after the start.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Remembers whether this process connects through a pooler.
pub(super) fn set_used(is_used: bool) {
    IS_USED.store(is_used, Ordering::Relaxed);
}

/// Whether this process connects through a pooler.
pub(super) fn is_used() -> bool {
    IS_USED.load(Ordering::Relaxed)
}

/// Like [`sqlx::query()`], but unnamed behind a pooler.
pub fn query(sql: impl SqlSafeStr) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(!is_used())
}

/// Like [`sqlx::query_as()`], but unnamed behind a pooler.
pub fn query_as<O>(sql: impl SqlSafeStr) -> QueryAs<'static, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql).persistent(!is_used())
}

/// Like [`sqlx::query_scalar()`], but unnamed behind a pooler.
pub fn query_scalar<O>(sql: impl SqlSafeStr) -> QueryScalar<'static, Postgres, O, PgArguments>
where
    (O,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(!is_used())
}

/// Runs queries, in a transaction if this process connects through a pooler.
pub(super) async fn run<T>(
    connection: &mut PgConnection,
    queries: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    if !is_used() {
        return queries(connection).await;
    }
    let mut transaction = begin(connection).await?;
    let result = queries(&mut transaction).await?;
    transaction.commit().await?;
    Ok(result)
}

/// A pool of connections. As an executor, it runs each statement in a transaction of its own if it is behind a pooler.
#[derive(Debug, Clone)]
pub struct Pool(PgPool);

impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        Self(pool)
    }
}

impl Pool {
    /// Begins a transaction, see [`begin`](super::begin()).
    ///
    /// # Errors
    /// If Postgres fails, or no connection is free.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        uncancelled(self.0.begin()).await
    }
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.0
    }
}

impl<'c> Executor<'c> for &'c Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !is_used() {
            return self.0.fetch_many(query);
        }
        let results = async move {
            let mut transaction = self.begin().await?;
            let results: Vec<_> = transaction.fetch_many(query).try_collect().await?;
            transaction.commit().await?;
            Ok(stream::iter(results.into_iter().map(Ok)))
        };
        Box::pin(results.try_flatten_stream())
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !is_used() {
            return self.0.fetch_optional(query);
        }
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let row = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.0.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.0.describe(sql)
    }
}
