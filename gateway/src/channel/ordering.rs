//! A log channel as one gateway sees it: in whatever order, how often or seldom events come in, each goes out to each
//! socket once, in `seq` order, without a hole. Pure: no I/O and no clock.

use super::entry::{Entry, InboxState, Note};
use crate::websocket::{Frame, outbox::Outbox};
use contract::{
    Close, Seq, Timestamp, UserId,
    chat::Marker,
    log::Head,
    notify::{InboxRead, ReadPlace},
};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

/// Events that wait behind a hole; later ones are read from the service.
const PENDING: usize = 1024;
/// Members for whom room is made one by one.
const FEW: usize = 4;
/// Frames that wait for a member whose replay is not over.
const HELD: usize = 1024;

/// A socket's view of a channel.
#[derive(Clone)]
pub struct View {
    /// Whose socket.
    pub user_id: UserId,
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// The channel's name, on a socket that carries several.
    pub envelope: Option<Arc<str>>,
}

/// A socket on a channel. Once it has left, another may have the same.
pub type MemberId = u32;

struct Member {
    view: View,
    delivered: Seq,
    joining: Option<Box<Joining>>,
}

/// What is kept of a socket that is not yet where its channel is.
#[derive(Default)]
struct Joining {
    /// Frames that came in while the socket's replay goes on.
    held: Option<VecDeque<Frame>>,
    /// Of a socket that has read further than the channel has told: whose markers it is told once the channel is there.
    /// Until then their counts would be of less than the socket knows.
    ahead: Option<HashSet<UserId>>,
}

/// Where a new member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Live from now on.
    Live(MemberId),
    /// What the member has read ends before the channel's: it must read on up to this `seq`, and then be released.
    Behind(MemberId, Seq),
}

/// What a channel lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Nothing.
    Nothing,
    /// Entries after this id.
    Entries(i64),
    /// Nothing but the markers.
    Markers,
}

/// How far a user has read.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    seq: Seq,
    /// The marker, unless the user's own message says it.
    marker: Option<Marker>,
}

impl Reached {
    fn by(marker: Marker) -> Self {
        Self { seq: marker.seq, marker: (!marker.by_sending).then_some(marker) }
    }
}

/// The state of a log channel.
#[derive(Default)]
pub struct Log {
    last: Option<Head>,
    /// The highest `seq` that is known to exist.
    known: Seq,
    pending: BTreeMap<Seq, Entry>,
    markers: Markers,
    /// Markers beyond `last`, one of each user: told once what they mark has been told.
    early: Vec<Marker>,
    markers_lack: bool,
    /// What an inbox's sockets know of what was read; boxed, as conversations have none of it.
    inbox: Option<Box<Inbox>>,
    members: Members,
}

/// What an inbox's sockets know of it, besides its entries.
#[derive(Default)]
struct Inbox {
    /// When something in it was last read; `None`: never.
    read_at: Option<Timestamp>,
    /// How often something was read; `None` while no service has said it.
    reads: Option<i64>,
    /// How many are unread, by the last frame.
    unread: Option<i64>,
    /// How often a marker of the user moved; `None` while no service has said it.
    moves: Option<i64>,
    /// Reads beyond `last`, in their order: told once what they count has been told.
    early: VecDeque<(ReadPlace, InboxRead)>,
}

/// How far each user has read, in the order of their ids: a conversation has few people, and many channels wait.
#[derive(Default)]
struct Markers(Vec<(UserId, Reached)>);

impl Markers {
    fn get(&self, user: UserId) -> Option<&Reached> {
        self.0.binary_search_by_key(&user, |(user, _)| *user).ok().map(|place| &self.0[place].1)
    }

    fn of(&mut self, user: UserId) -> &mut Reached {
        let place = self.0.binary_search_by_key(&user, |(user, _)| *user).unwrap_or_else(|place| {
            self.0.insert(place, (user, Reached::default()));
            place
        });
        &mut self.0[place].1
    }

    fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.0.iter().map(|(user, _)| *user)
    }

    fn sum(&self) -> Seq {
        self.0.iter().map(|(_, reached)| reached.seq).sum()
    }
}

