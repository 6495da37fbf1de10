//! Checks the frames of one socket on one channel. Pure: no I/O and no clock.

use super::{
    frame::Changed,
    rules::{Fault, Rule},
};
use contract::{
    chat::{Marker, Message},
    log::Head,
    notify::{InboxRead, Notification},
};
use std::collections::{HashMap, HashSet};

/// Kind of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The first delivery.
    New,
    /// A repeat, because the sender sent the message again.
    Again,
}

/// Order of one log on one socket.
#[derive(Debug)]
struct Order {
    /// Last entry that the client knows; `None` if it joined at an unknown end.
    last: Option<Head>,
}

impl Order {
    /// Checks that this entry directly follows the last one.
    fn next(&mut self, at: Head) -> Result<(), Fault> {
        let last = self.last.replace(at);
        let Some(last) = last else { return Ok(()) };
        if at.seq <= last.seq {
            // A repeat doesn't move the position.
            self.last = Some(last);
            return Err(Fault::new(Rule::Twice, format!("seq {} again, after seq {}", at.seq, last.seq)));
        }
        if at.seq > last.seq + 1 {
            return Err(Fault::new(Rule::Gap, format!("seq {} after seq {}", at.seq, last.seq)));
        }
        if at.id <= last.id {
            let what = format!("seq {} has id {}, and seq {} had {}", at.seq, at.id, last.seq, last.id);
            return Err(Fault::new(Rule::Order, what));
        }
        Ok(())
    }
}

/// Checks of one socket on one conversation.
#[derive(Debug)]
pub struct ChatWatch {
    user: i64,
    order: Order,
    markers: HashMap<i64, i64>,
    /// On a socket without any message so far: minimum of the last `seq`, derived from markers.
    reached: i64,
    /// The exact last `seq`, if a marker determines it.
    exactly: Option<i64>,
    sent: HashSet<String>,
    /// Number of the last change that the client knows.
    changes: i64,
}

impl ChatWatch {
    /// Creates the checks of a user's socket that starts after an entry, or at an unknown end (`None`), and after a
    /// change, or at an unknown one (0).
    pub fn new(user: i64, after: Option<Head>, changes: i64) -> Self {
        let order = Order { last: after };
        let (markers, sent) = (HashMap::new(), HashSet::new());
        Self { user, order, markers, reached: 0, exactly: None, sent, changes }
    }

