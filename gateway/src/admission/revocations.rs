//! Revocations of tokens: the bucket in which all gateways keep them, and the request that creates one.
//!
//! The bucket has one key for each user, such as `456`. Its value is the time up to which issued tokens are refused. If
//! one token stays valid, a second key, `456-except`, names it. This key is written first, so that a reader knows the
//! exception before the revocation. (A gateway release without exceptions ignores this key.)

use crate::admission::user_sockets::{Revocation, Users};
use anyhow::Context;
use async_nats::jetstream::{
    ErrorCode, kv,
    stream::{Info, State},
};
use contract::{
    Code, Refusal, Timestamp, UserId,
    sessions::{JTI_BYTES, Revoke, Revoked},
};
use futures_util::{StreamExt, future::try_join_all};
use serde::{Deserialize, Serialize};
use service::{Backoff, Bus};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Name of the bucket that all gateways share.
const BUCKET: &str = "REVOCATIONS";
/// Suffix of the key of an exception, behind the user's id. The key is one token of a subject, because the permissions
/// allow no more.
const EXCEPT: &str = "-except";
/// Interval at which a gateway checks that the bucket has not been replaced.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Number of concurrent writes when a new bucket is filled.
const WRITES: usize = 64;

/// The value of an exception's key: the token that stays valid.
#[derive(Debug, Serialize, Deserialize)]
struct Exception {
    /// The time of the revocation, in Unix seconds.
    until: i64,
    /// The token's `jti`; `None` if no token stays valid any more.
    jti: Option<Arc<str>>,
}

/// A parsed entry of the bucket.
#[derive(Debug)]
enum Entry {
    Revoked(UserId, i64),
    Excepted(UserId, Exception),
    /// The revocation was deleted.
    Deleted(UserId),
}

impl Entry {
    /// Parses an entry. Returns `None` if it is not ours.
    fn parse(entry: &kv::Entry) -> Option<Self> {
        let is_put = entry.operation == kv::Operation::Put;
        if let Some(user) = entry.key.strip_suffix(EXCEPT) {
            let user = user.parse().ok()?;
            let exception = if is_put {
                serde_json::from_slice(&entry.value).ok()?
            } else {
                Exception { until: 0, jti: None }
            };
            return Some(Self::Excepted(user, exception));
        }
        let user = entry.key.parse().ok()?;
        if !is_put {
            return Some(Self::Deleted(user));
        }
        let until = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
        Some(Self::Revoked(user, until))
    }
}

/// The bucket of revocations, and the users to whom they are applied.
pub struct Revocations {
    users: Arc<Users>,
    bus: Bus,
}

impl Revocations {
    /// Creates the revocations of these users.
    pub const fn new(users: Arc<Users>, bus: Bus) -> Self {
        Self { users, bus }
    }