/// The sockets of a channel, each at the place that its id says.
#[derive(Default)]
struct Members {
    places: Vec<Option<Member>>,
    free: Vec<MemberId>,
}

impl Members {
    fn add(&mut self, member: Member) -> MemberId {
        if let Some(id) = self.free.pop() {
            self.places[id as usize] = Some(member);
            return id;
        }
        if self.places.len() < FEW {
            self.places.reserve_exact(1);
        }
        self.places.push(Some(member));
        MemberId::try_from(self.places.len() - 1).expect("there are fewer sockets than that")
    }

    fn remove(&mut self, id: MemberId) {
        self.places[id as usize] = None;
        self.free.push(id);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.places.get_mut(id as usize)?.as_mut()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.places.iter_mut().flatten()
    }

    fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }
}

impl Log {
    /// An entry came in, live or read from the service.
    pub fn entry(&mut self, entry: Entry) {
        self.known = self.known.max(entry.at.seq);
        match self.last {
            Some(last) if entry.at.seq <= last.seq => {
                // Ids grow with seq: this is another history.
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

    /// A note came in.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Marker(marker) => self.marker(marker),
            Note::Inbox(read, None) => self.deliver_read(&read, None),
            Note::Inbox(read, Some(place)) => self.read(place, read),
            Note::OwnMarker(marker, moves) => self.own_marker(&marker, moves),
            Note::Extra(frame) => self.deliver_extra(&frame),
        }
    }

    /// Something in an inbox was read. Its count is of an inbox that ended at `place`: sockets that have been told less wait
    /// for the rest, or the count of a notification that was overtaken would stay.
    fn read(&mut self, place: ReadPlace, mut read: InboxRead) {
        self.known = self.known.max(place.seq);
        let inbox = self.inbox.get_or_insert_default();
        let Some(last) = self.last.filter(|last| last.seq >= place.seq) else {
            if inbox.early.len() < PENDING {
                let at = inbox.early.partition_point(|(before, _)| *before <= place);
                inbox.early.insert(at, (place, read));
            } else {
                // The comparison with the service finds what was read last.
                metrics::counter!("gateway_pending_full_total").increment(1);
            }
            return;
        };
        // It comes late: what is unread has changed since, and its sockets know.
        let is_late = place.seq < last.seq || Some(place.reads) <= inbox.reads;
        if let Some(unread) = inbox.unread.filter(|_| is_late) {
            read.unread_count = unread;
        }
        self.deliver_read(&read, Some(place.reads));
    }

    fn deliver_read(&mut self, read: &InboxRead, reads: Option<i64>) {
        let inbox = self.inbox.get_or_insert_default();
        inbox.unread = Some(read.unread_count);
        inbox.read_at = inbox.read_at.max(Some(read.read_at));
        inbox.reads = inbox.reads.max(reads);
        self.deliver_extra(&crate::channel::encode::inbox_read(read));
    }

    fn own_marker(&mut self, marker: &Marker, moves: i64) {
        let inbox = self.inbox.get_or_insert_default();
        inbox.moves = inbox.moves.max(Some(moves));
        self.deliver_extra(&crate::channel::encode::read(marker));
    }

    /// The service said how often a marker of the user moved. One that its sockets were not told of is told now; what is
    /// unread there is for the client to ask.
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
        let reached = self.markers.of(marker.user_id);
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

    /// The log is not what its sockets were sent: Postgres was restored to an earlier point in time. The sockets are
    /// closed, so that their clients start over from the service's state.
    pub fn restart(&mut self) {
        metrics::counter!("gateway_logs_restarted_total").increment(1);
        for member in self.members.iter_mut() {
            member.view.outbox.close(Close::Restart);
        }
        let members = std::mem::take(&mut self.members);
        *self = Self { members, ..Self::default() };
    }

    /// The service said that the log has at least so much, and (where it has them) what all markers add up to.
    pub fn head(&mut self, seq: Seq, read_sum: Option<i64>) {
        self.known = self.known.max(seq);
        let caught_up = self.last.is_some_and(|last| last.seq >= seq);
        self.markers_lack |= caught_up && read_sum.is_some_and(|sum| sum > self.markers.sum());
    }

    /// The service said what an inbox is like. Its sockets are told what was read last if they were not, or if they know
    /// another count; but only where they have been told of all that is counted in it, and of nothing more.
    pub fn inbox(&mut self, now: &InboxState) {
        self.last_moved(now);
        let Some(last) = self.last else {
            let inbox = self.inbox.get_or_insert_default();
            inbox.reads = inbox.reads.max(now.reads);
            inbox.read_at = inbox.read_at.max(now.last_read.map(|read| read.read_at));
            inbox.unread = Some(now.unread);
            return;
        };
        let inbox = self.inbox.get_or_insert_default();
        if last.seq != now.seq || now.reads < inbox.reads {
            return;
        }
        let is_new = now.reads > inbox.reads || now.last_read.map(|read| read.read_at) > inbox.read_at;
        let differs = inbox.unread.is_some_and(|unread| unread != now.unread);
        if let Some(read) = now.last_read.filter(|_| is_new || differs) {
            self.deliver_read(&InboxRead { unread_count: now.unread, ..read }, now.reads);
        }
    }

    /// A socket that was away is told what was read last, as that may have happened meanwhile.
    pub fn remind(&mut self, id: MemberId, now: &InboxState) {
        let Some(read) = now.last_read else { return };
        let is_told = self.inbox.as_ref().is_some_and(|inbox| inbox.read_at == Some(read.read_at));
        let is_present = is_told && self.last.is_some_and(|last| last.seq == now.seq);
        let member = self.members.get_mut(id);
        if let Some(member) =
            member.filter(|member| is_present && member.view.outbox.understands_extensions())
        {
            member.push(crate::channel::encode::inbox_read(&read));
        }
    }

    /// What has to be read from the service.
    pub fn lack(&self) -> Lack {
        match self.last {
            Some(last) if self.known > last.seq => Lack::Entries(last.id),
            Some(_) if self.markers_lack => Lack::Markers,
            _ => Lack::Nothing,
        }
    }

    /// The markers were read from the service.
    pub fn markers_read(&mut self, markers: Vec<Marker>) {
        self.markers_lack = false;
        for marker in markers {
            self.marker(marker);
        }
    }

    /// Adds a socket that has been sent everything up to `at` (nothing, if it starts there), with the markers of then.
    /// One that resumes is also told how far everyone has read, as that may have changed while it was away.
    pub fn attach(&mut self, view: View, at: Head, markers: Vec<Marker>, resumes: bool) -> Attached {
        if self.last.is_none() {
            self.last = Some(at);
            for marker in markers {
                *self.markers.of(marker.user_id) = Reached::by(marker);
            }
            self.deliver_pending();
        } else {
            self.known = self.known.max(at.seq);
            for marker in markers {
                self.marker(marker);
            }
        }
        let last = self.last.map_or(at.seq, |last| last.seq);
        let behind = at.seq < last;
        let readers = if resumes { self.markers.users().collect() } else { HashSet::new() };
        let joining = Joining { held: behind.then(VecDeque::new), ahead: Some(readers) };
        let mut member = Member { view, delivered: at.seq.max(last), joining: Some(Box::new(joining)) };
        if at.seq <= last {
            member.overtaken(&self.markers, last);
        }
        let id = self.members.add(member);
        if behind { Attached::Behind(id, last) } else { Attached::Live(id) }
    }

    /// The replay of a member is over: what came in meanwhile follows.
    pub fn release(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(id) {
            let held = member.joining.as_mut().and_then(|joining| joining.held.take());
            for frame in held.into_iter().flatten() {
                member.view.outbox.push(frame);
            }
            member.joined();
        }
    }

    /// A socket has left.
    pub fn detach(&mut self, id: MemberId) {
        self.members.remove(id);
    }

    /// Whether anyone is here.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The last `seq` that was told, once the channel has a first member.
    pub fn last_seq(&self) -> Option<Seq> {
        self.last.map(|last| last.seq)
    }

    /// The sender is told again of an entry that it repeated, unless it hasn't been told yet and will be.
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
        let due: Vec<Marker> = self.early.extract_if(.., |marker| marker.seq <= last.seq).collect();
        for marker in due {
            self.marker(marker);
        }
        self.deliver_reads();
    }

