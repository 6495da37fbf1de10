//! The state of a log channel on one gateway. Events arrive in any order, repeatedly or not at all; each entry goes to
//! each socket once, in `seq` order, without a gap. Pure: no I/O and no clock.

mod changes;
mod markers;
mod members;

pub use self::members::MemberId;
use self::{
    changes::Changes,
    markers::{MarkerFrames, Markers, Reached},
    members::{Joining, Member, Members},
};
use crate::{
    channel::{
        encode,
        entry::{Change, Counts, Entry, InboxState, Note, Position},
        view::View,
    },
    websocket::Frame,
};
use contract::{
    Close, Seq, Timestamp,
    chat::Marker,
    log::Head,
    notify::{InboxRead, InboxSeen, ReadPlace},
};
use std::collections::{BTreeMap, HashSet, VecDeque};

/// Number of entries that wait behind a gap. The service is asked for later ones.
const PENDING: usize = 1024;

/// The position of a new member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// The member receives live events.
    Live(MemberId),
    /// The member's replay ended before the channel's position: it must read up to this one, and then be released.
    Behind(MemberId, Position),
}

/// The part of a log that a channel has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The channel has missed nothing.
    None,
    /// Entries after this id.
    Entries(i64),
    /// No entry, but changes after this number.
    Changes(i64),
    /// Only markers.
    Markers,
}

/// The state of a log channel.
#[derive(Default)]
pub struct Log {
    /// The last delivered entry, once the channel has had a member.
    last: Option<Head>,
    /// The highest `seq` that is known to exist.
    known: Seq,
    /// Entries behind a gap.
    pending: BTreeMap<Seq, Entry>,
    changes: Changes,
    markers: Markers,
    /// Markers beyond `last`, at most one for each user; delivered once their entries are.
    early: Vec<Marker>,
    has_missed_markers: bool,
    /// Boxed, because conversations have none.
    inbox: Option<Box<Inbox>>,
    members: Members,
}

/// The state of an inbox as its sockets know it, besides its entries.
#[derive(Default)]
struct Inbox {
    /// The time of the last read; `None` if there was none.
    read_at: Option<Timestamp>,
    /// The number of reads; `None` until the service has sent it.
    reads: Option<i64>,
    /// That number at the last change of the unread count, which what was seen does not change.
    reads_of_unread: Option<i64>,
    /// The counts of the last frame.
    counts: Option<Counts>,
    /// The last notification that the user has seen, as the sockets know it; 0 if none.
    seen: i64,
    /// The number of times that a marker of the user moved; `None` until the service has sent it.
    moves: Option<i64>,
    /// Reads and what was seen beyond `last`, in order; delivered once the entries that they count are.
    early: VecDeque<(ReadPlace, InboxNote)>,
}

/// News of an inbox with counts that belong to a position.
#[derive(Debug, Clone, Copy)]
enum InboxNote {
    Read(InboxRead),
    Seen(InboxSeen),
}

impl Log {
    /// Takes an entry, from an event or from a page.
    pub fn entry(&mut self, entry: Entry) {
        self.known = self.known.max(entry.at.seq);
        match self.last {
            Some(last) if entry.at.seq <= last.seq => {
                // Ids grow with seq, so the log has another history now.
                if entry.at.id > last.id {
                    self.restart();
                }
            }
            Some(last) if entry.at.seq == last.seq + 1 => {
                self.deliver(&entry);
                self.deliver_pending();
            }
            _ if self.pending.len() < PENDING => {
                self.pending.insert(entry.at.seq, entry);
            }
            _ => metrics::counter!("gateway_pending_full_total").increment(1),
        }
    }

    /// Takes a change, from an event.
    pub fn change(&mut self, change: Change) {
        self.known = self.known.max(change.entry.at.seq);
        self.changes.hold(change);
        self.deliver_changes();
    }

    /// Takes changes from a page. `number` is the number of changes when the page was read; with `is_last`, no message
    /// has a later change.
    pub fn changes_read(&mut self, changes: Vec<Change>, number: i64, is_last: bool) {
        for change in changes {
            self.known = self.known.max(change.entry.at.seq);
            if self.last.is_none_or(|last| last.seq < change.entry.at.seq) {
                return; // Read again once the entry is delivered.
            }
            if change.number > self.changes.last() {
                self.deliver_change(&change);
                self.changes.advance(change.number);
            }
        }
        if is_last {
            self.changes.advance(number);
        }
        self.deliver_changes();
    }

    fn deliver_changes(&mut self) {
        let Some(last) = self.last else { return };
        while let Some(change) = self.changes.next_due(last.seq) {
            self.deliver_change(&change);
        }
    }

