//! Black-box tests of the whole stack: the real services as processes, over real sockets, NATS and Postgres.
//!
//! A test starts a [`Stack`] of its own, and talks to it as users do: [`Stack::socket`], [`Stack::http`], NATS. What
//! it waits for, it awaits; every wait has an end, and says what it waited for.

pub mod chaos;
pub mod documented;
mod http;
mod proxy;
mod socket;
mod stack;

pub use http::Answer;
pub use proxy::{Flow, Proxy};
pub use socket::Socket;
pub use stack::{Kind, Links, OnLine, Options, SECRET, Stack, token, token_with};

use std::{future::Future, time::Duration};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
///
/// # Panics
/// When it takes longer than [`PATIENCE`].
pub async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Asks again and again, until the answer is what was waited for.
///
/// # Panics
/// When it takes longer than [`PATIENCE`].
pub async fn eventually<T, Fut: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> Fut) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