    /// Tells of what was read in an inbox and waited for its last entry.
    fn deliver_reads(&mut self) {
        let Some(last) = self.last else { return };
        while let Some(inbox) = &mut self.inbox
            && let Some((place, read)) = inbox.early.pop_front_if(|(place, _)| place.seq <= last.seq)
        {
            self.read(place, read);
        }
    }

    fn deliver(&mut self, entry: &Entry) {
        self.last = Some(entry.at);
        if entry.unread.is_some() {
            self.inbox.get_or_insert_default().unread = entry.unread;
        }
        *self.markers.of(entry.owner) = Reached { seq: entry.at.seq, marker: None };
        let mut wrapped: [Option<Frame>; 2] = [None, None];
        for member in self.members.iter_mut().filter(|member| member.delivered < entry.at.seq) {
            member.delivered = entry.at.seq;
            let own = member.view.user_id == entry.owner;
            let frame = member.view.visible(entry);
            let frame = match &member.view.envelope {
                None => frame,
                // Every member of one channel that has an envelope has the same: its name.
                Some(name) => wrapped[usize::from(own)]
                    .get_or_insert_with(|| crate::channel::encode::wrap(name, &frame))
                    .clone(),
            };
            member.push_plain(frame);
        }
        for member in self.members.iter_mut().filter(|member| member.delivered == entry.at.seq) {
            member.overtaken(&self.markers, entry.at.seq);
        }
    }
}