    /// Opens the bucket. If it is missing, creates it and writes every revocation that this gateway knows.
    async fn bucket(&self) -> anyhow::Result<kv::Store> {
        if let Ok(bucket) = self.bus.jetstream().get_key_value(BUCKET).await {
            return Ok(bucket);
        }
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            max_age: self.users.retention(),
            num_replicas: service::streams::copies(&self.bus),
            ..kv::Config::default()
        };
        let created = self.bus.jetstream().create_key_value(config).await;
        let bucket = created.context("create the bucket of revocations")?;
        let known = self.users.revocations();
        if !known.is_empty() {
            tracing::warn!(
                revocations = known.len(),
                "the bucket of revocations was missing; created it again"
            );
        }
        for chunk in known.chunks(WRITES) {
            try_join_all(chunk.iter().map(|revocation| write_back(&bucket, revocation))).await?;
        }
        Ok(bucket)
    }

    /// Handles [`Revoke`]. The bucket passes the revocation on to all gateways, including those that start later.
    ///
    /// # Errors
    /// `invalid_request`, or `unavailable` if it could not be written. Then nothing is revoked.
    pub async fn answer(&self, Revoke { user_id, except_jti }: Revoke) -> Result<Revoked, Refusal> {
        if except_jti.as_ref().is_some_and(|jti| jti.is_empty() || jti.len() > JTI_BYTES) {
            let detail = format!("\"except_jti\" must have 1 to {JTI_BYTES} bytes");
            return Err(Refusal::new(Code::InvalidRequest, detail));
        }
        let now = Timestamp::now();
        let except = except_jti.map(Arc::from);
        // An earlier exception with the same second must not apply to this revocation.
        let has_exception = except.is_some() || self.users.has_exception(user_id);
        let exception = has_exception.then_some(Exception { until: now.unix(), jti: except });
        let put = async {
            let bucket = self.bucket().await?;
            if let Some(exception) = &exception {
                let value = serde_json::to_vec(exception).context("encode an exception")?;
                bucket.put(format!("{user_id}{EXCEPT}"), value.into()).await?;
            }
            bucket.put(user_id.to_string(), now.unix().to_string().into()).await?;
            anyhow::Ok(())
        };
        put.await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "revoke a user's sessions");
            Refusal::new(Code::Unavailable, "nothing was revoked; try again")
        })?;
        if let Some(exception) = exception {
            self.users.except(user_id, exception.until, exception.jti);
        }
        self.users.revoke(user_id, now.unix());
        Ok(Revoked { revoked_before: now })
    }

    /// Reads the bucket, and follows it until the token is cancelled. Calls `on_complete` once all existing entries are
    /// read.
    pub async fn follow(self: Arc<Self>, ended: CancellationToken, on_complete: impl FnOnce()) {
        let mut on_complete = Some(on_complete);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        loop {
            let followed = tokio::select! {
                followed = self.follow_once(&mut on_complete, &mut backoff) => followed,
                () = ended.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(error = format!("{error:#}"), "follow revocations; trying again");
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = ended.cancelled() => return,
            }
        }
    }

    async fn follow_once(
        &self,
        on_complete: &mut Option<impl FnOnce()>,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        let mut disruptions = self.bus.disruptions();
        disruptions.mark_unchanged();
        let followed = bucket.stream.cached_info().clone();
        // The watch delivers only the last value of each key, so of the number of messages only 0 is meaningful.
        let mut is_complete = followed.state.messages == 0;
        let mut changes = bucket.watch_with_history(">").await.context("watch revocations")?;
        let mut last = 0;
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if is_complete && let Some(on_complete) = on_complete.take() {
                on_complete();
            }
            let entry = tokio::select! {
                entry = changes.next() => entry.context("the watch ended")?.context("read a revocation")?,
                // A restarted server may have lost the watch. A new watch reads everything again.
                _ = disruptions.changed() => return Ok(()),
                _ = checks.tick() => {
                    let Some(state) = self.check(&followed).await? else { return Ok(()) };
                    is_complete |= has_read(&state, last);
                    self.users.forget_old();
                    continue;
                }
            };
            backoff.reset();
            is_complete |= entry.seen_current;
            last = entry.revision;
            match Entry::parse(&entry) {
                Some(Entry::Revoked(user, until)) => self.users.revoke(user, until),
                Some(Entry::Excepted(user, Exception { until, jti })) => self.users.except(user, until, jti),
                Some(Entry::Deleted(user)) => self.users.lift(user),
                None => {
                    tracing::warn!(key = entry.key, "an entry of the bucket of revocations is invalid")
                }
            }
        }
    }

    /// The state of the bucket; `None` if it was deleted or replaced.
    async fn check(&self, followed: &Info) -> anyhow::Result<Option<State>> {
        match self.bus.jetstream().get_stream(followed.config.name.clone()).await {
            Ok(stream) => {
                let info = stream.cached_info();
                Ok((info.created == followed.created).then(|| info.state.clone()))
            }
            Err(error) if is_missing(&error) => Ok(None),
            // The watch may still work, and NATS may be back soon.
            Err(error) => {
                tracing::debug!(error = service::bus::chain(&error), "check the bucket of revocations");
                Ok(Some(followed.state.clone()))
            }
        }
    }
}

/// Whether the revision `last` is the end of the bucket. Entries that expire in the meantime are never read.
const fn has_read(state: &State, last: u64) -> bool {
    state.messages == 0 || last >= state.last_sequence
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Writes a revocation to a new bucket, unless another gateway has already written this user's.
async fn write_back(
    bucket: &kv::Store,
    Revocation { user, until, except }: &Revocation,
) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    if let Some(jti) = except {
        let exception = Exception { until: *until, jti: Some(jti.clone()) };
        entries.push((
            format!("{user}{EXCEPT}"),
            serde_json::to_vec(&exception).context("encode an exception")?,
        ));
    }
    entries.push((user.to_string(), until.to_string().into_bytes()));
    for (key, value) in entries {
        match bucket.update(key, value.into(), 0).await {
            Err(error) if error.kind() != kv::UpdateErrorKind::WrongLastRevision => {
                return Err(error).context("write a revocation back");
            }
            _ => {}
        }
    }
    Ok(())
}