    fn deliver_change(&mut self, change: &Change) {
        for member in self.members.iter_mut() {
            // A socket that has resumed past the channel has the change already.
            let has = member.joining.as_ref().and_then(|joining| joining.changes);
            if has.is_none_or(|has| has < change.number) {
                let frame = member.view.visible(&change.entry);
                member.push(frame);
            }
            member.changes_overtaken(change.number);
        }
    }

    /// Takes a note.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Marker(marker) => self.marker(marker),
            Note::Inbox(read, None) => self.deliver_read(&read, None),
            Note::Inbox(read, Some(place)) => self.inbox_note(place, InboxNote::Read(read)),
            Note::OwnMarker(marker, moves) => self.own_marker(&marker, moves),
            Note::Mine(mine) => self.deliver_extra(&encode::encode(&mine)),
            Note::Seen(seen, None) => self.deliver_seen(&seen, None),
            Note::Seen(seen, Some(place)) => self.inbox_note(place, InboxNote::Seen(seen)),
        }
    }

    /// Takes news of an inbox. Their counts belong to an inbox that ended at `place`. If the channel has delivered
    /// less, they wait; otherwise the older count of an overtaken notification would remain.
    fn inbox_note(&mut self, place: ReadPlace, note: InboxNote) {
        self.known = self.known.max(place.seq);
        let inbox = self.inbox.get_or_insert_default();
        let Some(last) = self.last.filter(|last| last.seq >= place.seq) else {
            if inbox.early.len() < PENDING {
                let at = inbox.early.partition_point(|(before, _)| *before <= place);
                inbox.early.insert(at, (place, note));
            } else {
                // The next comparison with the service finds the last state.
                metrics::counter!("gateway_pending_full_total").increment(1);
            }
            return;
        };
        // They are late if the sockets already have newer counts.
        let (is_older, counts) = (place.seq < last.seq, inbox.counts);
        let is_late = |reads: Option<i64>| is_older || Some(place.reads) <= reads;
        let unseen = counts.filter(|_| is_late(inbox.reads)).map(|counts| counts.unseen);
        match note {
            InboxNote::Read(mut read) => {
                let unread = counts.filter(|_| is_late(inbox.reads_of_unread)).map(|counts| counts.unread);
                read.unread_count = unread.unwrap_or(read.unread_count);
                read.unseen_count = unseen.unwrap_or(read.unseen_count);
                self.deliver_read(&read, Some(place.reads));
            }
            InboxNote::Seen(mut seen) => {
                seen.unseen_count = unseen.flatten().unwrap_or(seen.unseen_count);
                self.deliver_seen(&seen, Some(place.reads));
            }
        }
    }

    /// Delivers what the user has seen, unless the sockets know a later marker, or this one with this count.
    fn deliver_seen(&mut self, seen: &InboxSeen, reads: Option<i64>) {
        let inbox = self.inbox.get_or_insert_default();
        inbox.reads = inbox.reads.max(reads);
        let is_counted = inbox.counts.is_some_and(|counts| counts.unseen == Some(seen.unseen_count));
        if (seen.notification_id.get(), !is_counted) <= (inbox.seen, false) {
            return;
        }
        inbox.seen = seen.notification_id.get();
        if let Some(counts) = &mut inbox.counts {
            counts.unseen = Some(seen.unseen_count);
        }
        self.deliver_extra(&encode::inbox_seen(seen));
    }

    fn deliver_read(&mut self, read: &InboxRead, reads: Option<i64>) {
        let inbox = self.inbox.get_or_insert_default();
        inbox.counts = Some(Counts { unread: read.unread_count, unseen: read.unseen_count });
        inbox.read_at = inbox.read_at.max(Some(read.read_at));
        inbox.reads = inbox.reads.max(reads);
        inbox.reads_of_unread = inbox.reads_of_unread.max(reads);
        self.deliver_extra(&encode::inbox_read(read));
    }

    fn own_marker(&mut self, marker: &Marker, moves: i64) {
        let inbox = self.inbox.get_or_insert_default();
        inbox.moves = inbox.moves.max(Some(moves));
        self.deliver_extra(&encode::read(marker));
    }

    /// Takes the number of times that a marker of the user moved, from the service. Delivers the last one if the
    /// sockets have missed it, without an unread count: the client asks for that.
    fn last_moved(&mut self, now: &InboxState) {
        let inbox = self.inbox.get_or_insert_default();
        let is_missed = inbox.moves.is_some() && now.moves > inbox.moves;
        match now.last_moved.zip(now.moves).filter(|_| is_missed && self.last.is_some()) {
            Some((marker, moves)) => self.own_marker(&marker, moves),
            None => inbox.moves = inbox.moves.max(now.moves),
        }
    }

    fn deliver_extra(&mut self, frame: &Frame) {
        for member in self.members.iter_mut().filter(|member| member.view.outbox.understands_extensions()) {
            member.push(frame.clone());
        }
    }

    fn marker(&mut self, marker: Marker) {
        self.known = self.known.max(marker.seq);
        let Some(last) = self.last.filter(|last| last.seq >= marker.seq) else {
            match self.early.iter_mut().find(|early| early.user_id == marker.user_id) {
                Some(early) if early.seq < marker.seq => *early = marker,
                Some(_) => {}
                None => self.early.push(marker),
            }
            return;
        };
        let reached = self.markers.entry(marker.user_id);
        if marker.seq <= reached.seq {
            return;
        }
        *reached = Reached::by(marker);
        if marker.by_sending {
            return;
        }
        let frames = MarkerFrames::new(&marker, last.seq);
        for member in self.members.iter_mut() {
            match member.joining.as_mut().and_then(|joining| joining.ahead.as_mut()) {
                Some(users) => drop(users.insert(marker.user_id)),
                None => member.push(frames.for_user(member.view.user_id)),
            }
        }
    }

    /// Closes the sockets, because the log is not the one that they received: Postgres was restored to an earlier point
    /// in time. Their clients start over from the service's state.
    pub fn restart(&mut self) {
        metrics::counter!("gateway_logs_restarted_total").increment(1);
        for member in self.members.iter_mut() {
            member.view.outbox.close(Close::Restart);
        }
        let members = std::mem::take(&mut self.members);
        *self = Self { members, ..Self::default() };
    }

    /// Takes a `seq` that exists, and the sum of all markers if the service has sent it.
    pub fn head(&mut self, seq: Seq, read_sum: Option<i64>) {
        self.known = self.known.max(seq);
        let caught_up = self.last.is_some_and(|last| last.seq >= seq);
        self.has_missed_markers |= caught_up && read_sum.is_some_and(|sum| sum > self.markers.sum());
    }

    /// Takes the state of an inbox from its service. Delivers the last read if the sockets have missed it or have
    /// another unread count, but only if they have received exactly the notifications that it counts.
    pub fn inbox(&mut self, now: &InboxState) {
        self.last_moved(now);
        let counts = Counts { unread: now.unread, unseen: now.seen.map(|seen| seen.unseen_count) };
        let Some(last) = self.last else {
            let inbox = self.inbox.get_or_insert_default();
            inbox.reads = inbox.reads.max(now.reads);
            inbox.reads_of_unread = inbox.reads;
            inbox.read_at = inbox.read_at.max(now.last_read.map(|read| read.read_at));
            inbox.seen = inbox.seen.max(now.seen.map_or(0, |seen| seen.notification_id.get()));
            inbox.counts = Some(counts);
            return;
        };
        let inbox = self.inbox.get_or_insert_default();
        if last.seq != now.seq || now.reads < inbox.reads {
            return;
        }
        let is_new = now.reads > inbox.reads || now.last_read.map(|read| read.read_at) > inbox.read_at;
        let differs = inbox.counts.is_some_and(|known| known != counts);
        if let Some(read) = now.last_read.filter(|_| is_new || differs) {
            let Counts { unread: unread_count, unseen: unseen_count } = counts;
            self.deliver_read(&InboxRead { unread_count, unseen_count, ..read }, now.reads);
        }
        if let Some(seen) = now.seen {
            self.deliver_seen(&seen, now.reads);
        }
    }

    /// Sends the last read, and what was seen, to a socket that resumes, because they may have changed while the socket
    /// was away.
    pub fn remind(&mut self, id: MemberId, now: &InboxState) {
        let is_current = self.last.is_some_and(|last| last.seq == now.seq);
        let (Some(inbox), Some(member)) =
            (self.inbox.as_ref().filter(|_| is_current), self.members.get_mut(id))
        else {
            return;
        };
        if !member.view.outbox.understands_extensions() {
            return;
        }
        // What is not delivered yet will be delivered to all.
        if let Some(read) = now.last_read.filter(|read| inbox.read_at == Some(read.read_at)) {
            member.push(encode::inbox_read(&read));
        }
        if let Some(seen) = now.seen.filter(|seen| inbox.seen == seen.notification_id.get()) {
            member.push(encode::inbox_seen(&seen));
        }
    }

    /// The part that has to be read from the service.
    pub fn gap(&self) -> Gap {
        match self.last {
            Some(last) if self.known > last.seq => Gap::Entries(last.id),
            Some(_) if self.changes.is_missing() => Gap::Changes(self.changes.last()),
            Some(_) if self.has_missed_markers => Gap::Markers,
            _ => Gap::None,
        }
    }

    /// Takes all markers from a page.
    pub fn markers_read(&mut self, markers: Vec<Marker>) {
        self.has_missed_markers = false;
        for marker in markers {
            self.marker(marker);
        }
    }

    /// Adds a socket that has received everything up to `at` (or starts there), with the markers of that time. A socket
    /// that resumes also receives every user's marker, because markers may have moved while it was away.
    pub fn attach(
        &mut self,
        view: View,
        position: Position,
        markers: Vec<Marker>,
        resumes: bool,
    ) -> Attached {
        let Position { head: at, changes } = position;
        if self.last.is_none() {
            self.last = Some(at);
            self.changes.advance(changes);
            for marker in markers {
                *self.markers.entry(marker.user_id) = Reached::by(marker);
            }
            self.deliver_pending();
        } else {
            self.known = self.known.max(at.seq);
            self.changes.know(changes);
            for marker in markers {
                self.marker(marker);
            }
        }
        let last = self.last.map_or(at.seq, |last| last.seq);
        let behind = at.seq < last || changes < self.changes.last();
        let readers = if resumes { self.markers.users().collect() } else { HashSet::new() };
        let changes = (changes > self.changes.last()).then_some(changes);
        let joining = Joining { held: behind.then(VecDeque::new), ahead: Some(readers), changes };
        let mut member = Member { view, delivered: at.seq.max(last), joining: Some(Box::new(joining)) };
        if at.seq <= last {
            member.overtaken(&self.markers, last);
        }
        let id = self.members.add(member);
        if behind { Attached::Behind(id, self.position()) } else { Attached::Live(id) }
    }

    /// Ends the replay of a member: the frames that arrived during it follow.
    pub fn release(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(id) {
            member.release();
        }
    }

    /// Removes a socket.
    pub fn detach(&mut self, id: MemberId) {
        self.members.remove(id);
    }

    /// Whether the channel has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn position(&self) -> Position {
        Position { head: self.last.unwrap_or_default(), changes: self.changes.last() }
    }

    /// Number of the last delivered change.
    pub const fn last_change(&self) -> i64 {
        self.changes.last()
    }

    /// Takes the number of a change that exists.
    pub fn change_exists(&mut self, number: i64) {
        self.changes.know(number);
    }

    /// The last delivered `seq`, once the channel has had a member.
    pub fn last_seq(&self) -> Option<Seq> {
        self.last.map(|last| last.seq)
    }

    /// Sends an entry again to its sender, who repeated the send. If the member has not received the entry yet, it
    /// will.
    pub fn repeat(&mut self, id: MemberId, entry: &Entry) {
        self.known = self.known.max(entry.at.seq);
        if let Some(member) = self.members.get_mut(id).filter(|member| entry.at.seq <= member.delivered) {
            let frame = member.view.frame(entry);
            member.push_plain(frame);
        }
    }

    fn deliver_pending(&mut self) {
        while let Some(last) = self.last {
            match self.pending.first_entry() {
                Some(first) if *first.key() <= last.seq => drop(first.remove()),
                Some(first) if *first.key() == last.seq + 1 => {
                    let entry = first.remove();
                    self.deliver(&entry);
                }
                _ => break,
            }
        }
        self.deliver_early();
    }

    fn deliver_early(&mut self) {
        let Some(last) = self.last else { return };
        self.deliver_changes();
        let due: Vec<Marker> = self.early.extract_if(.., |marker| marker.seq <= last.seq).collect();
        for marker in due {
            self.marker(marker);
        }
        self.deliver_inbox_notes();
    }

    /// Delivers news of an inbox that waited for the entries that they count.
    fn deliver_inbox_notes(&mut self) {
        let Some(last) = self.last else { return };
        while let Some(inbox) = &mut self.inbox
            && let Some((place, note)) = inbox.early.pop_front_if(|(place, _)| place.seq <= last.seq)
        {
            self.inbox_note(place, note);
        }
    }

    fn deliver(&mut self, entry: &Entry) {
        self.last = Some(entry.at);
        if entry.counts.is_some() {
            self.inbox.get_or_insert_default().counts = entry.counts;
        }
        if entry.moves_marker {
            *self.markers.entry(entry.owner) = Reached { seq: entry.at.seq, marker: None };
        }
        let mut wrapped: [Option<Frame>; 2] = [None, None];
        for member in self.members.iter_mut() {
            if member.delivered < entry.at.seq {
                member.delivered = entry.at.seq;
                let own = member.view.user_id == entry.owner;
                let frame = member.view.visible(entry);
                let frame = match &member.view.envelope {
                    None => frame,
                    // Every member of one channel that has an envelope has the same: its name.
                    Some(name) => {
                        wrapped[usize::from(own)].get_or_insert_with(|| encode::wrap(name, &frame)).clone()
                    }
                };
                member.push_plain(frame);
            }
            if member.joining.is_some() && member.delivered == entry.at.seq {
                member.overtaken(&self.markers, entry.at.seq);
            }
        }
    }
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod tests;
