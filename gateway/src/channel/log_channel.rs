//! The channel of a log on one gateway: delivers events in order to the members and repairs gaps.

use crate::{
    channel::{
        delivery,
        encode::{self, Event},
        entry::{Entry, InboxState},
        lifecycle::{ChannelState, Lifecycle, Tracked},
        maintenance::Maintenance,
        ordering::{Attached, Gap, Log, MemberId},
        page,
        view::View,
    },
    nats::{connection::Mark, protocol::Message},
    topic::{LogKey, Topic},
};
use contract::{
    Seq,
    chat::Marker,
    log::Head,
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
        Self { key, lifecycle: Lifecycle::begin(Topic::Log(key), maintenance) }
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
        at: Head,
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
        let InboxHead { seq, unread_count: unread, reads, last_read, moves, last_moved, .. } = *head;
        log.inbox(&InboxState { seq, unread, reads, last_read, moves, last_moved });
        self.changed(log);
    }

    /// Takes the end of the log, and the sum of its markers, from its service.
    pub fn head(self: &Arc<Self>, seq: Seq, read_sum: Option<i64>) {
        let mut log = self.lifecycle.lock();
        log.head(seq, read_sum);
        self.changed(log);
    }

    /// Compares the end of the log, from its service, with the last `seq` delivered before the service was asked. A log
    /// that went back closes its sockets.
    pub fn check_end(&self, seq: Seq, delivered: Seq) {
        if seq < delivered {
            let mut log = self.lifecycle.lock();
            // Another comparison may have restarted the log already.
            if log.last_seq().is_some_and(|last| last >= delivered) {
                tracing::warn!(
                    channel = self.key.name(),
                    seq,
                    delivered,
                    "a log went back; closing its sockets"
                );
                log.restart();
            }
        }
    }

    /// The last delivered `seq`, once the channel has had a member.
    pub fn last_seq(&self) -> Option<Seq> {
        self.lifecycle.lock().last_seq()
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
            // The entry was committed before its event was published, so a later read finds it.
            if is_last && matches!(log.gap(), Gap::Entries(_)) {
                return Err(RepairError::LogBehindEvents);
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
        self.channel.last_seq().unwrap_or_default()
    }

    /// Takes the `seq` of a message that the service has stored.
    pub fn stored(&self, seq: Seq) {
        self.channel.head(seq, None);
    }
}

impl Drop for LogMembership {
    fn drop(&mut self) {
        self.channel.lifecycle.leave(|log| log.detach(self.id));
    }
}
