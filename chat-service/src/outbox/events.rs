//! What is published of a commit: its events, and its entry in the log.

use crate::{
    kinds::{CurrentKinds, Kinds},
    store::People,
};
use anyhow::Context;
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use contract::chat::{ChatEvent, LogEntry, Marker, Message, MessageChanged, MutedUntil, Stored};
use contract::{ConversationId, Event, UserId};
use service::{Bus, Span, trace::Kind};
use std::{collections::HashMap, sync::Arc};

/// Which events are published.
#[derive(Clone)]
pub struct EventRules {
    /// Whether changes are also published for other backends.
    pub publishes_changes: bool,
    /// Whether new conversations are published for other backends, by notify-service.
    pub publishes_openings: bool,
    /// The kinds, some of which cause no notifications.
    pub kinds: CurrentKinds,
}

/// The events and log records of one commit.
#[derive(Debug)]
pub struct Commit {
    kinds: Arc<Kinds>,
    pub events: Vec<TracedEvent>,
    pub log: Vec<Stored>,
    people: HashMap<ConversationId, People>,
}

/// An event, and the span of its publication.
pub type TracedEvent = (ChatEvent, Span);

/// Rows of the outbox whose events have reached the gateways, and the log entry that JetStream does not have yet.
#[derive(Debug)]
pub struct Pending {
    pub outbox_ids: Vec<i64>,
    pub entry: LogEntry,
    /// The event for other backends, if the operator has enabled it.
    pub backend_event: Option<Box<MessageChanged>>,
}

impl Commit {
    /// An empty commit.
    pub fn new(kinds: Arc<Kinds>) -> Self {
        let (events, log, people) = Default::default();
        Self { kinds, events, log, people }
    }

    /// Adds a message. The first message of a conversation comes with the conversation's participants.
    pub fn add(&mut self, message: &Message, people: Option<People>, cause: &Span) {
        let conversation = message.conversation_id;
        if let Some(people) = people {
            self.people.insert(conversation, people);
        }
        let (all, muted) =
            self.people.get(&conversation).map_or((&[][..], &[][..]), |people| (&people.all, &people.muted));
        let others = |users: &[UserId]| {
            users.iter().copied().filter(|user| *user != message.sender_id).collect::<Vec<_>>()
        };
        let publish = cause.child("publish", Kind::Producer);
        self.log.push(Stored {
            conversation_id: conversation,
            message_id: message.message_id,
            seq: Some(message.seq),
            sender_id: message.sender_id,
            sender_username: message.sender_username.clone(),
            recipients: others(all),
            muted: others(muted),
            silent: !self.kinds.notifies(message.kind.as_deref()),
            kind: message.kind.clone(),
            system: message.system,
            traceparent: publish.parent(),
        });
        self.events.push((ChatEvent::Message(message.clone()), publish));
    }

    /// Number of messages.
    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

impl Pending {
    /// Key by which JetStream drops a repeated entry. It identifies exactly these rows: if one row is published again
    /// alone, JetStream must not drop it because of an entry with other rows.
    pub fn message_id(&self) -> String {
        match self.outbox_ids[..] {
            [first, .., last] => format!("outbox-{first}-{last}"),
            _ => format!("outbox-{}", self.outbox_ids.first().copied().unwrap_or_default()),
        }
    }

    /// Upper bound of the size in bytes of JSON.
    pub fn bytes(&self) -> usize {
        let stored = |stored: &Stored| {
            let username = service::bus::json_len(&stored.sender_username);
            400 + username + 20 * (stored.recipients.len() + stored.muted.len())
        };
        match &self.entry {
            LogEntry::Stored { messages } => messages.iter().map(stored).sum(),
            LogEntry::Read { .. } | LogEntry::Muted { .. } => 512,
            LogEntry::Changed { markers, .. } => 512 + 320 * markers.len(),
            LogEntry::Opened { event } => 512 + 20 * event.participant_ids.len(),
        }
    }
}

/// The event for the conversation's sockets. It has no unread count, because their gateways compute it.
pub const fn read_event(marker: Marker) -> ChatEvent {
    ChatEvent::Read(Marker { unread_count: None, ..marker })
}

/// The log entry from which all sockets of the user receive the marker.
pub const fn read_entry(marker: Marker) -> LogEntry {
    let Marker { user_id, conversation_id, message_id, .. } = marker;
    LogEntry::Read { user_id, conversation_id, message_id, marker: Some(marker) }
}

/// The log entry of a mute. Each change locks the conversation, so a participant's rows are numbered in the order of
/// the changes.
pub const fn mute_entry(
    outbox_id: i64,
    conversation_id: ConversationId,
    user_id: UserId,
    muted_until: Option<MutedUntil>,
) -> LogEntry {
    LogEntry::Muted { user_id, conversation_id, muted_until, change: outbox_id }
}

/// The events of a change for the conversation's sockets, and the log entry.
pub fn change_events(change: i64, message: Message, moved: Vec<Marker>) -> (Vec<ChatEvent>, LogEntry) {
    let (conversation_id, message_id) = (message.conversation_id, message.message_id);
    let deleted = message.deleted_at.is_some();
    let changed = ChatEvent::Changed { conversation_id, change, message };
    let events = [changed].into_iter().chain(moved.iter().copied().map(read_event)).collect();
    (events, LogEntry::Changed { conversation_id, message_id, deleted, markers: moved })
}

/// Publishes to the gateways.
pub async fn publish_events(bus: &Bus, events: &[TracedEvent]) -> anyhow::Result<()> {
    for (event, span) in events {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        bus.publish_bytes(event.subject(), payload.into(), span.parent()).await?;
    }
    Ok(())
}

/// Publishes on the connection of the events, so that a receiver of the entry finds them published too.
pub async fn publish_entry(bus: &Bus, pending: &Pending) -> anyhow::Result<PublishAckFuture> {
    let payload: Bytes = serde_json::to_vec(&pending.entry).context("encode a log entry")?.into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", pending.message_id());
    bus.jetstream()
        .publish_with_headers(pending.entry.subject(), headers, payload)
        .await
        .context("publish a log entry")
}
