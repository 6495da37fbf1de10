//! The requests that wait for their replies.

use super::protocol::{Message, NO_RESPONDERS};
use bytes::Bytes;
use contract::Refusal;
use service::bus::REFUSAL;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};
use tokio::sync::oneshot;

/// The id of the subscription to replies.
pub const REPLIES: &str = "r";

/// The requests that wait for a reply. The callers bound their number.
pub struct Requests {
    /// The subject of replies, up to the number of the request.
    inbox: String,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    replies: HashMap<u64, oneshot::Sender<Reply>>,
}

/// A message on the reply subject of a request.
pub enum Reply {
    Payload(Bytes),
    Refused(Refusal),
    NoResponders,
}

/// A request that waits for its reply, until it is dropped.
pub struct Pending<'a> {
    requests: &'a Requests,
    number: u64,
    pub reply: oneshot::Receiver<Reply>,
}

impl Requests {
    pub fn new() -> Self {
        // Only the gateway's NATS user may subscribe to subjects with this prefix.
        let inbox = format!("_INBOX.gateway.{:032x}.", fastrand::u128(..));
        Self { inbox, waiting: Mutex::default() }
    }

    /// The subject of the replies to all requests.
    pub fn subject(&self) -> String {
        format!("{}*", self.inbox)
    }

    /// Takes a message on this subject. A reply that comes too late is dropped.
    pub fn take(&self, message: &Message<'_>) {
        let number = message.subject.strip_prefix(&self.inbox).and_then(|number| number.parse().ok());
        let Some(reply) = number.and_then(|number: u64| self.waiting().replies.remove(&number)) else {
            return;
        };
        let taken = match message.header(REFUSAL) {
            Some(refusal) => Reply::Refused(Refusal::from_header(refusal)),
            None if message.status() == Some(NO_RESPONDERS) => Reply::NoResponders,
            None => Reply::Payload(Bytes::copy_from_slice(message.payload)),
        };
        // The caller may have given up.
        let _ = reply.send(taken);
    }

    /// Fails all requests after the connection has ended.
    pub fn fail(&self) {
        self.waiting().replies.clear();
    }

    /// Begins a request.
    pub fn begin(&self) -> Pending<'_> {
        let (sender, reply) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.last += 1;
        let number = waiting.last;
        waiting.replies.insert(number, sender);
        drop(waiting);
        Pending { requests: self, number, reply }
    }

    /// Whether no request waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting().replies.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

impl Pending<'_> {
    /// The subject of its reply.
    pub fn subject(&self) -> String {
        format!("{}{}", self.requests.inbox, self.number)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.requests.waiting().replies.remove(&self.number);
    }
}
