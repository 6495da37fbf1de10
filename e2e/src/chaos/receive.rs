//! Handling of the frames and HTTP replies that a page receives.

use super::{
    connection::{Called, Command, Connection, Target},
    frame::{self, Changed, Channel, Frame, Refused},
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
/// Number of own messages that a page remembers, to change one.
const OWN: usize = 8;
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
            (_, Frame::Ok(reference, changes)) => self.on_ok(connection, reference, changes),
            (_, Frame::Error(refused)) => self.on_error(connection, &refused),
            (Some(Channel::Chat(id)), Frame::Message(message)) => self.on_message(connection, id, &message),
            (Some(Channel::Chat(id)), Frame::Changed(changed)) => self.on_changed(connection, id, &changed),
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
            (Some(Channel::Inbox), Frame::InboxSeen(seen)) if seen.unseen_count < 0 => {
                self.report_fault(channel, Fault::new(Rule::Unread, format!("{seen:?}")));
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
        self.show(id, message);
        if delivery == Some(Delivery::New) {
            self.move_to(channel, last, message.message_id.get());
        }
        if message.sender_id.get() == self.user {
            self.on_own(connection, message, delivery);
        }
    }

    /// Shows a message of a frame.
    fn show(&self, id: i64, message: &Message) {
        self.with_views(id, |views| {
            views.socket.show(message);
            if self.behaviour.changes {
                views.page.show(message);
            }
        });
    }

    fn on_own(&mut self, connection: &mut Connection, message: &Message, delivery: Option<Delivery>) {
        let name = self.world.deliveries().name(message);
        // Without a name, it was deleted before a page of the old guide received it: then it is its oldest one.
        let oldest = || connection.oldest_send().filter(|_| !self.behaviour.resumes);
        let Some(name) = name.or_else(|| oldest().map(|content| short(&content).to_owned())) else { return };
        connection.complete_send(&name);
        self.acked(&name, "an echo", Some(message.message_id.get()));
        let own = self.channels.get_mut(&Channel::Chat(message.conversation_id.get()));
        if delivery == Some(Delivery::New)
            && let Some(state) = own
            && message.kind.is_none()
        {
            if state.own.len() == OWN {
                state.own.pop_front();
            }
            state.own.push_back((message.message_id.get(), name));
        }
    }

    fn on_changed(&mut self, connection: &mut Connection, id: i64, changed: &Changed) {
        let channel = Channel::Chat(id);
        let message = &changed.message;
        if [changed.conversation_id, message.conversation_id.get()] != [id; 2] {
            let fault = Fault::new(Rule::Refused, "a change of another conversation");
            return self.report_fault(Some(channel), fault);
        }
        let Some(watch) = connection.chats.get_mut(&id) else { return };
        let checked = watch.changed(changed);
        self.check(channel, checked);
        let noted = self.world.deliveries().message(message);
        self.check(channel, noted);
        self.show(id, message);
        if let Some(state) = self.channels.get_mut(&channel) {
            state.changes = state.changes.max(Some(changed.change));
        }
        // A single-channel socket has no other answer.
        let is_ours = self.change.as_ref().is_some_and(|change| {
            let Target { message: ours, text, .. } = &change.target;
            *ours == message.message_id.get() && text.as_deref().unwrap_or_default() == message.content
        });
        if is_ours && connection.own.is_some() {
            self.change_acked("a frame");
        }
    }

    /// Records the acknowledgement of our change.
    fn change_acked(&mut self, by: &'static str) {
        let Some(change) = self.change.take() else { return };
        Counters::increment(&self.world.counters.changed);
        let Target { conversation, message, text } = change.target;
        let mut ledger = self.world.ledger();
        ledger.changed(message, text.as_deref(), by);
        ledger.open_changes -= 1;
        drop(ledger);
        // Deleted messages stay for a while, so that some are deleted again.
        let deleted = text.is_none() && self.rng.u8(..3) > 0;
        if deleted && let Some(state) = self.channels.get_mut(&Channel::Chat(conversation)) {
            state.own.retain(|(id, _)| *id != message);
        }
    }

    /// Whether a change may be refused with `not_found`: it is an edit, and somebody wants the message to be deleted.
    fn may_be_refused(&self, target: &Target) -> bool {
        target.text.is_some() && self.world.ledger().is_deletion_requested(target.message)
    }

    /// Handles the refusal of a change: repeats the change later, or gives it up.
    fn change_refused(&mut self, target: &Target, code: &str) {
        let Some(change) = self.change.as_mut().filter(|change| change.target == *target) else { return };
        if ["unavailable", "rate_limited"].contains(&code) {
            change.due = Some(Instant::now() + Duration::from_millis(self.rng.u64(100..1_000)));
            return;
        }
        self.change = None;
        self.world.ledger().open_changes -= 1;
        if let Some(state) = self.channels.get_mut(&Channel::Chat(target.conversation)) {
            state.own.retain(|(id, _)| *id != target.message);
        }
    }

    /// Updates the page's position on a channel.
    pub(super) fn move_to(&mut self, channel: Channel, last: Option<Head>, id: i64) {
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
            .find(|draft| short(&draft.content) == short(content))
            .map(|draft| Channel::Chat(draft.conversation));
        let acked = self.world.ledger().acked(content, by, message_id);
        match acked {
            Ok(true) => Counters::increment(&self.world.counters.acked),
            Ok(false) => {}
            Err(fault) => self.report_fault(channel, fault),
        }
        if let Some(index) = self.drafts.iter().position(|draft| short(&draft.content) == short(content)) {
            let draft = self.drafts.swap_remove(index);
            if draft.client_id.is_some() && draft.tries < 4 {
                self.done.truncate(DONE);
                self.done.push_back(draft);
            }
        }
    }

    /// Handles the `ok` of a command on the multiplexed socket.
    fn on_ok(&mut self, connection: &mut Connection, reference: i64, changes: Option<i64>) {
        match connection.complete(reference) {
            Some(Command::Send(content)) => self.acked(&content, "an ok", None),
            Some(Command::Read(conversation, message)) => {
                self.world.ledger().read(conversation, self.user, message);
            }
            Some(Command::InboxRead(Some(id))) => {
                self.world.ledger().inbox_reads.entry(self.user).or_default().push(id);
            }
            Some(Command::Subscribe(channel)) => {
                connection.set_joined(reference, channel);
                // Only the first answer counts: the changes up to a later one have not arrived yet.
                if let Some(state) = self.channels.get_mut(&channel)
                    && state.last == Some(Head::default())
                {
                    state.changes = state.changes.or(changes);
                }
            }
            Some(Command::Change(target)) => {
                if self.change.as_ref().is_some_and(|change| change.target == target) {
                    self.change_acked("an ok");
                }
            }
            Some(Command::InboxSeen(id)) => self.world.ledger().seen(self.user, id),
            Some(Command::InboxRead(None) | Command::Typing | Command::Load(..)) | None => {}
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
            // Nor does a page learn which change was refused. It may have repeated the change, and finished it, since.
            (None, None) if refused.code == "not_found" && !connection.changes.is_empty() => {
                let deleted = connection.changes.iter().find(|target| self.may_be_refused(target));
                deleted.or(connection.changes.last()).cloned().map(Command::Change)
            }
            (None, None) => self.change.as_ref().map(|change| Command::Change(change.target.clone())),
        };
        let channel = match &command {
            Some(Command::Send(content)) => {
                connection.complete_send(content);
                self.retry(content);
                None
            }
            Some(Command::Change(target)) => {
                self.change_refused(target, &refused.code);
                if refused.code == "not_found" && self.may_be_refused(target) {
                    return;
                }
                Some(Channel::Chat(target.conversation))
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
            if let Command::Change(target) = &called.command {
                self.change_refused(target, "unavailable");
            }
            return;
        };
        if called.took > CALL_LIMIT {
            let what = format!("a call took {:.1} s: {:?}", called.took.as_secs_f32(), called.command);
            self.report_fault(None, Fault::new(Rule::Answer, what));
        }
        match (&called.command, answer.status, called.message()) {
            (Command::Send(content), _, Some(message)) => {
                let name = self.world.deliveries().name(&message);
                if name.is_some_and(|name| name != short(content)) {
                    let what = format!("the reply to {} holds another message", short(content));
                    self.report_fault(None, Fault::new(Rule::Same, what));
                }
                let noted = self.world.deliveries().message(&message);
                self.check(Channel::Chat(message.conversation_id.get()), noted);
                self.acked(content, "201 or 200", Some(message.message_id.get()));
            }
            (Command::Load(conversation, renewed), 200, _) => {
                // A page that was opened again since knows nothing of this call.
                if let Some((items, _)) = called.page().filter(|_| *renewed == self.renewed) {
                    self.show_items(*conversation, &items);
                }
            }
            (Command::Change(target), 200 | 204, message) => {
                if let Some(message) = message {
                    let noted = self.world.deliveries().message(&message);
                    self.check(Channel::Chat(target.conversation), noted);
                    if message.message_id.get() != target.message {
                        let what = format!("the reply to {target:?} holds another message");
                        self.report_fault(None, Fault::new(Rule::Same, what));
                    }
                }
                if self.change.as_ref().is_some_and(|change| change.target == *target) {
                    self.change_acked("200 or 204");
                }
            }
            (Command::Change(target), status, _) => {
                let code = answer.body["code"].as_str().unwrap_or_default();
                self.change_refused(target, code);
                let is_permitted =
                    [429, 503].contains(&status) || code == "not_found" && self.may_be_refused(target);
                if !is_permitted {
                    let what = format!("{target:?} was refused: {}", answer.body);
                    let channel = Channel::Chat(target.conversation);
                    self.report_fault(Some(channel), Fault::new(Rule::Refused, what));
                }
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
