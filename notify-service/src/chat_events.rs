//! Optional events about the chat for other backends, made from chat-service's log beside the notifications.
//!
//! An entry of the log is acknowledged only once its events are in the stream `EVENTS_OUT`. The queue is apart from the
//! notifications, so that a slow stream does not delay them.

use anyhow::Context;
use async_nats::jetstream::{AckKind, Message};
use contract::{
    Event, MessageId,
    chat::{DescribeMessages, DescribedMessage, LogEntry, MarkerMoved, MessageSent, Stored},
    limits::DESCRIBED_MESSAGES,
};
use futures_util::future::join_all;
use service::{Bus, config::OptionalEvent};
use std::{collections::HashMap, time::Duration};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Maximum number of entries that wait. An entry has 512 KiB at most, and rarely more than 1 KiB.
const WAITING: usize = 256;
/// Maximum number of entries that are processed together.
const BATCH: usize = 64;
/// Delay before an entry whose events could not be published is delivered again.
const RETRY: Duration = Duration::from_secs(5);
/// Time limit of a request to chat-service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The events that the operator wants.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    sent: bool,
    read: bool,
    text: bool,
}

/// Publishes the events of log entries. Cheap to clone; its task ends once every clone is dropped.
#[derive(Clone)]
pub struct ChatEvents {
    bus: Bus,
    wanted: Wanted,
    queue: mpsc::Sender<Message>,
}

impl ChatEvents {
    /// Starts the task that publishes; `None` if the operator wants no events that are made here.
    pub fn start(bus: &Bus, optional: &[OptionalEvent], text: bool, tasks: &TaskTracker) -> Option<Self> {
        let is_wanted = |event| optional.contains(&event);
        let wanted =
            Wanted { sent: is_wanted(OptionalEvent::Sent), read: is_wanted(OptionalEvent::Read), text };
        if !wanted.sent && !wanted.read {
            return None;
        }
        let (queue, receiver) = mpsc::channel(WAITING);
        let events = Self { bus: bus.clone(), wanted, queue };
        tasks.spawn(run(events.bus.clone(), wanted, receiver));
        Some(events)
    }

    /// Publishes the events of entries whose notifications are stored, and then acknowledges the entries.
    pub async fn acknowledge(&self, entries: Vec<&Message>) {
        for entry in entries {
            if self.queue.try_send(entry.clone()).is_err() {
                metrics::counter!("chat_events_full_total").increment(1);
                crate::fetch::ack(entry, AckKind::Nak(Some(RETRY))).await;
            }
        }
    }

    /// Publishes the events of one entry.
    ///
    /// # Errors
    /// If one of them is perhaps not in the stream.
    pub async fn publish(&self, payload: &[u8]) -> anyhow::Result<()> {
        let entry = serde_json::from_slice(payload).context("read an entry of the chat's log")?;
        publish(&self.bus, self.wanted, vec![entry]).await
    }
}

async fn run(bus: Bus, wanted: Wanted, mut queue: mpsc::Receiver<Message>) {
    let mut messages = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut messages, BATCH).await > 0 {
        // All entries were read before, by the consumer.
        let entries = messages.iter().filter_map(|message| serde_json::from_slice(&message.payload).ok());
        let ack = match publish(&bus, wanted, entries.collect()).await {
            Ok(()) => AckKind::Ack,
            Err(error) => {
                metrics::counter!("chat_events_retries_total").increment(1);
                tracing::warn!(error = format!("{error:#}"), "publish events of the chat; will be retried");
                AckKind::Nak(Some(RETRY))
            }
        };
        crate::fetch::ack_all(messages.iter().collect(), ack).await;
        messages.clear();
    }
}

/// Publishes the events of entries, in their order.
async fn publish(bus: &Bus, wanted: Wanted, entries: Vec<LogEntry>) -> anyhow::Result<()> {
    let mut described = HashMap::new();
    if wanted.sent {
        let stored = entries.iter().flat_map(|entry| match entry {
            LogEntry::Stored { messages } => messages.as_slice(),
            _ => &[],
        });
        described = describe(bus, &stored.collect::<Vec<_>>(), wanted.text).await?;
    }
    let mut publications = Vec::new();
    for entry in entries {
        match entry {
            LogEntry::Stored { messages } => {
                // A message that no longer exists has no event.
                let sent = messages.into_iter().filter_map(|stored| {
                    described.remove(&stored.message_id).map(|described| sent(stored, described))
                });
                for event in sent {
                    publications.push(store(bus, &event, &event.event_id).await?);
                }
            }
            LogEntry::Read { marker: Some(marker), .. } if wanted.read => {
                let (conversation, user, seq) = (marker.conversation_id, marker.user_id, marker.seq);
                let event = MarkerMoved {
                    event_id: format!("{}-{conversation}-{user}-{seq}", MarkerMoved::PATTERN),
                    occurred_at: marker.read_at,
                    conversation_id: conversation,
                    user_id: user,
                    message_id: marker.message_id,
                    seq,
                };
                publications.push(store(bus, &event, &event.event_id).await?);
            }
            _ => {}
        }
    }
    for acknowledged in join_all(publications.into_iter().map(IntoFuture::into_future)).await {
        acknowledged.context("JetStream did not acknowledge an event")?;
    }
    Ok(())
}

/// Publishes an event without waiting for the acknowledgement, so that the order of the stream is that of the calls.
async fn store<E: Event>(
    bus: &Bus,
    event: &E,
    id: &str,
) -> anyhow::Result<async_nats::jetstream::context::PublishAckFuture> {
    let payload = serde_json::to_vec(event).context("encode an event")?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    let sent = bus.jetstream().publish_with_headers(event.subject(), headers, payload.into()).await;
    sent.context("publish an event")
}

/// Requests what the events of messages contain besides their entries.
async fn describe(
    bus: &Bus,
    stored: &[&Stored],
    text: bool,
) -> anyhow::Result<HashMap<MessageId, DescribedMessage>> {
    let mut found = HashMap::with_capacity(stored.len());
    for chunk in stored.chunks(DESCRIBED_MESSAGES) {
        let messages = chunk.iter().map(|stored| (stored.conversation_id, stored.message_id)).collect();
        let reply = bus.request_until(&DescribeMessages { messages, text }, REQUEST_TIMEOUT).await;
        let described = reply.context("request messages from chat-service")?;
        found.extend(described.into_iter().map(|described| (described.message_id, described)));
    }
    Ok(found)
}

fn sent(stored: Stored, described: DescribedMessage) -> MessageSent {
    let DescribedMessage { message_id, listing_id, seq, created_at, text } = described;
    MessageSent {
        event_id: format!("{}-{message_id}", MessageSent::PATTERN),
        occurred_at: created_at,
        conversation_id: stored.conversation_id,
        listing_id,
        message_id,
        seq,
        sender_id: stored.sender_id,
        recipients: stored.recipients,
        created_at,
        text,
    }
}
