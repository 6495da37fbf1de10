//! Revocations of tokens: the bucket in which all gateways keep them, and the request that makes one.
//!
//! The bucket has one key for each user, `456`: the moment until which tokens are refused. If a token stays valid, a
//! second key, `456-except`, names it; it is written first, so that whoever reads the bucket in order knows the
//! exception before the revocation. (A gateway of a version without exceptions ignores that key.)

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

/// The bucket that all gateways share.
const BUCKET: &str = "REVOCATIONS";
/// What follows the user's id in the key of an exception. A single word of a subject, as permissions allow no more.
const EXCEPT: &str = "-except";
/// How often a gateway checks that the bucket is still the one that it follows.
const CHECK: Duration = Duration::from_secs(5);
/// Revocations that are written back to a new bucket at once.
const WRITES: usize = 64;

/// The token that stays valid, as the bucket has it.
#[derive(Debug, Serialize, Deserialize)]
struct Exception {
    /// The moment of the revocation.
    until: i64,
    /// The token's `jti`; `None`: no token any more.
    jti: Option<Arc<str>>,
}

/// What an entry of the bucket says.
#[derive(Debug)]
enum Entry {
    Revoked(UserId, i64),
    Excepted(UserId, Exception),
    /// The revocation was deleted.
    Deleted(UserId),
}

impl Entry {
    /// Reads an entry; `None` if it is none of ours.
    fn read(entry: &kv::Entry) -> Option<Self> {
        let is_there = entry.operation == kv::Operation::Put;
        if let Some(user) = entry.key.strip_suffix(EXCEPT) {
            let user = user.parse().ok()?;
            let exception = if is_there {
                serde_json::from_slice(&entry.value).ok()?
            } else {
                Exception { until: 0, jti: None }
            };
            return Some(Self::Excepted(user, exception));
        }
        let user = entry.key.parse().ok()?;
        if !is_there {
            return Some(Self::Deleted(user));
        }
        let until = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
        Some(Self::Revoked(user, until))
    }
}

/// The bucket of revocations, and the users whom they concern.
pub struct Revocations {
    users: Arc<Users>,
    bus: Bus,
}

impl Revocations {
    /// The revocations of these users.
    pub const fn new(users: Arc<Users>, bus: Bus) -> Self {
        Self { users, bus }
    }

    /// The bucket. If it is missing, it is made, with every revocation that this gateway knows.
    async fn bucket(&self) -> anyhow::Result<kv::Store> {
        if let Ok(bucket) = self.bus.jetstream().get_key_value(BUCKET).await {
            return Ok(bucket);
        }
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            max_age: self.users.keep(),
            num_replicas: service::streams::copies(&self.bus),
            ..kv::Config::default()
        };
        let made = self.bus.jetstream().create_key_value(config).await;
        let bucket = made.context("make the bucket of revocations")?;
        let known = self.users.revocations();
        if !known.is_empty() {
            tracing::warn!(revocations = known.len(), "the bucket of revocations was gone; it is made again");
        }
        for some in known.chunks(WRITES) {
            try_join_all(some.iter().map(|revocation| write_back(&bucket, revocation))).await?;
        }
        Ok(bucket)
    }

    /// Answers [`Revoke`]: every gateway learns of it, this one included, and those that start later.
    ///
    /// # Errors
    /// `invalid_request`, or `unavailable`: nothing is revoked.
    pub async fn answer(&self, Revoke { user_id, except_jti }: Revoke) -> Result<Revoked, Refusal> {
        if except_jti.as_ref().is_some_and(|jti| jti.is_empty() || jti.len() > JTI_BYTES) {
            let detail = format!("\"except_jti\" is a text of 1 to {JTI_BYTES} bytes");
            return Err(Refusal::new(Code::InvalidRequest, detail));
        }
        let now = Timestamp::now();
        let except = except_jti.map(Arc::from);
        // An earlier exception of this very second must not count for this revocation.
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
            Refusal::new(Code::Unavailable, "nothing is revoked; ask again")
        })?;
        if let Some(exception) = exception {
            self.users.except(user_id, exception.until, exception.jti);
        }
        self.users.revoke(user_id, now.unix());
        Ok(Revoked { revoked_before: now })
    }

    /// Reads the bucket, and follows it until the token is cancelled. `learnt` is called once everything that was in it
    /// is known.
    pub async fn follow(self: Arc<Self>, ended: CancellationToken, learnt: impl FnOnce()) {
        let mut learnt = Some(learnt);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        loop {
            let followed = tokio::select! {
                followed = self.follow_once(&mut learnt, &mut backoff) => followed,
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
        learnt: &mut Option<impl FnOnce()>,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        let mut disruptions = self.bus.disruptions();
        disruptions.mark_unchanged();
        let followed = bucket.stream.cached_info().clone();
        // Only the last value of each key comes, so the number of messages says nothing, but for 0.
        let mut is_complete = followed.state.messages == 0;
        let mut changes = bucket.watch_with_history(">").await.context("watch revocations")?;
        let mut last = 0;
        let mut checks = interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if is_complete && let Some(learnt) = learnt.take() {
                learnt();
            }
            let entry = tokio::select! {
                entry = changes.next() => entry.context("the watch ended")?.context("read a revocation")?,
                // A server that was restarted may have forgotten the watch: a new one reads everything again.
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
            match Entry::read(&entry) {
                Some(Entry::Revoked(user, until)) => self.users.revoke(user, until),
                Some(Entry::Excepted(user, Exception { until, jti })) => self.users.except(user, until, jti),
                Some(Entry::Deleted(user)) => self.users.lift(user),
                None => {
                    tracing::warn!(key = entry.key, "an entry of the bucket of revocations can't be read")
                }
            }
        }
    }

    /// The state of the bucket; `None` if it is gone, or another one has its name.
    async fn check(&self, followed: &Info) -> anyhow::Result<Option<State>> {
        match self.bus.jetstream().get_stream(followed.config.name.clone()).await {
            Ok(stream) => {
                let info = stream.cached_info();
                Ok((info.created == followed.created).then(|| info.state.clone()))
            }
            Err(error) if is_missing(&error) => Ok(None),
            // The watch may still be good, and NATS may be back in a moment.
            Err(error) => {
                tracing::debug!(error = service::bus::chain(&error), "check the bucket of revocations");
                Ok(Some(followed.state.clone()))
            }
        }
    }
}

/// Whether a reader that has read this revision last has read everything. What expires meanwhile is never read.
const fn has_read(state: &State, last: u64) -> bool {
    state.messages == 0 || last >= state.last_sequence
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Writes a revocation to a new bucket, unless another gateway has written a later one there.
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
