//! Log channels: what is heard of each, and the repair of what isn't.

use crate::topic::LogKey;
use crate::{
    channel::{
        encode::{self, Event},
        entry::{Entry, InboxState},
        maintenance::Maintenance,
        ordering::{Attached, Lack, Log, MemberId, View},
    },
    nats::{connection::Mark, protocol::Message},
    telemetry,
    topic::Topic,
};
use contract::{
    MessageId, Refusal, Timestamp, UserId,
    chat::{Marker, PageMessages},
    limits,
    log::{Head, Range},
    notify::{INBOX_PLACE_HEADER, InboxHead, PageNotifications, ReadPlace},
};
use service::{
    Bus, Span,
    bus::RequestError,
    trace::{self, Kind},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// How long events of two publishers may cross before a hole is read from the service.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long to wait after a repair that failed.
const RETRY: Duration = Duration::from_millis(500);
/// How long a question to a service may take.
const ANSWER: Duration = limits::SEND_DEADLINE;

/// A part of a log.
pub struct Part {
    /// In order, oldest first.
    pub entries: Vec<Entry>,
    /// Whether there are later ones.
    pub more: bool,
    /// Where the log ended, before or after the entries were read.
    pub head: Head,
    /// The markers of then.
    pub markers: Vec<Marker>,
    /// Where an inbox was read, then.
    pub inbox: Option<Box<InboxState>>,
}

/// Decodes what was published about a log.
fn decode(key: LogKey, message: &Message<'_>) -> serde_json::Result<Event> {
    match key {
        LogKey::Conversation(_) => encode::chat_event(message.payload),
        LogKey::Inbox(user) => {
            let place = message.header(INBOX_PLACE_HEADER).and_then(ReadPlace::parse);
            encode::inbox_event(user, place, message.payload)
        }
        LogKey::Canary(_) => encode::canary(message.payload),
    }
}

/// Reads the entries after an id from the service; with `None`, only where the log ends.
///
/// # Errors
/// When the service refuses, or can't be asked within some seconds.
pub async fn read(key: LogKey, bus: &Bus, after: Option<i64>) -> Result<Part, RequestError> {
    let range = Range::After(after.unwrap_or_default());
    let limit = if after.is_some() { limits::PAGE_MAX } else { 0 };
    match key {
        LogKey::Conversation(conversation_id) => {
            let ask =
                PageMessages { conversation_id, user_id: None, username: None, named_at: None, range, limit };
            let page = bus.request_until(&ask, ANSWER).await?;
            let entries = page.items.into_iter().map(encode::message).collect();
            let (more, head, markers) = (page.more, page.head, page.markers);
            Ok(Part { entries, more, head, markers, inbox: None })
        }
        LogKey::Inbox(user_id) => {
            let ask = PageNotifications { user_id, range, limit, unread: false };
            let page = bus.request_until(&ask, ANSWER).await?;
            let entries = page.page.items.iter().map(|item| encode::notification(user_id, item)).collect();
            let more = page.page.next.is_some();
            let head = page.head;
            let inbox = InboxState {
                seq: head.seq,
                unread: page.unread_count,
                reads: page.reads,
                last_read: page.last_read,
                moves: page.moves,
                last_moved: page.last_moved,
            };
            Ok(Part { entries, more, head, markers: Vec::new(), inbox: Some(Box::new(inbox)) })
        }
        LogKey::Canary(_) => Err(RequestError::NoResponders("the log of a canary")),
    }
}

/// A log that some socket of this gateway follows. It has no task: whoever changes it does what follows from that.
pub struct Channel {
    key: LogKey,
    maintenance: Arc<Maintenance>,
    subscribed: Mark,
    state: Mutex<State>,
}

/// What may be changed only together.
#[derive(Default)]
struct State {
    log: Log,
    /// A task reads what is missing.
    is_mending: bool,
    /// It is to be looked at again, whether anyone is here.
    lingers: bool,
}

/// What a log's service said besides entries.
struct Present {
    markers: Vec<Marker>,
    inbox: Option<Box<InboxState>>,
}

/// A socket's place on a channel; dropping it takes the socket off.
pub struct Membership {
    channel: Arc<Channel>,
    id: MemberId,
}

impl Channel {
    /// A channel whose subscription is on its way.
    pub fn new(key: LogKey, maintenance: Arc<Maintenance>) -> Self {
        let subscribed = maintenance.events.subscribe(Topic::Log(key));
        // Nobody is here yet, and perhaps nobody comes.
        maintenance.linger(Topic::Log(key));
        let state = State { lingers: true, ..State::default() };
        Self { key, maintenance, subscribed, state: Mutex::new(state) }
    }

    /// Which log.
    pub const fn key(&self) -> LogKey {
        self.key
    }

    /// When NATS has passed this, what is asked of a service is answered later than the subscription begins.
    pub const fn subscribed(&self) -> Mark {
        self.subscribed
    }

    /// Puts a socket on the channel; it has been sent everything up to `at`.
    fn attach(
        self: &Arc<Self>,
        view: View,
        at: Head,
        Present { markers, inbox }: Present,
        resumes: bool,
    ) -> (Membership, Attached) {
        let mut state = self.state();
        let log = &mut state.log;
        if let Some(inbox) = &inbox {
            log.inbox(inbox);
        }
        let attached = log.attach(view, at, markers, resumes);
        let (Attached::Live(id) | Attached::Behind(id, _)) = attached;
        if let Some(inbox) = inbox.filter(|_| resumes) {
            log.remind(id, &inbox);
        }
        self.changed(state);
        (Membership { channel: self.clone(), id }, attached)
    }

    /// The service said where the inbox ends, and what was read last.
    pub fn inbox_head(self: &Arc<Self>, head: &InboxHead) {
        let mut state = self.state();
        state.log.head(head.seq, None);
        let InboxHead { seq, unread_count: unread, reads, last_read, moves, last_moved, .. } = *head;
        state.log.inbox(&InboxState { seq, unread, reads, last_read, moves, last_moved });
        self.changed(state);
    }

    /// The service said that the log has at least so much.
    pub fn head(self: &Arc<Self>, seq: i64, read_sum: Option<i64>) {
        let mut state = self.state();
        state.log.head(seq, read_sum);
        self.changed(state);
    }

    /// The service said where the log ends. Before it was asked, the channel had sent everything up to `sent`.
    pub fn check_end(&self, seq: i64, sent: i64) {
        if seq < sent {
            let mut state = self.state();
            // Unless another comparison has seen it already.
            if state.log.last_seq().is_some_and(|last| last >= sent) {
                tracing::warn!(channel = self.key.name(), seq, sent, "a log went back; closing its sockets");
                state.log.restart();
            }
        }
    }

    /// The last `seq` that was told, once the channel has a first member.
    pub fn last_seq(&self) -> Option<i64> {
        self.state().log.last_seq()
    }

    /// Whether nobody is here; who is asked has the channel looked at again. Otherwise whoever leaves last does.
    pub fn lingers(&self) -> bool {
        let mut state = self.state();
        state.lingers = state.log.is_empty();
        state.lingers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// What may be missing now is read after a while, unless it comes by itself.
    fn changed(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if !state.is_mending && !state.log.is_empty() && state.log.lack() != Lack::Nothing {
            state.is_mending = true;
            drop(state);
            self.maintenance.spawn(self.clone().mend());
        }
    }

    /// Reads what is missing, until nothing is or nobody is here.
    async fn mend(self: Arc<Self>) {
        let _mending = self.maintenance.mending();
        let mut patience = PATIENCE;
        loop {
            tokio::time::sleep(patience).await;
            {
                let mut state = self.state();
                if state.log.is_empty() || state.log.lack() == Lack::Nothing {
                    state.is_mending = false;
                    return;
                }
            }
            let Ok(_permit) = self.maintenance.repairs.acquire().await else { return };
            patience = match self.repair(&self.maintenance.bus).await {
                Ok(()) => PATIENCE,
                Err(error) => {
                    tracing::warn!(%error, channel = self.key.name(), "read what was missed; trying again");
                    RETRY
                }
            };
        }
    }

    /// Something was published.
    pub fn take(self: &Arc<Self>, message: &Message<'_>) {
        let step = Span::under(trace::parent(|name| message.header(name)), "deliver", Kind::Consumer);
        let _entered = step.enter();
        match decode(self.key, message) {
            Ok(Event::Entry(entry, committed)) => {
                let entry = telemetry::until_written(entry, committed, step.clone());
                let mut state = self.state();
                state.log.entry(entry);
                self.changed(state);
            }
            Ok(Event::Note(note)) => {
                let mut state = self.state();
                state.log.note(note);
                self.changed(state);
            }
            Err(error) => {
                metrics::counter!("gateway_undecodable_total").increment(1);
                tracing::error!(%error, "an event can't be read");
            }
        }
    }

    /// Reads what is missing from the service, page by page.
    async fn repair(&self, bus: &Bus) -> Result<(), RequestError> {
        loop {
            let lack = self.state().log.lack();
            let after = match lack {
                Lack::Nothing => return Ok(()),
                Lack::Entries(after) => Some(after),
                Lack::Markers => None,
            };
            metrics::counter!("gateway_repairs_total").increment(1);
            let part = read(self.key, bus, after).await?;
            let ends = part.entries.is_empty();
            let log = &mut self.state().log;
            for entry in part.entries {
                log.entry(entry);
            }
            log.markers_read(part.markers);
            if ends && matches!(log.lack(), Lack::Entries(_)) {
                // What is known to exist can't be read yet: not for long, as it was committed before it was told.
                return Err(RequestError::NoResponders("a log that is behind its events"));
            }
        }
    }
}

impl Membership {
    /// The replay is over.
    pub fn release(&self) {
        self.channel.state().log.release(self.id);
    }

    /// The service said that this is stored, and was before: the sender is told again.
    pub fn repeat(&self, entry: &Entry) {
        let mut state = self.channel.state();
        state.log.repeat(self.id, entry);
        self.channel.changed(state);
    }

    /// The last `seq` that was told.
    pub fn last_seq(&self) -> i64 {
        self.channel.last_seq().unwrap_or_default()
    }

    /// The service said that this is stored.
    pub fn stored(&self, seq: i64) {
        self.channel.head(seq, None);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.channel.state();
        state.log.detach(self.id);
        if state.log.is_empty() && !state.lingers {
            state.lingers = true;
            self.channel.maintenance.linger(Topic::Log(self.channel.key));
        }
    }
}

/// Brings a socket onto a log: sends what came after an id, then everything live; none missing, none twice.
///
/// # Errors
/// When the service refuses, or can't be asked.
pub async fn join(
    channel: &Arc<Channel>,
    bus: &Bus,
    view: View,
    first: Part,
    after: Option<i64>,
) -> Result<Membership, Refusal> {
    let key = channel.key();
    let mut markers = first.markers;
    let mut inbox = first.inbox;
    let mut senders: HashMap<UserId, Head> = HashMap::new();
    let mut at = first.head;
    if let Some(after) = after {
        at = Head { id: after, ..at };
        loop {
            let part = read(key, bus, Some(at.id)).await.map_err(RequestError::into_refusal)?;
            markers = part.markers;
            inbox = part.inbox;
            let Some(last) = part.entries.last().map(|entry| entry.at) else {
                if at.id == after {
                    at = first.head; // Read before this page: nothing can have come in between.
                }
                break;
            };
            senders.extend(part.entries.iter().map(|entry| (entry.owner, entry.at)));
            send(&view, part.entries).await;
            at = last;
            if !part.more {
                break;
            }
        }
    }
    let markers = up_to_date(key, markers, senders);
    let present = Present { markers, inbox };
    let (membership, attached) = channel.attach(view.clone(), at, present, after.is_some());
    if let Attached::Behind(_, until) = attached {
        while at.seq < until {
            let part = read(key, bus, Some(at.id)).await.map_err(RequestError::into_refusal)?;
            let Some(last) = part.entries.last().map(|entry| entry.at) else { break };
            send(&view, part.entries.into_iter().filter(|entry| entry.at.seq <= until)).await;
            at = last;
        }
        membership.release();
    }
    Ok(membership)
}

/// Markers are read before entries: whoever has sent one of those has read up to it.
fn up_to_date(key: LogKey, mut markers: Vec<Marker>, senders: HashMap<UserId, Head>) -> Vec<Marker> {
    let LogKey::Conversation(conversation_id) = key else { return markers };
    for (user_id, at) in senders {
        let Ok(message_id) = MessageId::new(at.id) else { continue };
        let read_at = Timestamp::now(); // Nobody is told of it.
        let (seq, unread_count, by_sending) = (at.seq, None, true);
        let sent = Marker { conversation_id, user_id, message_id, seq, read_at, unread_count, by_sending };
        match markers.iter_mut().find(|marker| marker.user_id == user_id) {
            Some(marker) if marker.seq < sent.seq => *marker = sent,
            Some(_) => {}
            None => markers.push(sent),
        }
    }
    markers
}

async fn send(view: &View, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        view.outbox.room().await;
        view.outbox.push(view.frame(&entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ConversationId;

    #[test]
    fn whoever_has_sent_a_message_has_read_up_to_it() {
        let user = |id: i64| UserId::new(id).unwrap();
        let conversation = ConversationId::new(1).unwrap();
        let marker = |id: i64, seq: i64| Marker {
            conversation_id: conversation,
            user_id: user(id),
            message_id: MessageId::new(10 * seq).unwrap(),
            seq,
            read_at: Timestamp::now(),
            unread_count: None,
            by_sending: false,
        };
        let senders = [2, 3, 4].map(|id| (user(id), Head { seq: 5, id: 50 }));
        let read = vec![marker(1, 1), marker(2, 4), marker(3, 5)];
        let markers = up_to_date(LogKey::Conversation(conversation), read, senders.into());
        let markers: Vec<_> =
            markers.iter().map(|marker| (marker.user_id.get(), marker.seq, marker.by_sending)).collect();
        assert_eq!(markers, [(1, 1, false), (2, 5, true), (3, 5, false), (4, 5, true)]);
    }
}
