//! How much one user, one address and everyone together may ask of this gateway.

use crate::admission::forwarded;
use axum::http::HeaderMap;
use contract::{Code, ConversationId, Refusal, UserId};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};
use ipnet::IpNet;
use std::{hash::Hash, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How often the state of those who have been quiet is forgotten.
const FORGET: Duration = Duration::from_secs(30);
/// How long a handshake waits for its turn before it is refused.
const TURN: Duration = Duration::from_secs(2);
/// Handshakes that wait for their turn, for each that has it.
const WAITING: usize = 16;

/// A rate for each key (the generic cell rate algorithm); none at all for 0.
pub struct Rate<K: Hash + Eq + Clone>(Option<RateLimiter<K, DashMapStateStore<K>, DefaultClock>>);

impl<K: Hash + Eq + Clone> Rate<K> {
    /// So many a second, and so many at once after a pause.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let quota = NonZeroU32::new(per_second).map(Quota::per_second);
        let quota = quota.map(|quota| NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst)));
        Self(quota.map(RateLimiter::dashmap))
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }

    fn forget(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// The limits of a gateway.
pub struct Limits {
    frames: Rate<UserId>,
    sends: Rate<UserId>,
    conversation_sends: Rate<(UserId, ConversationId)>,
    typing: Rate<UserId>,
    calls: Rate<UserId>,
    conversations: Rate<UserId>,
    reads: Rate<UserId>,
    subscribes: Rate<UserId>,
    /// Handshakes, by address.
    pub handshakes: Rate<IpAddr>,
    /// Sockets of one user.
    pub sockets_per_user: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a request's head may take, and a connection may be kept without one.
    pub head_time: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// How long a request's body may take.
    pub body_time: Duration,
    /// Bytes of a frame, or of a message in several.
    pub frame_bytes: usize,
    /// After how long without a sign of life a socket is closed.
    pub idle: Duration,
    trusted_proxies: Vec<IpNet>,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Limits {
    /// These limits.
    pub fn new(config: &crate::config::Limits) -> Self {
        let under_way = config.handshakes_under_way as usize;
        Self {
            frames: Rate::new(config.frame_rate, config.frame_burst),
            sends: Rate::new(config.send_rate, config.send_burst),
            conversation_sends: Rate::new(config.conversation_send_rate, config.conversation_send_burst),
            typing: Rate::new(config.typing_rate, config.typing_burst),
            calls: Rate::new(config.call_rate, config.call_burst),
            conversations: Rate::new(config.conversation_rate, config.conversation_burst),
            reads: Rate::new(config.read_rate, config.read_burst),
            subscribes: Rate::new(config.subscribe_rate, config.subscribe_burst),
            handshakes: Rate::new(config.handshake_rate, config.handshake_burst),
            sockets_per_user: config.sockets_per_user as usize,
            head_bytes: config.head_bytes as usize,
            head_time: Duration::from_secs(config.head_seconds.into()),
            body_bytes: config.body_bytes as usize,
            body_time: Duration::from_secs(config.body_seconds.into()),
            frame_bytes: config.frame_bytes as usize,
            idle: Duration::from_secs(config.idle_seconds.into()),
            trusted_proxies: config.trusted_proxies.clone(),
            turns: Arc::new(Semaphore::new(under_way)),
            places: Arc::new(Semaphore::new(under_way * WAITING)),
        }
    }

    /// A frame of any kind, over any of a user's sockets.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn frame(&self, user: UserId) -> Result<(), Refusal> {
        self.frames.take(&user).map_err(|wait| {
            metrics::counter!("gateway_frames_limited_total").increment(1);
            too_fast(wait, "too many frames; slow down")
        })
    }

    /// A message of a user, to a conversation.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn send(&self, user: UserId, conversation: ConversationId) -> Result<(), Refusal> {
        let taken = self.conversation_sends.take(&(user, conversation)).and_then(|()| self.sends.take(&user));
        taken.map_err(|wait| {
            metrics::counter!("gateway_sends_limited_total").increment(1);
            too_fast(wait, "too many messages; slow down")
        })
    }

    /// The start or the end of a user's typing.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn typing(&self, user: UserId) -> Result<(), Refusal> {
        self.typing.take(&user).map_err(|wait| {
            metrics::counter!("gateway_typing_limited_total").increment(1);
            too_fast(wait, "typing starts and ends too often; slow down")
        })
    }

    /// A user's call of the HTTP API.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn call(&self, user: UserId) -> Result<(), Refusal> {
        self.calls.take(&user).map_err(|wait| {
            metrics::counter!("gateway_calls_limited_total").increment(1);
            too_fast(wait, "too many calls; slow down")
        })
    }

    /// A conversation that a user opens: each new one appears on top of the lists of its participants.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn conversation(&self, user: UserId) -> Result<(), Refusal> {
        self.conversations.take(&user).map_err(|wait| {
            metrics::counter!("gateway_conversations_limited_total").increment(1);
            too_fast(wait, "too many new conversations; slow down")
        })
    }

    /// A user's read marker.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn read(&self, user: UserId) -> Result<(), Refusal> {
        self.reads.take(&user).map_err(|wait| {
            metrics::counter!("gateway_reads_limited_total").increment(1);
            too_fast(wait, "too many read markers; slow down")
        })
    }

    /// A user's subscription on a multiplexed socket. It bounds the channels that outlive a refusal by some seconds,
    /// and the questions that a service is asked.
    ///
    /// # Errors
    /// `rate_limited`, and when to go on.
    pub fn subscribe(&self, user: UserId) -> Result<(), Refusal> {
        self.subscribes.take(&user).map_err(|wait| {
            metrics::counter!("gateway_subscribes_limited_total").increment(1);
            too_fast(wait, "too many subscriptions; slow down")
        })
    }

    /// How often a client is pinged, so that a living one is never idle for too long.
    pub fn ping_every(&self) -> Duration {
        self.idle * 5 / 12
    }

    /// Waits for the turn of a handshake; `None` when too many are under way for it to come soon.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let _place = self.places.clone().try_acquire_owned().ok()?;
        tokio::time::timeout(TURN, self.turns.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Whose connection it is: the other end's address; behind a trusted proxy, the last one in `X-Forwarded-For` or
    /// `Forwarded` that is not itself a trusted proxy's.
    pub fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusts = |address: &IpAddr| self.trusted_proxies.iter().any(|network| network.contains(address));
        forwarded::client_of(peer, headers, trusts)
    }

    /// Forgets those who have been quiet, until the token is cancelled.
    pub async fn forget(self: Arc<Self>, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FORGET) => {}
                () = ended.cancelled() => return,
            }
            self.sends.forget();
            self.conversation_sends.forget();
            for rate in
                [&self.frames, &self.typing, &self.calls, &self.conversations, &self.reads, &self.subscribes]
            {
                rate.forget();
            }
            self.handshakes.forget();
        }
    }
}

fn too_fast(wait: Duration, detail: &str) -> Refusal {
    let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
    Refusal { retry_after_ms, ..Refusal::new(Code::RateLimited, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_burst_and_none_is_no_limit() {
        let rate = Rate::new(1, 3);
        assert!((0..3).all(|_| rate.take(&1).is_ok()));
        let wait = rate.take(&1).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(rate.take(&2).is_ok(), "another key has its own");
        let none = Rate::new(0, 0);
        assert!((0..1000).all(|_| none.take(&1).is_ok()));
    }
}
