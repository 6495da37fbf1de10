//! The sockets of a log channel.

use super::markers::{MarkerFrames, Markers};
use crate::{channel::view::View, websocket::Frame};
use contract::{Close, Seq, UserId};
use std::collections::{HashSet, VecDeque};

/// Up to this number of members, memory is reserved for one member at a time.
const FEW: usize = 4;
/// Number of frames held for a member during its replay.
const HELD: usize = 1024;

/// A socket on a channel. The id is used again after the socket has left.
pub type MemberId = u32;

pub struct Member {
    pub view: View,
    /// The last `seq` that the member has received, or receives in its replay.
    pub delivered: Seq,
    pub joining: Option<Box<Joining>>,
}

/// The state of a member that is not at the channel's position yet.
#[derive(Default)]
pub struct Joining {
    /// Frames that arrived during the member's replay.
    pub held: Option<VecDeque<Frame>>,
    /// Users whose read markers are held back for a socket that resumed past this channel's position; sent once the
    /// channel catches up. Sent earlier, their unread counts would not include entries that the socket has.
    pub ahead: Option<HashSet<UserId>>,
    /// Number of the last change that the socket has, if the channel has not delivered it yet.
    pub changes: Option<i64>,
}

impl Member {
    /// Sends the held-back markers once the channel has delivered as much as the socket has read.
    pub fn overtaken(&mut self, markers: &Markers, last: Seq) {
        let Some(joining) = &mut self.joining else { return };
        let users = joining.ahead.take().into_iter().flatten();
        for marker in users.filter_map(|user| markers.get(user)?.marker) {
            self.push(MarkerFrames::new(&marker, last).for_user(self.view.user_id));
        }
        self.end_joining();
    }

    /// Notes that the channel has delivered the change with this number.
    pub fn changes_overtaken(&mut self, number: i64) {
        if let Some(joining) = &mut self.joining {
            joining.changes.take_if(|has| *has <= number);
            self.end_joining();
        }
    }

    /// Sends the frames that arrived during the replay.
    pub fn release(&mut self) {
        let held = self.joining.as_mut().and_then(|joining| joining.held.take());
        for frame in held.into_iter().flatten() {
            self.view.outbox.push(frame);
        }
        self.end_joining();
    }

    fn end_joining(&mut self) {
        self.joining.take_if(|joining| {
            joining.held.is_none() && joining.ahead.is_none() && joining.changes.is_none()
        });
    }

    /// Sends a frame in the socket's dialect.
    pub fn push(&mut self, frame: Frame) {
        let frame = self.view.wrap(frame);
        self.push_plain(frame);
    }

    /// Sends a frame that already has its envelope.
    pub fn push_plain(&mut self, frame: Frame) {
        match self.joining.as_mut().and_then(|joining| joining.held.as_mut()) {
            None => self.view.outbox.push(frame),
            Some(held) if held.len() < HELD => held.push_back(frame),
            Some(_) => self.view.outbox.close(Close::Overloaded),
        }
    }
}

/// The members of a channel. A member's id is its index.
#[derive(Default)]
pub struct Members {
    slots: Vec<Option<Member>>,
    free: Vec<MemberId>,
}

impl Members {
    pub fn add(&mut self, member: Member) -> MemberId {
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(member);
            return id;
        }
        if self.slots.len() < FEW {
            self.slots.reserve_exact(1);
        }
        self.slots.push(Some(member));
        MemberId::try_from(self.slots.len() - 1).expect("a gateway has fewer sockets than ids")
    }

    pub fn remove(&mut self, id: MemberId) {
        self.slots[id as usize] = None;
        self.free.push(id);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    pub fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.slots.iter_mut().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }
}
