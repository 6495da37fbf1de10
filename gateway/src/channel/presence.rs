//! The sockets that watch the presence of users. Each watched user is subscribed to once.
//!
//! What a socket shows of a user follows from the user's state, and from who hides and who blocks whom. States come
//! from notify-service and blocks from chat-service, when a socket joins and regularly after that; events say what
//! changes in between. So an event that is lost, or that arrives in the wrong order, does no lasting harm.

mod board;

pub use board::seen_by;

use crate::{
    channel::{registry::SHARDS, view::View},
    nats::connection::Link,
    topic::Subscriber,
};
use board::{Board, Part, States, WatchId};
use contract::{
    ConversationId, Refusal, UserId,
    chat::{FindBlocks, PAIRS_MAX},
    limits,
    presence::{WHO_MAX, Who},
};
use service::{Bus, RequestError};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time over which a comparison of all watched users is spread. With the time for an answer, it is within the 25 s
/// after which what sockets show is right again.
const ROUND: Duration = Duration::from_secs(20);
/// Time after which a comparison that failed after a disruption begins again.
const RETRY: Duration = Duration::from_secs(1);
/// Time limit of a request.
const ANSWER: Duration = Duration::from_secs(5);
/// How long NATS may take to confirm a subscription.
const SUBSCRIBE: Duration = limits::SEND_DEADLINE;

/// The watching sockets of a gateway.
pub struct PresenceBoard {
    bus: Bus,
    link: Link,
    state: Mutex<Board>,
}

/// A socket's membership of a presence channel. Dropping it ends it.
pub struct Watching {
    board: Arc<PresenceBoard>,
    id: WatchId,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.board.board().remove(self.id, &self.board.link);
    }
}

/// How a comparison ended.
enum Compared {
    Done,
    /// Events may have been lost, or something could not be read after such a loss.
    InDoubt,
    Cancelled,
}

impl PresenceBoard {
    /// A board without sockets.
    pub fn new(bus: Bus, link: Link) -> Self {
        Self { bus, link, state: Mutex::default() }
    }

    /// Adds a socket, and sends it the presence of these people.
    ///
    /// # Errors
    /// If NATS, notify-service or chat-service does not answer in time.
    pub async fn watch(
        self: Arc<Self>,
        view: View,
        conversation: ConversationId,
        people: &[UserId],
    ) -> Result<Watching, Refusal> {
        let (id, mark) = self.board().add(view, conversation, people, &self.link);
        let watching = Watching { board: self.clone(), id };
        timeout(SUBSCRIBE, self.link.passed(mark)).await.map_err(|_| Refusal::unavailable())?;
        let [states, blocks] = self.board().parts_of(id);
        tokio::try_join!(self.read(states), self.read(blocks)).map_err(RequestError::into_refusal)?;
        if self.board().begin(id) { Ok(watching) } else { Err(Refusal::unavailable()) }
    }

    /// Handles an event about a user.
    pub fn take(&self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(news) => self.board().news(&news),
            Err(error) => {
                metrics::counter!("gateway_undecodable_total").increment(1);
                tracing::error!(%error, "cannot decode an event about presence");
            }
        }
    }

    /// Renews the subscriptions of a part of the users, one of [`SHARDS`].
    pub fn resubscribe(&self, part: usize) {
        resubscribe(&self.board(), part, &self.link);
    }

    /// Sets the gauge of watching sockets.
    pub fn measure(&self) {
        metrics::gauge!("gateway_presence_watches").set(self.board().watches() as f64);
    }

    /// Reads all states and blocks again and again until the token is cancelled: one after the other, and all at once
    /// whenever events may have been lost. So a loss is found wherever it happened.
    pub async fn compare(self: Arc<Self>, ended: CancellationToken) {
        let mut in_doubt = false;
        let (mut events, mut requests) = (self.link.disruptions(), self.bus.disruptions());
        loop {
            let round = tokio::select! {
                _ = events.changed() => Compared::InDoubt,
                _ = requests.changed() => Compared::InDoubt,
                round = self.round(in_doubt) => round,
                () = ended.cancelled() => Compared::Cancelled,
            };
            in_doubt = match round {
                Compared::Done => false,
                Compared::InDoubt => true,
                Compared::Cancelled => return,
            };
        }
    }

    /// Reads all states and blocks once.
    async fn round(&self, at_once: bool) -> Compared {
        let parts = self.board().parts(WHO_MAX, PAIRS_MAX);
        let count = u32::try_from(parts.len().max(1)).unwrap_or(u32::MAX);
        let pause =
            if at_once { Duration::ZERO } else { ROUND.mul_f64(0.75 + fastrand::f64() / 4.0) / count };
        if parts.is_empty() {
            tokio::time::sleep(pause).await;
        }
        for part in parts {
            tokio::time::sleep(pause).await;
            if !self.bus.is_connected() {
                continue; // A reconnect raises a doubt.
            }
            if let Err(error) = self.read(part).await {
                metrics::counter!("gateway_presence_unread_total").increment(1);
                tracing::debug!(%error, "cannot read presence; read again later");
                if at_once {
                    tokio::time::sleep(RETRY).await;
                    return Compared::InDoubt;
                }
            }
        }
        Compared::Done
    }

    /// Reads states or blocks, and shows what has changed.
    async fn read(&self, part: Part) -> Result<(), RequestError> {
        match part {
            Part::States(States { user_ids, marks }) => {
                let reply = self.bus.request_until(&Who { user_ids }, ANSWER).await?;
                self.board().read(reply.items, &marks);
            }
            Part::Blocks(pairs) => {
                let request = FindBlocks { pairs: pairs.iter().map(|pair| pair.users).collect() };
                let blocked = self.bus.request_until(&request, ANSWER).await?;
                self.board().read_blocks(&pairs, &blocked);
            }
        }
        Ok(())
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn resubscribe(board: &Board, part: usize, link: &Link) {
    let is_in_part = |user: &UserId| user.get().unsigned_abs() % SHARDS as u64 == part as u64;
    for user in board.users().filter(is_in_part) {
        link.subscribe(Subscriber::Person(user));
    }
}

#[cfg(test)]
mod tests;
