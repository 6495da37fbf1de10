//! Waits with a time limit, for tests.

use std::time::Duration;

/// Time limit of a wait: longer than any operation takes, even on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A polled value that may not be there yet: a `bool`, or an `Option`.
pub trait Poll {
    /// The value that is waited for.
    type Value;

    /// Returns the value if it is there.
    fn ready(self) -> Option<Self::Value>;
}

impl Poll for bool {
    type Value = ();

    fn ready(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Poll for Option<T> {
    type Value = T;

    fn ready(self) -> Self {
        self
    }
}

/// Waits for a future.
///
/// # Panics
/// If it takes longer than [`TIMEOUT`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("waited {TIMEOUT:?} for {what}"))
}

/// Polls until the value is there.
///
/// # Panics
/// If it takes longer than [`TIMEOUT`].
pub async fn eventually<P: Poll, F: Future<Output = P>>(what: &str, mut poll: impl FnMut() -> F) -> P::Value {
    within(what, async {
        loop {
            if let Some(value) = poll().await.ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
