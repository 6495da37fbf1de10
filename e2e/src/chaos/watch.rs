//! What one socket may be told of one channel, frame by frame. Pure: no I/O and no clock.

use super::rules::{Fault, Rule};
use contract::{
    chat::{Marker, Message},
    log::Head,
    notify::{InboxRead, Notification},
};
use std::collections::{HashMap, HashSet};

/// How an entry came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// For the first time.
    New,
    /// Again, as its sender had sent it again.
    Again,
}

/// One socket on one log.
#[derive(Debug)]
struct Order {
    /// The last entry that the client knows; `None`: it has joined at an end that it doesn't know.
    told: Option<Head>,
}

impl Order {
    /// Checks that this is the entry after the last.
    fn next(&mut self, at: Head) -> Result<(), Fault> {
        let last = self.told.replace(at);
        let Some(last) = last else { return Ok(()) };
        if at.seq <= last.seq {
            // What was told stays told.
            self.told = Some(last);
            return Err(Fault::new(Rule::Twice, format!("seq {} again, after seq {}", at.seq, last.seq)));
        }
        if at.seq > last.seq + 1 {
            return Err(Fault::new(Rule::Hole, format!("seq {} after seq {}", at.seq, last.seq)));
        }
        if at.id <= last.id {
            let what = format!("seq {} has id {}, and seq {} had {}", at.seq, at.id, last.seq, last.id);
            return Err(Fault::new(Rule::Order, what));
        }
        Ok(())
    }
}

/// One socket on one conversation.
#[derive(Debug)]
pub struct ChatWatch {
    user: i64,
    order: Order,
    markers: HashMap<i64, i64>,
    /// Of a socket that has been told no message yet: how far it must have been, by what markers say.
    reached: i64,
    /// The same, where a marker says it exactly.
    exactly: Option<i64>,
    sent: HashSet<String>,
}

impl ChatWatch {
    /// A user's socket that starts after an entry, or (with `None`) at an end that it doesn't know.
    pub fn new(user: i64, after: Option<Head>) -> Self {
        let order = Order { told: after };
        Self { user, order, markers: HashMap::new(), reached: 0, exactly: None, sent: HashSet::new() }
    }

    /// Goes on after another on the same socket.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        Self { sent: before.sent, ..self }
    }

    /// The last message told.
    pub const fn told(&self) -> Option<Head> {
        self.order.told
    }

    /// The client sends with this `client_id`: the message may be told to this socket again from now on.
    pub fn sends(&mut self, client_id: &str) {
        self.sent.insert(client_id.to_owned());
    }

    /// A message was told.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn message(&mut self, message: &Message) -> Result<Came, Fault> {
        let at = Head { seq: message.seq, id: message.message_id.get() };
        let own = message.sender_id.get() == self.user;
        if !own && message.client_id.is_some() {
            return Err(Fault::new(Rule::Refused, "another user's client_id was told"));
        }
        let sent = message.client_id.as_ref().is_some_and(|client_id| self.sent.contains(client_id));
        if own && sent && self.order.told.is_none_or(|told| at.seq <= told.seq) {
            return Ok(Came::Again);
        }
        if self.order.told.is_none() {
            let before = at.seq - 1;
            if self.reached > before || self.exactly.is_some_and(|exactly| exactly != before) {
                let claimed = self.exactly.unwrap_or(self.reached);
                let what =
                    format!("a marker counted on seq {claimed} before the socket's first, seq {}", at.seq);
                return Err(Fault::new(Rule::Marker, what));
            }
        }
        self.order.next(at)?;
        let marker = self.markers.entry(message.sender_id.get()).or_default();
        *marker = (*marker).max(at.seq);
        Ok(Came::New)
    }

    /// A marker was told.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn marker(&mut self, marker: &Marker) -> Result<(), Fault> {
        let user = marker.user_id.get();
        let known = self.markers.entry(user).or_default();
        let before = *known;
        *known = before.max(marker.seq);
        if marker.seq <= before {
            let what = format!("user {user}'s marker at seq {}, after seq {before}", marker.seq);
            return Err(Fault::new(Rule::Marker, what));
        }
        if let Some(told) = self.order.told.filter(|told| marker.seq > told.seq) {
            let what = format!(
                "user {user}'s marker at seq {}, and the socket was told up to {}",
                marker.seq, told.seq
            );
            return Err(Fault::new(Rule::Marker, what));
        }
        match (marker.unread_count, user == self.user) {
            (None, false) => {}
            (Some(_), false) => {
                return Err(Fault::new(Rule::Refused, "another user's unread_count was told"));
            }
            (None, true) => return Err(Fault::new(Rule::Unread, "the own marker without unread_count")),
            (Some(unread), true) => self.unread(marker.seq, unread)?,
        }
        self.reached = self.reached.max(marker.seq);
        Ok(())
    }

    fn unread(&mut self, marker: i64, unread: i64) -> Result<(), Fault> {
        match self.order.told {
            None => self.exactly = Some(marker + unread),
            Some(told) if told.seq - marker != unread => {
                let what = format!(
                    "unread_count {unread} with the marker at seq {marker}, and told up to {}",
                    told.seq
                );
                return Err(Fault::new(Rule::Unread, what));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// One socket on its user's inbox.
#[derive(Debug)]
pub struct InboxWatch {
    order: Order,
}

impl InboxWatch {
    /// A socket that starts after an entry, or (with `None`) at an end that it doesn't know.
    pub const fn new(after: Option<Head>) -> Self {
        Self { order: Order { told: after } }
    }

    /// The last notification told.
    pub const fn told(&self) -> Option<Head> {
        self.order.told
    }

    /// A notification was told.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn notification(&mut self, shown: &Notification) -> Result<(), Fault> {
        self.order.next(Head { seq: shown.seq, id: shown.notification_id.get() })?;
        // A replay counts what was unread when it was read, which may be later than this notification.
        if shown.unread_count < 0 {
            return Err(Fault::new(Rule::Unread, format!("unread_count {}", shown.unread_count)));
        }
        Ok(())
    }

    /// Notifications were read.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn read(&self, read: &InboxRead) -> Result<(), Fault> {
        if read.unread_count < 0 {
            return Err(Fault::new(Rule::Unread, format!("unread_count {}", read.unread_count)));
        }
        Ok(())
    }

    /// A marker was told: it must be the user's own.
    ///
    /// # Errors
    /// What is wrong about it.
    pub fn marker(user: i64, marker: &Marker) -> Result<(), Fault> {
        if marker.user_id.get() != user || marker.unread_count.is_some_and(|unread| unread < 0) {
            return Err(Fault::new(Rule::Refused, format!("user {user}'s inbox was told {marker:?}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
