//! Messages that users and backends send.

use super::Api;
use crate::{
    error::invalid,
    kinds::{Kinds, Origin},
    store::{self, SentKey},
};
use contract::chat::{Message, Send, SendBatch, SendOne, Sent, StoreOne, StoredOne};
use contract::{Refusal, Request, frames, limits, text::display_name};
use futures_util::future::join_all;
use service::{
    Span,
    endpoints::deadline,
    postgres::refusal,
    trace::{self, Kind},
};
use std::{iter, time::Duration};
use tokio::time::timeout;

/// Time for which a batch waits for each of its sends. After that, a send counts as unavailable: it goes on, and its
/// gateway repeats it with the same key. So a send to a locked conversation does not delay the answers to the others,
/// and the gateway, which waits for 1.5 s, receives them.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);

impl Api {
    pub async fn send_batch(&self, batch: SendBatch) -> Result<Vec<Sent>, Refusal> {
        if batch.sends.len() > limits::BATCH_SENDS || batch.sends.iter().any(|send| send.client_id.is_none())
        {
            return Err(invalid("a batch has a limited number of sends, each with a client_id"));
        }
        let spans: Vec<Span> = (0..batch.sends.len())
            .map(|index| Span::under(batch.trace_of(index), SendBatch::SUBJECT, Kind::Server))
            .collect();
        let deadlines = batch.deadlines.into_iter().map(Some).chain(iter::repeat(deadline()));
        let (kinds, mut refused) = (self.rules.kinds.get(), Vec::new());
        let sends = batch.sends.into_iter().enumerate();
        let checked = sends.map(|(index, send)| check(&kinds, send, Origin::Users, index, &mut refused));
        let checked: Vec<Result<Send, Refusal>> = checked.collect();
        let sent = checked.into_iter().zip(spans).zip(deadlines).map(async |((checked, span), deadline)| {
            let send = match checked {
                Ok(send) => send,
                Err(refusal) => return Sent::Refused(refusal),
            };
            let stored = timeout(BATCH_PATIENCE, self.lanes.store(send, span, deadline)).await;
            stored.unwrap_or_else(|_| Sent::Refused(Refusal::unavailable()))
        });
        let (mut sent, repeated) = tokio::join!(join_all(sent), self.repeated(&refused));
        for (index, message) in repeated {
            sent[index] = message;
        }
        self.as_now(&mut sent).await;
        let brief = |sent| match sent {
            // The gateway doesn't know the text and the data as they are stored.
            Sent::Stored(message) if batch.receipts && message.kind.is_none() => Sent::Placed(message.into()),
            sent => sent,
        };
        Ok(sent.into_iter().map(brief).collect())
    }

    /// The answers to those of these sends that are repeats of stored messages, each with its index. A kind may have
    /// changed since then, so that the same data do not fit any longer.
    async fn repeated(&self, refused: &[(usize, SentKey)]) -> Vec<(usize, Sent)> {
        if refused.is_empty() {
            return Vec::new();
        }
        let keys: Vec<&SentKey> = refused.iter().map(|(_, key)| key).collect();
        match timeout(BATCH_PATIENCE, store::sent(&self.pool, &keys)).await {
            Ok(Ok(found)) => {
                found.into_iter().map(|(key, message)| (refused[key].0, Sent::Repeated(message))).collect()
            }
            failed => {
                // Whether they are repeats is not known, so their senders try again.
                let refusal = match failed {
                    Ok(Err(error)) => refusal("look for repeated messages", &error),
                    _ => Refusal::unavailable(),
                };
                refused.iter().map(|(index, _)| (*index, Sent::Refused(refusal.clone()))).collect()
            }
        }
    }

    /// Adds the fields of changes to repeated messages. The query that stores messages leaves them out, because few
    /// messages are repeated and fewer have changed.
    async fn as_now(&self, sent: &mut [Sent]) {
        let repeated = sent.iter().filter_map(|sent| match sent {
            Sent::Repeated(message) => Some((message.conversation_id.get(), message.message_id.get())),
            _ => None,
        });
        let (conversations, messages): (Vec<_>, Vec<_>) = repeated.unzip();
        if messages.is_empty() {
            return;
        }
        let read = store::messages(&self.pool, &conversations, &messages).await;
        let read = read.map_err(|error| refusal("read repeated messages", &error));
        for sent in sent {
            let Sent::Repeated(message) = sent else { continue };
            match &read {
                Ok(now) => {
                    if let Some(now) = now.iter().find(|now| now.message_id == message.message_id) {
                        let (is_read, client_id) = (message.is_read, message.client_id.take());
                        *message = Message { is_read, client_id, ..now.clone() };
                    }
                }
                Err(refusal) => *sent = Sent::Refused(refusal.clone()),
            }
        }
    }

    pub async fn send(&self, send: SendOne) -> Result<Message, Refusal> {
        Ok(self.store(StoreOne(send)).await?.message)
    }

    pub async fn store(&self, StoreOne(send): StoreOne) -> Result<StoredOne, Refusal> {
        let (sender_id, sender_username) = match (send.sender_id, send.system, &self.rules.system_user) {
            (Some(user), false, _) => (user, send.sender_username.as_deref().and_then(display_name)),
            (None, true, Some(system)) => (system.user_id, display_name(&system.username)),
            (None, true, None) => return Err(invalid("SYSTEM_USER_ID is not set")),
            (None, false, _) => return Err(invalid("\"sender_id\" is missing")),
            (Some(_), true, _) => return Err(invalid("a system message has no \"sender_id\"")),
        };
        let send = Send {
            conversation_id: send.conversation_id,
            sender_id,
            sender_username,
            sender_named_at: send.sender_named_at,
            message: frames::sent_text(send.message.as_deref(), send.kind.as_deref())?,
            client_id: Some(match send.client_id {
                Some(id) => frames::client_id(id)?,
                None => Send::own_key(format_args!("{:032x}", fastrand::u128(..))),
            }),
            kind: send.kind,
            data: send.data.map(frames::checked_data).transpose()?,
            reply_to: send.reply_to,
            system: send.system,
        };
        let (kinds, mut refused) = (self.rules.kinds.get(), Vec::new());
        let mut sent = [match check(&kinds, send, Origin::Backends, 0, &mut refused) {
            Ok(send) => {
                let span = Span::under(trace::current(), "store", Kind::Internal);
                self.lanes.store(send, span, deadline()).await
            }
            Err(refusal) => Sent::Refused(refusal),
        }];
        for (_, repeated) in self.repeated(&refused).await {
            sent = [repeated];
        }
        self.as_now(&mut sent).await;
        let [sent] = sent;
        match sent {
            Sent::Stored(message) => Ok(StoredOne { message, is_new: true }),
            Sent::Repeated(message) => Ok(StoredOne { message, is_new: false }),
            Sent::Refused(refusal) => Err(refusal),
            // Only replies to batches have receipts.
            Sent::Placed(_) => Err(Refusal::internal()),
        }
    }
}

/// Checks a send against its kind. If it is refused, and may be a repeat, adds its index and its key.
fn check(
    kinds: &Kinds,
    send: Send,
    by: Origin,
    index: usize,
    refused: &mut Vec<(usize, SentKey)>,
) -> Result<Send, Refusal> {
    // A repeat has a kind, and a `client_id` of its sender.
    let client_id = send.kind.as_ref().and_then(|_| Send::public_key(send.client_id.clone()?));
    let key = client_id.map(|client_id| (send.conversation_id.get(), send.sender_id.get(), client_id));
    kinds.check(send, by).inspect_err(|_| refused.extend(key.map(|key| (index, key))))
}
