//! The state that all sessions and calls share.

use crate::{
    admission::{
        backend_keys::BackendKeys,
        rate_limits::Limits,
        tokens::{Identity, Rejected, Verifier},
        user_sockets::Users,
    },
    channel::hub::Hub,
    nats::{joins::Joins, languages::Languages, sends::Sends, typing_inputs::TypingInputs},
};
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Drain time for each socket, in milliseconds, so that a gateway with few sockets stops before the whole drain time
/// has passed.
const DRAIN_STEP_MS: u64 = 5;

/// The state that all sessions and calls of a gateway share.
pub struct Shared {
    pub hub: Arc<Hub>,
    pub sends: Sends,
    pub typing_inputs: TypingInputs,
    pub joins: Joins,
    pub verifier: Verifier,
    pub limits: Arc<Limits>,
    pub users: Arc<Users>,
    /// Keys of backends, if they may use the HTTP API.
    pub backend_keys: Option<BackendKeys>,
    /// Identifies the key with which backends sign tokens, unless it is one of a set.
    pub signing_key_id: Option<String>,
    pub languages: Arc<Languages>,
    /// A random id that distinguishes this gateway from the others.
    pub id: String,
    /// Maximum number of people in a conversation whose presence is shown; `None` if presence is switched off.
    pub presence_people: Option<usize>,
    pub allowed_origins: Vec<String>,
    pub outbox_frames: usize,
    pub outbox_bytes: usize,
    pub drain: Duration,
    pub demo: bool,
    /// Cancelled when the gateway is to stop.
    pub shutdown: CancellationToken,
    /// One task for each socket.
    pub sessions: TaskTracker,
}

impl Shared {
    /// Checks a token like [`Self::identify`], but first fetches the published keys if the token's key is unknown.
    pub async fn fetch_key_and_identify(&self, token: &str) -> Result<Identity, Rejected> {
        self.verifier.fetch_key(token).await;
        self.identify(token)
    }

    /// Checks a token, and returns its identity if it is valid and not revoked.
    pub fn identify(&self, token: &str) -> Result<Identity, Rejected> {
        let identity = self.verifier.verify(token)?;
        if self.users.is_revoked(&identity) { Err(Rejected::Revoked) } else { Ok(identity) }
    }

    /// A random delay between the start of the drain and the close of one socket, so that clients do not all reconnect
    /// at once.
    pub fn drain_delay(&self) -> Duration {
        let window = Duration::from_millis(DRAIN_STEP_MS * self.sessions.len() as u64).min(self.drain);
        window.mul_f64(fastrand::f64())
    }
}
