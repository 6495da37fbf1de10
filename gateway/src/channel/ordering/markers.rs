//! How far each user of a log has read.

use crate::{channel::encode, websocket::Frame};
use contract::{Seq, UserId, chat::Marker};

/// How far a user has read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reached {
    pub seq: Seq,
    /// The marker, unless the user's own message moved it.
    pub marker: Option<Marker>,
}

impl Reached {
    pub fn by(marker: Marker) -> Self {
        Self { seq: marker.seq, marker: (!marker.by_sending).then_some(marker) }
    }
}

/// How far each user has read, sorted by user id: a vector, because a conversation has few users and a gateway has many
/// quiet channels.
#[derive(Default)]
pub struct Markers(Vec<(UserId, Reached)>);

impl Markers {
    pub fn get(&self, user: UserId) -> Option<&Reached> {
        self.0.binary_search_by_key(&user, |(user, _)| *user).ok().map(|index| &self.0[index].1)
    }

    pub fn entry(&mut self, user: UserId) -> &mut Reached {
        let index = self.0.binary_search_by_key(&user, |(user, _)| *user).unwrap_or_else(|index| {
            self.0.insert(index, (user, Reached::default()));
            index
        });
        &mut self.0[index].1
    }

    pub fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.0.iter().map(|(user, _)| *user)
    }

    pub fn sum(&self) -> Seq {
        self.0.iter().map(|(_, reached)| reached.seq).sum()
    }
}

/// The two frames of a marker: for its user's sockets, and for the others.
pub struct MarkerFrames {
    user_id: UserId,
    private: Frame,
    public: Frame,
}

impl MarkerFrames {
    /// `last` is the last delivered `seq`: every later entry than the marker's, up to `last`, is unread.
    pub fn new(marker: &Marker, last: Seq) -> Self {
        Self {
            user_id: marker.user_id,
            private: encode::read(&Marker { unread_count: Some(last - marker.seq), ..*marker }),
            public: encode::read(&Marker { unread_count: None, ..*marker }),
        }
    }

    pub fn for_user(&self, user: UserId) -> Frame {
        if user == self.user_id { self.private.clone() } else { self.public.clone() }
    }
}
