//! Rate limits for users and addresses, and the limit of concurrent handshakes.

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

/// Interval at which the state of idle keys is removed.
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(30);
/// How long a handshake waits for a permit before it is refused.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(2);
/// Maximum number of waiting handshakes for each one in progress.
const WAITING: usize = 16;
/// Number of times in a minute that a user may show or hide their presence.
const SHOWN_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

/// A rate limit for each key (generic cell rate algorithm); no limit if the rate is 0.
pub struct Rate<K: Hash + Eq + Clone>(Option<RateLimiter<K, DashMapStateStore<K>, DefaultClock>>);

impl<K: Hash + Eq + Clone> Rate<K> {
    /// Allows `per_second` on average, and `burst` at once after a pause.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let quota = NonZeroU32::new(per_second).map(Quota::per_second);
        let quota = quota.map(|quota| NonZeroU32::new(burst).map_or(quota, |burst| quota.allow_burst(burst)));
        Self(quota.map(RateLimiter::dashmap))
    }

    /// Allows `number` in a minute, also at once.
    pub fn per_minute(number: NonZeroU32) -> Self {
        Self(Some(RateLimiter::dashmap(Quota::per_minute(number))))
    }

    /// Takes one cell of the quota.
    ///
    /// # Errors
    /// The time to wait, if the limit is exceeded.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }

    fn clean_up(&self) {
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
    backends: Rate<Arc<str>>,
    conversations: Rate<UserId>,
    reads: Rate<UserId>,
    subscribes: Rate<UserId>,
    shown: Rate<UserId>,
    /// Rate of handshakes from one address.
    pub handshakes: Rate<IpAddr>,
    /// Maximum number of sockets of one user.
    pub sockets_per_user: usize,
    /// Maximum size of a request's head, in bytes.
    pub head_bytes: usize,
    /// Time in which a request's head must arrive, and after which a connection without a request is closed.
    pub head_time: Duration,
    /// Maximum size of a request's body, in bytes.
    pub body_bytes: usize,
    /// Time in which a request's body must arrive.
    pub body_time: Duration,
    /// Maximum size of a message, in one frame or several, in bytes.
    pub frame_bytes: usize,
    /// Time after which a socket is closed if nothing is received from its client.
    pub idle: Duration,
    trusted_proxies: Vec<IpNet>,
    handshake_permits: Arc<Semaphore>,
    /// One permit for each waiting handshake.
    handshake_queue: Arc<Semaphore>,
}

impl Limits {
    /// Creates the limits of a configuration.
    pub fn new(config: &crate::config::Limits) -> Self {
        let handshakes = config.handshakes_under_way as usize;
        Self {
            frames: Rate::new(config.frame_rate, config.frame_burst),
            sends: Rate::new(config.send_rate, config.send_burst),
            conversation_sends: Rate::new(config.conversation_send_rate, config.conversation_send_burst),
            typing: Rate::new(config.typing_rate, config.typing_burst),
            calls: Rate::new(config.call_rate, config.call_burst),
            backends: Rate::new(config.backend_rate, config.backend_rate),
            conversations: Rate::new(config.conversation_rate, config.conversation_burst),
            reads: Rate::new(config.read_rate, config.read_burst),
            subscribes: Rate::new(config.subscribe_rate, config.subscribe_burst),
            shown: Rate::per_minute(SHOWN_PER_MINUTE),
            handshakes: Rate::new(config.handshake_rate, config.handshake_burst),
            sockets_per_user: config.sockets_per_user as usize,
            head_bytes: config.head_bytes as usize,
            head_time: Duration::from_secs(config.head_seconds.into()),
            body_bytes: config.body_bytes as usize,
            body_time: Duration::from_secs(config.body_seconds.into()),
            frame_bytes: config.frame_bytes as usize,
            idle: Duration::from_secs(config.idle_seconds.into()),
            trusted_proxies: config.trusted_proxies.clone(),
            handshake_permits: Arc::new(Semaphore::new(handshakes)),
            handshake_queue: Arc::new(Semaphore::new(handshakes * WAITING)),
        }
    }

