//! Handling of the frames and HTTP replies that a page receives.

use super::{
    connection::{Called, Command, Connection},
    frame::{self, Channel, Frame, Refused},
    ledger::short,
    page::{Draft, Page},
    rules::{Fault, Rule},
    watch::{Delivery, InboxWatch},
    world::{Counters, Position},
};
use contract::{
    chat::{Marker, Message},
    log::Head,
    notify::Notification,
};
use std::time::{Duration, Instant};

/// Number of ids that a page remembers.
const RECENT: usize = 20;
/// Number of acknowledged messages that a page may send again.
const DONE: usize = 4;
/// Maximum duration of an HTTP call. The promise is 5 s; the rest is for a busy machine, because this check looks for
/// calls that hang.
const CALL_LIMIT: Duration = Duration::from_secs(15);

impl Page {
    /// Handles a received frame.
    pub(super) fn on_frame(&mut self, connection: &mut Connection, text: &str) {
        Counters::increment(&self.world.counters.frames);
        let (channel, frame) = match frame::read(text, connection.own) {
            Ok(read) => read,
            Err(error) => {
                let what = format!("a frame that can't be read ({error}): {text:.200}");
                return self.report_fault(connection.own, Fault::new(Rule::Refused, what));
            }
        };
        if let Some(channel) = channel {
            self.trail(channel, || text.to_owned());
        }
        match (channel, frame) {
            (_, Frame::Ok(reference)) => self.on_ok(connection, reference),
            (_, Frame::Error(refused)) => self.on_error(connection, &refused),
            (Some(Channel::Chat(id)), Frame::Message(message)) => self.on_message(connection, id, &message),
            (Some(Channel::Chat(id)), Frame::Marker(marker)) => self.on_marker(connection, id, &marker),
            (Some(Channel::Inbox), Frame::Notification(shown)) => self.on_notification(connection, &shown),
            (Some(Channel::Inbox), Frame::Marker(marker)) => {
                let checked = InboxWatch::marker(self.user, &marker);
                self.check(Channel::Inbox, checked);
            }
            (Some(Channel::Inbox), Frame::InboxRead(read)) => {
                let checked = connection.inbox.as_ref().map_or(Ok(()), |watch| watch.read(&read));
                self.check(Channel::Inbox, checked);
            }
            (Some(Channel::Typing(id)), Frame::Typing(user)) if user == self.user => {
                let what = "a typing user received their own typing event";
                self.report_fault(Some(Channel::Typing(id)), Fault::new(Rule::Refused, what));
            }
            _ => {}
        }
    }