/// The two frames for a marker: to its user's sockets, and to the others'.
struct MarkerFrames {
    user_id: UserId,
    private: Frame,
    public: Frame,
}

impl MarkerFrames {
    /// `last` is what these sockets have been told of the log: the rest after the marker is unread.
    fn new(marker: &Marker, last: Seq) -> Self {
        Self {
            user_id: marker.user_id,
            private: crate::channel::encode::read(&Marker {
                unread_count: Some(last - marker.seq),
                ..*marker
            }),
            public: crate::channel::encode::read(&Marker { unread_count: None, ..*marker }),
        }
    }

    fn for_user(&self, user: UserId) -> Frame {
        if user == self.user_id { self.private.clone() } else { self.public.clone() }
    }
}

impl View {
    /// What this socket is sent of an entry.
    pub fn frame(&self, entry: &Entry) -> Frame {
        self.wrap(self.visible(entry))
    }

    /// A frame as this socket's dialect writes it.
    pub fn wrap(&self, frame: Frame) -> Frame {
        match &self.envelope {
            Some(name) => crate::channel::encode::wrap(name, &frame),
            None => frame,
        }
    }

    fn visible(&self, entry: &Entry) -> Frame {
        match &entry.private {
            Some(private) if self.user_id == entry.owner => private.clone(),
            _ => entry.public.clone(),
        }
    }
}

impl Member {
    /// The channel has told as much as the socket has read: it is told the markers that waited for that.
    fn overtaken(&mut self, markers: &Markers, last: Seq) {
        let Some(joining) = &mut self.joining else { return };
        let users = joining.ahead.take().into_iter().flatten();
        for marker in users.filter_map(|user| markers.get(user)?.marker) {
            self.push(MarkerFrames::new(&marker, last).for_user(self.view.user_id));
        }
        self.joined();
    }

    /// Once nothing more is to be kept, nothing is.
    fn joined(&mut self) {
        self.joining.take_if(|joining| joining.held.is_none() && joining.ahead.is_none());
    }

    fn push(&mut self, frame: Frame) {
        let frame = self.view.wrap(frame);
        self.push_plain(frame);
    }

    fn push_plain(&mut self, frame: Frame) {
        match self.joining.as_mut().and_then(|joining| joining.held.as_mut()) {
            None => self.view.outbox.push(frame),
            Some(held) if held.len() < HELD => held.push_back(frame),
            Some(_) => self.view.outbox.close(Close::Overloaded),
        }
    }
}

#[cfg(test)]
mod tests;