    /// Counts a frame of any kind on any of a user's sockets.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn frame(&self, user: UserId) -> Result<(), Refusal> {
        self.frames.take(&user).map_err(|wait| {
            metrics::counter!("gateway_frames_limited_total").increment(1);
            rate_limited(wait, "too many frames; slow down")
        })
    }

    /// Counts a user's message to a conversation.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn send(&self, user: UserId, conversation: ConversationId) -> Result<(), Refusal> {
        let taken = self.conversation_sends.take(&(user, conversation)).and_then(|()| self.sends.take(&user));
        taken.map_err(|wait| {
            metrics::counter!("gateway_sends_limited_total").increment(1);
            rate_limited(wait, "too many messages; slow down")
        })
    }

    /// Counts a start or end of a user's typing.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn typing(&self, user: UserId) -> Result<(), Refusal> {
        self.typing.take(&user).map_err(|wait| {
            metrics::counter!("gateway_typing_limited_total").increment(1);
            rate_limited(wait, "typing starts or ends too often; slow down")
        })
    }

    /// Counts a user's call of the HTTP API.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn call(&self, user: UserId) -> Result<(), Refusal> {
        self.calls.take(&user).map_err(|wait| {
            metrics::counter!("gateway_calls_limited_total").increment(1);
            rate_limited(wait, "too many calls; slow down")
        })
    }

    /// Counts a backend's call of the HTTP API. There are few backends, so idle ones are not cleaned up.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn backend_call(&self, name: &Arc<str>) -> Result<(), Refusal> {
        self.backends.take(name).map_err(|wait| rate_limited(wait, "too many calls; slow down"))
    }

    /// Counts a conversation that a user opens. These are limited because a new conversation appears at the top of its
    /// participants' lists.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn conversation(&self, user: UserId) -> Result<(), Refusal> {
        self.conversations.take(&user).map_err(|wait| {
            metrics::counter!("gateway_conversations_limited_total").increment(1);
            rate_limited(wait, "too many new conversations; slow down")
        })
    }

    /// Counts a user's read marker.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn read(&self, user: UserId) -> Result<(), Refusal> {
        self.reads.take(&user).map_err(|wait| {
            metrics::counter!("gateway_reads_limited_total").increment(1);
            rate_limited(wait, "too many read markers; slow down")
        })
    }

    /// Counts a user's subscription on a multiplexed socket. This bounds the requests to a service, and the channels
    /// that remain for some seconds after a refusal.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn subscribe(&self, user: UserId) -> Result<(), Refusal> {
        self.subscribes.take(&user).map_err(|wait| {
            metrics::counter!("gateway_subscribes_limited_total").increment(1);
            rate_limited(wait, "too many subscriptions; slow down")
        })
    }

    /// Counts a change of whether a user's presence is shown.
    ///
    /// # Errors
    /// `rate_limited`, with the time to wait.
    pub fn shown(&self, user: UserId) -> Result<(), Refusal> {
        self.shown.take(&user).map_err(|wait| {
            metrics::counter!("gateway_presence_limited_total").increment(1);
            rate_limited(wait, "shown or hidden too often; slow down")
        })
    }

    /// Interval between pings. It is less than half of the idle time, so that the client has time to answer.
    pub fn ping_every(&self) -> Duration {
        self.idle * 5 / 12
    }

    /// Waits for the permit of a handshake. Returns `None` if too many wait already, or the wait takes too long.
    pub async fn handshake_permit(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = self.handshake_queue.clone().try_acquire_owned().ok()?;
        let permit = self.handshake_permits.clone().acquire_owned();
        tokio::time::timeout(HANDSHAKE_WAIT, permit).await.ok()?.ok()
    }

    /// The address of a connection's client: the peer's address or, if the peer is a trusted proxy, the last address in
    /// `X-Forwarded-For` or `Forwarded` that is not a trusted proxy's.
    pub fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_trusted =
            |address: &IpAddr| self.trusted_proxies.iter().any(|network| network.contains(address));
        forwarded::client_of(peer, headers, is_trusted)
    }

    /// Periodically removes the state of idle users and addresses, until the token is cancelled.
    pub async fn clean_up(self: Arc<Self>, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CLEAN_UP_INTERVAL) => {}
                () = ended.cancelled() => return,
            }
            self.sends.clean_up();
            self.conversation_sends.clean_up();
            for rate in [
                &self.frames,
                &self.typing,
                &self.calls,
                &self.conversations,
                &self.reads,
                &self.subscribes,
                &self.shown,
            ] {
                rate.clean_up();
            }
            self.handshakes.clean_up();
        }
    }
}

fn rate_limited(wait: Duration, detail: &str) -> Refusal {
    let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
    Refusal { retry_after_ms, ..Refusal::new(Code::RateLimited, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_and_0_means_no_limit() {
        let rate = Rate::new(1, 3);
        assert!((0..3).all(|_| rate.take(&1).is_ok()));
        let wait = rate.take(&1).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(rate.take(&2).is_ok(), "each key has its own limit");
        let none = Rate::new(0, 0);
        assert!((0..1000).all(|_| none.take(&1).is_ok()));
    }
}
