//! The channel of a log on one gateway: delivers events in order to the members and repairs gaps.

use crate::{
    channel::{
        delivery,
        encode::{self, Event},
        entry::{Entry, InboxState, Position},
        lifecycle::{ChannelState, Lifecycle, Tracked},
        maintenance::Maintenance,
        ordering::{Attached, Gap, Log, MemberId},
        page,
        view::View,
    },
    nats::{connection::Mark, protocol::Message},
    topic::{LogKey, Subscriber},
};
use contract::{
    Seq,
    chat::{ConversationHead, Marker},
    notify::{INBOX_PLACE_HEADER, InboxHead, ReadPlace},
};
use service::{
    Bus, Span,
    bus::RequestError,
    trace::{self, Kind},
};
use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

/// How long events of two publishers may cross before a gap is read from the service.
const GRACE: Duration = Duration::from_millis(100);
/// How long to wait after a repair that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Why a repair ended early.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The service has published an entry that its pages do not show yet.
    #[error("the log is behind its events")]
    LogBehindEvents,
}

/// A log with subscribed sockets on this gateway. It has no task while nothing is missing.
pub struct LogChannel {
    key: LogKey,
    lifecycle: Lifecycle<Log>,
}

/// How much a channel has delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// The last `seq`.
    pub seq: Seq,
    /// The number of the last change.
    pub changes: i64,
}

/// The state of a log besides its entries, read from its service.
pub struct Snapshot {
    /// The markers of a conversation.
    pub markers: Vec<Marker>,
    /// The state of an inbox.
    pub inbox: Option<Box<InboxState>>,
}

/// A socket's membership of a channel. Dropping it removes the socket.
pub struct LogMembership {
    channel: Arc<LogChannel>,
    id: MemberId,
}

impl ChannelState for Log {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// Decodes an event of a log.
fn decode(key: LogKey, message: &Message<'_>) -> serde_json::Result<Event> {
    match key {
        LogKey::Conversation(_) => encode::chat_event(message.payload),
        LogKey::Inbox(user) => {
            let place = message.header(INBOX_PLACE_HEADER).and_then(ReadPlace::parse);
            encode::inbox_event(user, place, message.payload)
        }
    }
}

impl LogChannel {
    /// Subscribes to the log's events.
    pub fn new(key: LogKey, maintenance: Arc<Maintenance>) -> Self {
        Self { key, lifecycle: Lifecycle::begin(Subscriber::Log(key), maintenance) }
    }

    /// The log.
    pub const fn key(&self) -> LogKey {
        self.key
    }

    /// See [`Lifecycle::subscribed`].
    pub const fn subscribed(&self) -> Mark {
        self.lifecycle.subscribed()
    }

    /// See [`Lifecycle::lingers`].
    pub fn lingers(&self) -> bool {
        self.lifecycle.lingers()
    }

    /// Adds a socket that has received everything up to `at`.
    pub fn attach(
        self: &Arc<Self>,
        view: View,
        at: Position,
        Snapshot { markers, inbox }: Snapshot,
        resumes: bool,
    ) -> (LogMembership, Attached) {
        let mut log = self.lifecycle.lock();
        if let Some(inbox) = &inbox {
            log.inbox(inbox);
        }
        let attached = log.attach(view, at, markers, resumes);
        let (Attached::Live(id) | Attached::Behind(id, _)) = attached;
        if let Some(inbox) = inbox.filter(|_| resumes) {
            log.remind(id, &inbox);
        }
        self.changed(log);
        (LogMembership { channel: self.clone(), id }, attached)
    }

    /// Takes the state of an inbox from its service's answer to a comparison.
    pub fn inbox_head(self: &Arc<Self>, head: &InboxHead) {
        let mut log = self.lifecycle.lock();
        log.head(head.seq, None);
        let InboxHead { seq, unread_count: unread, reads, last_read, moves, last_moved, seen, .. } = *head;
        log.inbox(&InboxState { seq, unread, reads, last_read, moves, last_moved, seen });
        self.changed(log);
    }

    /// Takes the end of a conversation from its service.
    pub fn conversation_head(self: &Arc<Self>, head: &ConversationHead) {
        let mut log = self.lifecycle.lock();
        log.head(head.seq, Some(head.read_sum));
        log.change_exists(head.changes.unwrap_or_default());
        self.changed(log);
    }

    /// Compares the end of the log, from its service, with the position delivered before the service was asked. A log
    /// that went back closes its sockets. An earlier release of the service does not count changes.
    pub fn check_end(&self, seq: Seq, changes: Option<i64>, delivered: Delivered) {
        if seq < delivered.seq || changes.is_some_and(|changes| changes < delivered.changes) {
            let mut log = self.lifecycle.lock();
            // Another comparison may have restarted the log already.
            let is_same = log.last_seq().is_some_and(|last| last >= delivered.seq)
                && log.last_change() >= delivered.changes;
            if is_same {
                tracing::warn!(
                    channel = self.key.name(),
                    seq,
                    changes,
                    ?delivered,
                    "a log went back; closing its sockets"
                );
                log.restart();
            }
        }
    }

