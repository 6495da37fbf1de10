//! The frames of a channel as one socket receives them.

use crate::{
    channel::{encode, entry::Entry},
    websocket::{Frame, outbox::Outbox},
};
use contract::UserId;
use std::sync::Arc;

/// A socket's view of a channel.
#[derive(Clone)]
pub struct View {
    /// The socket's user.
    pub user_id: UserId,
    /// The queue of the socket's frames.
    pub outbox: Arc<Outbox>,
    /// The channel's name, on a multiplexed socket.
    pub envelope: Option<Arc<str>>,
}

impl View {
    /// The frame of an entry.
    pub fn frame(&self, entry: &Entry) -> Frame {
        self.wrap(self.visible(entry))
    }

    /// A frame in this socket's dialect.
    pub fn wrap(&self, frame: Frame) -> Frame {
        match &self.envelope {
            Some(name) => encode::wrap(name, &frame),
            None => frame,
        }
    }

    /// The version of an entry that this user may see, without an envelope.
    pub fn visible(&self, entry: &Entry) -> Frame {
        match &entry.private {
            Some(private) if self.user_id == entry.owner => private.clone(),
            _ => entry.public.clone(),
        }
    }
}
