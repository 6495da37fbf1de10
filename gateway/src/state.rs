//! What every session and call needs.

use crate::{
    admission::{
        rate_limits::Limits,
        tokens::{Identity, Rejected, Verifier},
        user_sockets::Users,
    },
    channel::hub::Hub,
    nats::{joins::Joins, languages::Languages, sends::Sends, typing_inputs::TypingInputs},
};
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Milliseconds between two sockets that are closed, if there is time: a few sockets need not wait for the whole drain
/// time.
const DRAIN_STEP_MS: u64 = 5;

/// Shared by all sessions and calls of a gateway.
pub struct Shared {
    pub hub: Arc<Hub>,
    pub sends: Sends,
    pub typing_inputs: TypingInputs,
    pub joins: Joins,
    pub verifier: Verifier,
    pub limits: Arc<Limits>,
    pub users: Arc<Users>,
    pub languages: Arc<Languages>,
    /// This gateway, among the others.
    pub id: String,
    pub allowed_origins: Vec<String>,
    pub outbox_frames: usize,
    pub outbox_bytes: usize,
    pub drain: Duration,
    pub demo: bool,
    /// A stop was asked for.
    pub shutdown: CancellationToken,
    /// Sockets.
    pub sessions: TaskTracker,
}

impl Shared {
    /// Whose token it is, if it is taken; after its key was looked for where keys are published.
    pub async fn identify_anew(&self, token: &str) -> Result<Identity, Rejected> {
        self.verifier.learn(token).await;
        self.identify(token)
    }

    /// Whose token it is, if it is taken.
    pub fn identify(&self, token: &str) -> Result<Identity, Rejected> {
        let identity = self.verifier.verify(token)?;
        if self.users.is_revoked(&identity) { Err(Rejected::Revoked) } else { Ok(identity) }
    }

    /// How long after a stop one socket is closed, so that clients don't all come back at once.
    pub fn drain_delay(&self) -> Duration {
        let window = Duration::from_millis(DRAIN_STEP_MS * self.sessions.len() as u64).min(self.drain);
        window.mul_f64(fastrand::f64())
    }
}
