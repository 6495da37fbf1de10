//! Optional events about the chat for other backends, made from chat-service's log.

use crate::store::telling::Outgoing;
use anyhow::Context;
use contract::{
    ConversationId, Event, MessageId, UserId,
    chat::{DescribeMessages, DescribedMessage, LogEntry, MarkerMoved, MessageSent},
    limits::DESCRIBED_MESSAGES,
};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use service::{Bus, config::OptionalEvent};
use std::{collections::HashMap, time::Duration};

/// Time limit of a request to chat-service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The events that the operator wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    sent: bool,
    read: bool,
    opened: bool,
    /// Whether `chat.sent` has the text of the message.
    text: bool,
}

/// What the log says of a sent message. The rest of [`MessageSent`] is requested when the event is published.
#[derive(Debug, Serialize, Deserialize)]
struct Undescribed {
    conversation_id: ConversationId,
    message_id: MessageId,
    sender_id: UserId,
    recipients: Vec<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

impl Wanted {
    /// Those of the configuration that are made here.
    pub fn of(optional: &[OptionalEvent], text: bool) -> Self {
        let is_wanted = |event| optional.contains(&event);
        Self {
            sent: is_wanted(OptionalEvent::Sent),
            read: is_wanted(OptionalEvent::Read),
            opened: is_wanted(OptionalEvent::Opened),
            text,
        }
    }

    /// The events of an entry, in its order.
    ///
    /// # Errors
    /// If one can't be encoded.
    pub fn events(self, entry: &LogEntry) -> serde_json::Result<Vec<Outgoing>> {
        match entry {
            LogEntry::Stored { messages } if self.sent => {
                let events = messages.iter().map(|stored| {
                    let sent = Undescribed {
                        conversation_id: stored.conversation_id,
                        message_id: stored.message_id,
                        sender_id: stored.sender_id,
                        recipients: stored.recipients.clone(),
                        kind: stored.kind.clone(),
                    };
                    Ok(Outgoing {
                        event_id: sent.event_id(),
                        subject: MessageSent::PATTERN.to_owned(),
                        body: serde_json::to_string(&sent)?,
                        user_id: None,
                    })
                });
                events.collect()
            }
            LogEntry::Read { marker: Some(marker), .. } if self.read => {
                let (conversation, user, seq) = (marker.conversation_id, marker.user_id, marker.seq);
                let event = MarkerMoved {
                    event_id: format!("{}-{conversation}-{user}-{seq}", MarkerMoved::PATTERN),
                    occurred_at: marker.read_at,
                    conversation_id: conversation,
                    user_id: user,
                    message_id: marker.message_id,
                    seq,
                };
                Ok(vec![Outgoing::new(&event.event_id, &event)?.about(user)])
            }
            LogEntry::Opened { event } if self.opened => Ok(vec![Outgoing::new(&event.event_id, event)?]),
            _ => Ok(Vec::new()),
        }
    }
}

/// Completes events of sent messages with what chat-service knows. Those of messages that no longer exist are left out.
///
/// # Errors
/// If chat-service does not answer.
pub async fn complete(bus: &Bus, wanted: Wanted, events: &[Outgoing]) -> anyhow::Result<Vec<Outgoing>> {
    let sent: Vec<Undescribed> = events
        .iter()
        .map(|event| serde_json::from_str(&event.body).context("read a stored event"))
        .collect::<anyhow::Result<_>>()?;
    let requests = sent.chunks(DESCRIBED_MESSAGES).map(async |chunk| {
        let messages = chunk.iter().map(|sent| (sent.conversation_id, sent.message_id)).collect();
        let reply =
            bus.request_until(&DescribeMessages { messages, text: wanted.text }, REQUEST_TIMEOUT).await;
        reply.context("request messages from chat-service")
    });
    let described = try_join_all(requests).await?.into_iter().flatten();
    let mut described: HashMap<MessageId, DescribedMessage> =
        described.map(|described| (described.message_id, described)).collect();
    let complete = sent.into_iter().filter_map(|sent| {
        let described = described.remove(&sent.message_id)?;
        let event = sent.complete(described);
        Some(Outgoing::new(&event.event_id, &event).context("encode an event"))
    });
    complete.collect()
}

impl Undescribed {
    fn event_id(&self) -> String {
        format!("{}-{}", MessageSent::PATTERN, self.message_id)
    }

    fn complete(self, described: DescribedMessage) -> MessageSent {
        let DescribedMessage { message_id, listing_id, seq, created_at, text } = described;
        MessageSent {
            event_id: self.event_id(),
            occurred_at: created_at,
            conversation_id: self.conversation_id,
            listing_id,
            message_id,
            seq,
            sender_id: self.sender_id,
            recipients: self.recipients,
            kind: self.kind,
            created_at,
            text,
        }
    }
}
