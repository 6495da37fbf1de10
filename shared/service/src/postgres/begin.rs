//! Transactions whose start may be cancelled. In sqlx 0.9, a future that is dropped while Postgres executes `begin` returns
//! its connection to the pool within the transaction, and nothing that later statements store is committed
//! (<https://github.com/transact-rs/sqlx/issues/4393>).

use sqlx::{Connection, Error, Executor, PgConnection, Postgres, Row, Transaction};
use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When [`begin`] was last cancelled.
static CANCELLED: Mutex<Option<Instant>> = Mutex::new(None);
/// Time in which a connection returns to its pool.
const RETURN_TIME: Duration = Duration::from_secs(60);

/// Begins a transaction on a connection of a pool. The caller may drop the future at any time.
///
/// # Errors
/// If Postgres fails.
pub async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, Error> {
    uncancelled(connection.begin()).await
}

/// Remembers if this is cancelled.
pub(super) async fn uncancelled<T>(begin: impl Future<Output = T>) -> T {
    struct Pending;
    impl Drop for Pending {
        fn drop(&mut self) {
            *CANCELLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
    let mut begin = pin!(begin);
    // Declared later, so dropped before the connection returns to its pool.
    let pending = Pending;
    let begun = begin.as_mut().await;
    std::mem::forget(pending);
    begun
}

/// Ends a transaction in which a returned connection may be, because [`begin`] was cancelled.
pub(super) async fn end_transaction(connection: &mut PgConnection) -> Result<(), Error> {
    let cancelled = *CANCELLED.lock().unwrap_or_else(PoisonError::into_inner);
    if cancelled.is_none_or(|cancelled| cancelled.elapsed() > RETURN_TIME) {
        return Ok(());
    }
    // Outside of a transaction, Postgres would log a warning for each `rollback`.
    let row = connection.fetch_one("select now() < statement_timestamp()").await?;
    if row.try_get(0)? {
        connection.execute("rollback").await?;
    }
    Ok(())
}