    /// How much the channel has delivered, once it has had a member.
    pub fn delivered(&self) -> Option<Delivered> {
        let log = self.lifecycle.lock();
        Some(Delivered { seq: log.last_seq()?, changes: log.last_change() })
    }

    /// Takes an event that NATS delivered.
    pub fn take(self: &Arc<Self>, message: &Message<'_>) {
        let span = Span::under(trace::parent(|name| message.header(name)), "deliver", Kind::Consumer);
        let _entered = span.enter();
        match decode(self.key, message) {
            Ok(Event::Entry(entry, committed)) => {
                let entry = delivery::until_written(entry, committed, span.clone());
                let mut log = self.lifecycle.lock();
                log.entry(entry);
                self.changed(log);
            }
            Ok(Event::Change(change)) => {
                let mut log = self.lifecycle.lock();
                log.change(change);
                self.changed(log);
            }
            Ok(Event::Note(note)) => {
                let mut log = self.lifecycle.lock();
                log.note(note);
                self.changed(log);
            }
            Err(error) => {
                metrics::counter!("gateway_undecodable_total").increment(1);
                tracing::error!(%error, "cannot decode an event");
            }
        }
    }

    /// Starts a repair if the log has a gap.
    fn changed(self: &Arc<Self>, log: MutexGuard<'_, Tracked<Log>>) {
        if !log.is_empty() && log.gap() != Gap::None {
            self.lifecycle.start_task(log, || self.clone().repair());
        }
    }

    /// Reads missing entries until none is missing or the channel has no members.
    async fn repair(self: Arc<Self>) {
        let maintenance = self.lifecycle.maintenance();
        let _counted = maintenance.repairing();
        let mut wait = GRACE;
        loop {
            tokio::time::sleep(wait).await;
            {
                let mut log = self.lifecycle.lock();
                if log.is_empty() || log.gap() == Gap::None {
                    log.end_task();
                    return;
                }
            }
            let Ok(_permit) = maintenance.repairs.acquire().await else { return };
            wait = match self.close_gap(&maintenance.bus).await {
                Ok(()) => GRACE,
                Err(error) => {
                    tracing::warn!(%error, channel = self.key.name(), "cannot repair a gap; trying again");
                    RETRY
                }
            };
        }
    }

    /// Reads missing entries from the service, page by page.
    async fn close_gap(&self, bus: &Bus) -> Result<(), RepairError> {
        loop {
            let gap = self.lifecycle.lock().gap();
            let after = match gap {
                Gap::None => return Ok(()),
                Gap::Entries(after) => Some(after),
                Gap::Changes(after) => {
                    self.read_changes(bus, after).await?;
                    continue;
                }
                Gap::Markers => None,
            };
            metrics::counter!("gateway_repairs_total").increment(1);
            let page = page::read(self.key, bus, after).await?;
            let is_last = page.entries.is_empty();
            let mut log = self.lifecycle.lock();
            for entry in page.entries {
                log.entry(entry);
            }
            log.markers_read(page.markers);
            log.change_exists(page.changes);
            // The entry was committed before its event was published, so a later read finds it.
            if is_last && matches!(log.gap(), Gap::Entries(_)) {
                return Err(RepairError::LogBehindEvents);
            }
        }
    }

    /// Reads missed changes after a number, page by page.
    async fn read_changes(&self, bus: &Bus, mut after: i64) -> Result<(), RepairError> {
        let LogKey::Conversation(conversation) = self.key else { return Ok(()) };
        loop {
            metrics::counter!("gateway_changes_repaired_total").increment(1);
            let page = page::read_changes(conversation, bus, after).await?;
            let next = page.changes.last().map(|change| change.number).filter(|_| page.more);
            let mut log = self.lifecycle.lock();
            log.changes_read(page.changes, page.number, next.is_none());
            match log.gap() {
                // The change was committed before its event was published, so a later read finds it.
                Gap::Changes(_) if next.is_none() => return Err(RepairError::LogBehindEvents),
                Gap::Changes(last) => after = last,
                _ => return Ok(()),
            }
        }
    }
}

impl LogMembership {
    /// Ends the socket's replay.
    pub fn release(&self) {
        self.channel.lifecycle.lock().release(self.id);
    }

    /// Delivers an entry again to its sender, who repeated the send.
    pub fn repeat(&self, entry: &Entry) {
        let mut log = self.channel.lifecycle.lock();
        log.repeat(self.id, entry);
        self.channel.changed(log);
    }

    /// The last `seq` that the channel delivered.
    pub fn last_seq(&self) -> Seq {
        self.channel.delivered().map_or(0, |delivered| delivered.seq)
    }

    /// Takes the `seq` of a message that the service has stored.
    pub fn stored(&self, seq: Seq) {
        let mut log = self.channel.lifecycle.lock();
        log.head(seq, None);
        self.channel.changed(log);
    }

    /// Takes the number of a change that the service has made.
    pub fn change_made(&self, number: i64) {
        let mut log = self.channel.lifecycle.lock();
        log.change_exists(number);
        self.channel.changed(log);
    }
}

impl Drop for LogMembership {
    fn drop(&mut self) {
        self.channel.lifecycle.leave(|log| log.detach(self.id));
    }
}