    /// Continues the checks of an earlier subscription of the same socket.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        Self { sent: before.sent, ..self }
    }

    /// Last delivered message.
    pub const fn last(&self) -> Option<Head> {
        self.order.last
    }

    /// Records a send with this `client_id`: the socket may receive the message again from now on.
    pub fn sends(&mut self, client_id: &str) {
        self.sent.insert(client_id.to_owned());
    }

    /// Checks a delivered message.
    ///
    /// # Errors
    /// If the message violates a rule.
    pub fn message(&mut self, message: &Message) -> Result<Delivery, Fault> {
        let at = Head { seq: message.seq, id: message.message_id.get() };
        let own = message.sender_id.get() == self.user;
        if !own && message.client_id.is_some() {
            return Err(Fault::new(Rule::Refused, "another user's client_id was delivered"));
        }
        check_deleted(message)?;
        let sent = message.client_id.as_ref().is_some_and(|client_id| self.sent.contains(client_id));
        if own && sent && self.order.last.is_none_or(|last| at.seq <= last.seq) {
            return Ok(Delivery::Again);
        }
        if self.order.last.is_none() {
            let before = at.seq - 1;
            if self.reached > before || self.exactly.is_some_and(|exactly| exactly != before) {
                let claimed = self.exactly.unwrap_or(self.reached);
                let what = format!(
                    "a marker or a change implied seq {claimed} before the first delivered message, seq {}",
                    at.seq
                );
                return Err(Fault::new(Rule::Marker, what));
            }
        }
        self.order.next(at)?;
        let marker = self.markers.entry(message.sender_id.get()).or_default();
        *marker = (*marker).max(at.seq);
        Ok(Delivery::New)
    }

    /// Checks a delivered change.
    ///
    /// # Errors
    /// If the change violates a rule.
    pub fn changed(&mut self, changed: &Changed) -> Result<(), Fault> {
        let Changed { change, message, .. } = changed;
        if message.sender_id.get() != self.user && message.client_id.is_some() {
            return Err(Fault::new(Rule::Refused, "another user's client_id was delivered"));
        }
        check_deleted(message)?;
        let before = self.changes;
        self.changes = before.max(*change);
        if *change <= before {
            return Err(Fault::new(Rule::Change, format!("change {change} after change {before}")));
        }
        if message.change != Some(*change) {
            let what = format!("change {change} shows a message after change {:?}", message.change);
            return Err(Fault::new(Rule::Change, what));
        }
        match self.order.last {
            Some(last) if message.seq > last.seq => {
                let what = format!(
                    "change {change} is of seq {}, but the socket has received only up to {}",
                    message.seq, last.seq
                );
                return Err(Fault::new(Rule::Change, what));
            }
            Some(_) => {}
            None => self.reached = self.reached.max(message.seq),
        }
        Ok(())
    }

    /// Checks a delivered marker.
    ///
    /// # Errors
    /// If the marker violates a rule.
    pub fn marker(&mut self, marker: &Marker) -> Result<(), Fault> {
        let user = marker.user_id.get();
        let known = self.markers.entry(user).or_default();
        let before = *known;
        *known = before.max(marker.seq);
        if marker.seq <= before {
            let what = format!("user {user}'s marker at seq {}, after seq {before}", marker.seq);
            return Err(Fault::new(Rule::Marker, what));
        }
        if let Some(last) = self.order.last.filter(|last| marker.seq > last.seq) {
            let what = format!(
                "user {user}'s marker is at seq {}, but the socket has received only up to {}",
                marker.seq, last.seq
            );
            return Err(Fault::new(Rule::Marker, what));
        }
        match (marker.unread_count, user == self.user) {
            (None, false) => {}
            (Some(_), false) => {
                return Err(Fault::new(Rule::Refused, "another user's unread_count was delivered"));
            }
            (None, true) => {
                return Err(Fault::new(Rule::Unread, "the user's own marker has no unread_count"));
            }
            (Some(unread), true) => self.unread(marker.seq, unread)?,
        }
        self.reached = self.reached.max(marker.seq);
        Ok(())
    }

    fn unread(&mut self, marker: i64, unread: i64) -> Result<(), Fault> {
        match self.order.last {
            None => self.exactly = Some(marker + unread),
            Some(last) if last.seq - marker != unread => {
                let what = format!(
                    "unread_count {unread} with the marker at seq {marker} and the last message at seq {}",
                    last.seq
                );
                return Err(Fault::new(Rule::Unread, what));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Checks that a message has no text if, and only if, it is deleted.
fn check_deleted(message: &Message) -> Result<(), Fault> {
    let is_deleted = message.deleted_at.is_some();
    if is_deleted != message.content.is_empty() || is_deleted != message.deleted_by.is_some() {
        let what =
            format!("message {} is deleted: {is_deleted}, but its other fields differ", message.message_id);
        return Err(Fault::new(Rule::Deleted, what).with([format!("{message:?}")]));
    }
    Ok(())
}

/// Checks of one socket on its user's inbox.
#[derive(Debug)]
pub struct InboxWatch {
    order: Order,
}

impl InboxWatch {
    /// Creates the checks of a socket that starts after an entry, or at an unknown end (`None`).
    pub const fn new(after: Option<Head>) -> Self {
        Self { order: Order { last: after } }
    }

    /// Last delivered notification.
    pub const fn last(&self) -> Option<Head> {
        self.order.last
    }

    /// Checks a delivered notification.
    ///
    /// # Errors
    /// If the notification violates a rule.
    pub fn notification(&mut self, shown: &Notification) -> Result<(), Fault> {
        self.order.next(Head { seq: shown.seq, id: shown.notification_id.get() })?;
        // A replayed notification has the unread count at the time of the replay.
        check_counts(shown.unread_count, shown.unseen_count)
    }

    /// Checks a delivered read.
    ///
    /// # Errors
    /// If the read violates a rule.
    pub fn read(&self, read: &InboxRead) -> Result<(), Fault> {
        check_counts(read.unread_count, read.unseen_count)
    }

    /// Checks a delivered marker, which must be the user's own.
    ///
    /// # Errors
    /// If the marker violates a rule.
    pub fn marker(user: i64, marker: &Marker) -> Result<(), Fault> {
        if marker.user_id.get() != user || marker.unread_count.is_some_and(|unread| unread < 0) {
            return Err(Fault::new(Rule::Refused, format!("user {user}'s inbox received {marker:?}")));
        }
        Ok(())
    }
}

/// Checks that as many notifications are unread as are unseen, or more.
fn check_counts(unread: i64, unseen: Option<i64>) -> Result<(), Fault> {
    if unread < 0 || unseen.is_some_and(|unseen| !(0..=unread).contains(&unseen)) {
        return Err(Fault::new(Rule::Unread, format!("{unread} are unread, {unseen:?} unseen")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
