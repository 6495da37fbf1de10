//! The replay of a log to a socket that joins it.

use crate::{
    channel::{
        entry::{Change, Entry, Position},
        log_channel::{LogChannel, LogMembership, Snapshot},
        ordering::Attached,
        page::{self, Page},
        view::View,
    },
    topic::LogKey,
};
use contract::{MessageId, Refusal, Seq, Timestamp, UserId, chat::Marker, log::Head};
use service::{Bus, bus::RequestError};
use std::{collections::HashMap, sync::Arc};

/// Joins a socket to a log: sends the entries after an id, then live events, without a gap or a repeat. With a number of
/// changes, sends the later changes of earlier entries, too. `head` is the log's end, read after the channel subscribed.
///
/// # Errors
/// If the service refuses a page or does not answer.
pub async fn join(
    channel: &Arc<LogChannel>,
    bus: &Bus,
    view: View,
    head: Page,
    after: Option<(i64, Option<i64>)>,
) -> Result<LogMembership, Refusal> {
    let (at, snapshot) = match after {
        Some((after, changes)) => Replay::new(channel.key(), head, after, changes).run(bus, &view).await?,
        None => (head.position(), Snapshot { markers: head.markers, inbox: head.inbox }),
    };
    let (membership, attached) = channel.attach(view.clone(), at, snapshot, after.is_some());
    if let Attached::Behind(_, until) = attached {
        catch_up(channel.key(), bus, &view, at, until).await?;
        membership.release();
    }
    Ok(membership)
}

/// Sends the entries and the changes that the channel delivered between the last page and the attachment. Later events
/// wait in the membership.
async fn catch_up(
    key: LogKey,
    bus: &Bus,
    view: &View,
    mut at: Position,
    until: Position,
) -> Result<(), Refusal> {
    while at.head.seq < until.head.seq {
        let page = page::read(key, bus, Some(at.head.id)).await.map_err(RequestError::into_refusal)?;
        let Some(last) = page.entries.last().map(|entry| entry.at) else { break };
        send(view, page.entries.into_iter().filter(|entry| entry.at.seq <= until.head.seq)).await;
        at.head = last;
    }
    if at.changes < until.changes {
        let is_wanted = |change: &Change| change.number <= until.changes;
        send_changes(key, bus, view, at.changes, until.head.seq, is_wanted).await?;
    }
    Ok(())
}

/// Sends the changes after a number that are wanted, up to the first one of an entry after `last`, which the socket does
/// not have yet. Returns the number of the last change that the socket has then.
async fn send_changes(
    key: LogKey,
    bus: &Bus,
    view: &View,
    mut after: i64,
    last: Seq,
    is_wanted: impl Fn(&Change) -> bool,
) -> Result<i64, Refusal> {
    let LogKey::Conversation(conversation) = key else { return Ok(after) };
    loop {
        let page = page::read_changes(conversation, bus, after).await.map_err(RequestError::into_refusal)?;
        for change in page.changes {
            if change.entry.at.seq > last {
                return Ok(after);
            }
            after = change.number;
            if is_wanted(&change) {
                send(view, [change.entry]).await;
            }
        }
        if !page.more {
            return Ok(after.max(page.number));
        }
    }
}

/// Sends entries as fast as the outbox has room.
async fn send(view: &View, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        view.outbox.wait_for_room().await;
        view.outbox.push(view.frame(&entry));
    }
}

/// The replay of a log, page by page.
struct Replay {
    key: LogKey,
    after: i64,
    /// The number of the last change that the socket has.
    has_changes: i64,
    /// The number of changes before the first page was read.
    changes: i64,
    /// The end of the log before the first page was read.
    head: Head,
    /// The last entry sent.
    at: Head,
    snapshot: Snapshot,
    /// The last entry of each sender.
    senders: HashMap<UserId, Head>,
}

impl Replay {
    fn new(key: LogKey, page: Page, after: i64, changes: Option<i64>) -> Self {
        let at = Head { id: after, ..page.head };
        let snapshot = Snapshot { markers: page.markers, inbox: page.inbox };
        let changes_now = page.changes;
        // A number beyond the end starts at the end, as an id does.
        let has_changes = changes.map_or(changes_now, |changes| changes.min(changes_now));
        Self {
            key,
            after,
            has_changes,
            changes: changes_now,
            head: page.head,
            at,
            snapshot,
            senders: HashMap::new(),
        }
    }

    /// Sends every page. Returns the position of the socket then, and the state of the log when the last page was read.
    async fn run(mut self, bus: &Bus, view: &View) -> Result<(Position, Snapshot), Refusal> {
        let changes = loop {
            let page =
                page::read(self.key, bus, Some(self.at.id)).await.map_err(RequestError::into_refusal)?;
            let changes = page.changes;
            self.snapshot = Snapshot { markers: page.markers, inbox: page.inbox };
            let Some(last) = page.entries.last().map(|entry| entry.at) else {
                if self.at.id == self.after {
                    // The head was read before this empty page, so nothing came in between.
                    self.at = self.head;
                }
                break changes;
            };
            let sent = page.entries.iter().filter(|entry| entry.moves_marker);
            self.senders.extend(sent.map(|entry| (entry.owner, entry.at)));
            send(view, page.entries).await;
            self.at = last;
            if !page.more {
                break changes;
            }
        };
        let changes = if changes > self.has_changes {
            // The pages show the changes that their entries had before the first page was read.
            let is_wanted =
                |change: &Change| change.entry.at.id <= self.after || change.number > self.changes;
            send_changes(self.key, bus, view, self.has_changes, self.at.seq, is_wanted).await?
        } else {
            changes
        };
        let markers = move_by_sending(self.key, self.snapshot.markers, self.senders);
        Ok((Position { head: self.at, changes }, Snapshot { markers, ..self.snapshot }))
    }
}

/// Moves the markers of users who sent one of the replayed entries: the service reads markers before entries, and a
/// user's own message marks everything before it as read.
fn move_by_sending(key: LogKey, mut markers: Vec<Marker>, senders: HashMap<UserId, Head>) -> Vec<Marker> {
    let LogKey::Conversation(conversation_id) = key else { return markers };
    for (user_id, at) in senders {
        let Ok(message_id) = MessageId::new(at.id) else { continue };
        // No client receives this time: a marker that moved by sending is not sent.
        let read_at = Timestamp::now();
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

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ConversationId;

    #[test]
    fn a_user_who_has_sent_a_message_has_read_up_to_it() {
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
        let markers = move_by_sending(LogKey::Conversation(conversation), read, senders.into());
        let markers: Vec<_> =
            markers.iter().map(|marker| (marker.user_id.get(), marker.seq, marker.by_sending)).collect();
        assert_eq!(markers, [(1, 1, false), (2, 5, true), (3, 5, false), (4, 5, true)]);
    }
}