    fn check<T>(&self, channel: Channel, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.report_fault(Some(channel), fault)).ok()
    }

    fn on_message(&mut self, connection: &mut Connection, id: i64, message: &Message) {
        let channel = Channel::Chat(id);
        if message.conversation_id.get() != id {
            return self
                .report_fault(Some(channel), Fault::new(Rule::Refused, "a message of another conversation"));
        }
        let Some(watch) = connection.chats.get_mut(&id) else { return };
        let delivery = watch.message(message);
        let last = watch.last();
        let delivery = self.check(channel, delivery);
        let noted = self.world.deliveries().message(message);
        self.check(channel, noted);
        if delivery == Some(Delivery::New) {
            self.move_to(channel, last, message.message_id.get());
        }
        if message.sender_id.get() == self.user {
            connection.complete_send(&message.content);
            self.acked(&message.content, "an echo", Some(message.message_id.get()));
        }
    }

    /// Updates the page's position on a channel.
    fn move_to(&mut self, channel: Channel, last: Option<Head>, id: i64) {
        if let Some(state) = self.channels.get_mut(&channel) {
            if self.behaviour.resumes || last.is_some() {
                state.last = last.filter(|_| self.behaviour.resumes);
                self.world.set_position(self.number, channel, Some(Position { last, user: self.user }));
            }
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back(id);
        }
    }

    fn on_marker(&mut self, connection: &mut Connection, id: i64, marker: &Marker) {
        let channel = Channel::Chat(id);
        let Some(watch) = connection.chats.get_mut(&id) else { return };
        let checked = watch.marker(marker);
        self.check(channel, checked);
        self.world.deliveries().marker(marker);
    }

    fn on_notification(&mut self, connection: &mut Connection, shown: &Notification) {
        Counters::increment(&self.world.counters.notifications);
        let Some(watch) = &mut connection.inbox else { return };
        let delivery = watch.notification(shown);
        let last = watch.last();
        let new = self.check(Channel::Inbox, delivery).is_some();
        let noted = self.world.deliveries().notification(self.user, shown);
        self.check(Channel::Inbox, noted);
        if new {
            self.move_to(Channel::Inbox, last, shown.notification_id.get());
        }
    }

    /// Records the acknowledgement of one of our messages.
    fn acked(&mut self, content: &str, by: &'static str, message_id: Option<i64>) {
        let channel = self
            .drafts
            .iter()
            .find(|draft| draft.content == content)
            .map(|draft| Channel::Chat(draft.conversation));
        let acked = self.world.ledger().acked(content, by, message_id);
        match acked {
            Ok(true) => Counters::increment(&self.world.counters.acked),
            Ok(false) => {}
            Err(fault) => self.report_fault(channel, fault),
        }
        if let Some(index) = self.drafts.iter().position(|draft| draft.content == content) {
            let draft = self.drafts.swap_remove(index);
            if draft.client_id.is_some() && draft.tries < 4 {
                self.done.truncate(DONE);
                self.done.push_back(draft);
            }
        }
    }

    /// Handles the `ok` of a command on the multiplexed socket.
    fn on_ok(&mut self, connection: &mut Connection, reference: i64) {
        match connection.complete(reference) {
            Some(Command::Send(content)) => self.acked(&content, "an ok", None),
            Some(Command::Read(conversation, message)) => {
                self.world.ledger().read(conversation, self.user, message);
            }
            Some(Command::InboxRead(Some(id))) => {
                self.world.ledger().inbox_reads.entry(self.user).or_default().push(id);
            }
            Some(Command::Subscribe(channel)) => connection.set_joined(reference, channel),
            Some(Command::InboxRead(None) | Command::Typing) | None => {}
        }
    }

    fn on_error(&mut self, connection: &mut Connection, refused: &Refused) {
        let command = match (refused.reference, &refused.client_id) {
            (Some(reference), _) => {
                connection.complete(reference).or_else(|| connection.remove_joined(reference))
            }
            (None, Some(client_id)) => {
                self.draft_of(client_id).map(|draft| Command::Send(draft.content.clone()))
            }
            // A client of the old guide doesn't learn which message was refused.
            (None, None) if !self.behaviour.resumes => connection.oldest_send().map(Command::Send),
            (None, None) => None,
        };
        let channel = match &command {
            Some(Command::Send(content)) => {
                connection.complete_send(content);
                self.retry(content);
                None
            }
            Some(Command::Subscribe(channel)) => {
                self.lost.push((Instant::now() + Duration::from_millis(700), *channel));
                Some(*channel)
            }
            _ => None,
        };
        match refused.code.as_str() {
            "unavailable" => Counters::increment(&self.world.counters.unavailable),
            "rate_limited" => {}
            code => {
                let what = format!("{command:?} was refused with {code}: {}", refused.detail);
                self.report_fault(channel.or(connection.own), Fault::new(Rule::Refused, what));
            }
        }
    }

    fn draft_of(&self, client_id: &str) -> Option<&Draft> {
        self.drafts.iter().find(|draft| draft.client_id.as_deref() == Some(client_id))
    }

    /// Schedules a message to be sent again. One without `client_id` (of the old guide) is given up.
    fn retry(&mut self, content: &str) {
        let Some(index) = self.drafts.iter().position(|draft| draft.content == content) else { return };
        if self.drafts[index].client_id.is_none() {
            self.drafts.swap_remove(index);
        } else {
            let pause = Duration::from_millis(self.rng.u64(100..1_000));
            self.drafts[index].due = Some(Instant::now() + pause);
        }
    }

    /// Handles the end of an HTTP call.
    pub(super) fn on_http_reply(&mut self, called: &Called) {
        let Some(answer) = &called.answer else {
            if let Command::Send(content) = &called.command {
                self.retry(content);
            }
            return;
        };
        if called.took > CALL_LIMIT {
            let what = format!("a call took {:.1} s: {:?}", called.took.as_secs_f32(), called.command);
            self.report_fault(None, Fault::new(Rule::Answer, what));
        }
        match (&called.command, answer.status, called.message()) {
            (Command::Send(content), _, Some(message)) => {
                if message.content != *content {
                    let what = format!("the reply to {} holds another message", short(content));
                    self.report_fault(None, Fault::new(Rule::Same, what));
                }
                let noted = self.world.deliveries().message(&message);
                self.check(Channel::Chat(message.conversation_id.get()), noted);
                self.acked(content, "201 or 200", Some(message.message_id.get()));
            }
            (Command::Read(conversation, message), 204, _) => {
                self.world.ledger().read(*conversation, self.user, *message);
            }
            (command, 429 | 503, _) => {
                Counters::increment(&self.world.counters.unavailable);
                if let Command::Send(content) = command {
                    self.retry(content);
                }
            }
            (command, status, _) => {
                let what = format!("{command:?} was refused with {status}: {}", answer.body);
                self.report_fault(None, Fault::new(Rule::Refused, what));
                if let Command::Send(content) = command {
                    self.retry(content);
                }
            }
        }
    }
}
