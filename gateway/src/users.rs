//! Whose sockets are here, and whose tokens are refused.

use crate::{auth::Identity, outbox::Outbox};
use anyhow::Context;
use async_nats::jetstream::kv;
use contract::{
    Close, Code, Refusal, Timestamp, UserId,
    sessions::{Revoke, Revoked},
};
use futures_util::StreamExt;
use service::{Backoff, Bus};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The bucket that all gateways share: for each user, the moment until which tokens are refused, in Unix seconds.
const BUCKET: &str = "REVOCATIONS";

/// The users with sockets at this gateway, and the revocations of all.
pub struct Users {
    sockets: Mutex<HashMap<UserId, Vec<Weak<Outbox>>>>,
    revoked: Mutex<HashMap<UserId, i64>>,
    /// How long a revocation is kept: as long as a token can live.
    keep: Duration,
    max_sockets: usize,
}

/// A socket of a user, from before its handshake is answered until it is closed.
pub struct Presence {
    users: Arc<Users>,
    user: UserId,
    outbox: Arc<Outbox>,
}

impl Presence {
    /// What waits to be written to the socket.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut sockets = self.users.sockets();
        if let Some(outboxes) = sockets.get_mut(&self.user) {
            outboxes.retain(|outbox| !std::ptr::eq(outbox.as_ptr(), Arc::as_ptr(&self.outbox)));
            if outboxes.is_empty() {
                sockets.remove(&self.user);
            }
        }
    }
}

impl Users {
    /// Nobody yet.
    pub fn new(max_sockets: usize, keep: Duration) -> Self {
        Self { sockets: Mutex::default(), revoked: Mutex::default(), keep, max_sockets }
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<UserId, Vec<Weak<Outbox>>>> {
        self.sockets.lock().expect("no holder of this lock panics")
    }

    fn revoked(&self) -> MutexGuard<'_, HashMap<UserId, i64>> {
        self.revoked.lock().expect("no holder of this lock panics")
    }

    /// Adds a socket; `None` when the user has as many as one may have.
    pub fn enter(self: &Arc<Self>, user: UserId, outbox: Arc<Outbox>) -> Option<Presence> {
        let mut sockets = self.sockets();
        let outboxes = sockets.entry(user).or_default();
        if outboxes.len() >= self.max_sockets {
            metrics::counter!("gateway_sockets_limited_total").increment(1);
            return None;
        }
        outboxes.push(Arc::downgrade(&outbox));
        drop(sockets);
        Some(Presence { users: self.clone(), user, outbox })
    }

    /// Whether a token was issued before its user's sessions were ended. One that doesn't say when it was, was.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        let until = self.revoked().get(&identity.user_id).copied();
        until.is_some_and(|until| identity.issued_at.is_none_or(|issued| issued <= until))
    }

    fn revoke(&self, user: UserId, until: i64) {
        self.revoked().insert(user, until);
        for outbox in self.sockets().get(&user).into_iter().flatten().filter_map(Weak::upgrade) {
            outbox.close(Close::Unauthorized);
        }
    }

    fn forget_old(&self) {
        let oldest = Timestamp::now().unix() - i64::try_from(self.keep.as_secs()).unwrap_or(i64::MAX);
        self.revoked().retain(|_, until| *until > oldest);
    }

    /// The bucket, made where it is missing.
    async fn bucket(&self, bus: &Bus) -> anyhow::Result<kv::Store> {
        if let Ok(bucket) = bus.jetstream().get_key_value(BUCKET).await {
            return Ok(bucket);
        }
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            max_age: self.keep,
            num_replicas: service::streams::copies(bus),
            ..kv::Config::default()
        };
        bus.jetstream().create_key_value(config).await.context("make the bucket of revocations")
    }

    /// Answers [`Revoke`]: tells every gateway, this one included, and those that start later.
    ///
    /// # Errors
    /// `unavailable`: nothing is revoked.
    pub async fn answer(&self, bus: &Bus, Revoke { user_id }: Revoke) -> Result<Revoked, Refusal> {
        let now = Timestamp::now();
        let put = async {
            let bucket = self.bucket(bus).await?;
            bucket.put(user_id.to_string(), now.unix().to_string().into()).await?;
            anyhow::Ok(())
        };
        put.await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "revoke a user's sessions");
            Refusal::new(Code::Unavailable, "nothing is revoked; ask again")
        })?;
        self.revoke(user_id, now.unix());
        Ok(Revoked { revoked_before: now })
    }

    /// Learns what was revoked, and goes on following it until the token is cancelled. `learnt` is called once all that
    /// was there is known.
    pub async fn follow(self: Arc<Self>, bus: Bus, ended: CancellationToken, learnt: impl FnOnce()) {
        let mut learnt = Some(learnt);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        loop {
            let followed = tokio::select! {
                followed = self.follow_once(&bus, &mut learnt, &mut backoff) => followed,
                () = ended.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(error = format!("{error:#}"), "follow revocations; trying again");
            }
            backoff.wait().await;
        }
    }

    async fn follow_once(
        &self,
        bus: &Bus,
        learnt: &mut Option<impl FnOnce()>,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let bucket = self.bucket(bus).await?;
        let mut doubts = bus.doubts();
        doubts.mark_unchanged();
        let known = bucket.status().await.context("ask for the bucket of revocations")?.values();
        let mut changes = bucket.watch_with_history(">").await.context("watch revocations")?;
        let mut read = 0;
        loop {
            if read >= known
                && let Some(learnt) = learnt.take()
            {
                learnt();
            }
            let entry = tokio::select! {
                entry = changes.next() => entry.context("the watch ended")?.context("read a revocation")?,
                // A server that was restarted may have forgotten the watch: a new one tells everything again.
                _ = doubts.changed() => return Ok(()),
            };
            backoff.reset();
            read += 1;
            self.forget_old();
            let until = std::str::from_utf8(&entry.value).ok().and_then(|until| until.parse().ok());
            if let (Ok(user), Some(until)) = (entry.key.parse(), until) {
                self.revoke(user, until);
            }
        }
    }
}
