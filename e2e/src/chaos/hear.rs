//! What a page hears, and what it makes of it.

use super::{
    frame::{self, Channel, Frame, Refused},
    ledger::short,
    line::{Asked, Called, Line},
    page::{Draft, Page},
    rules::{Fault, Rule},
    watch::{Came, InboxWatch},
    world::{Counters, Standing},
};
use contract::{
    chat::{Marker, Message},
    log::Head,
    notify::Notification,
};
use std::time::{Duration, Instant};

/// Ids that a page remembers.
const RECENT: usize = 20;
/// Messages that may be sent again for no reason.
const DONE: usize = 4;
/// How long an answer over HTTP may take. 5 s are the promise; the rest is for a machine that is busy with something
/// else, as this is here to find what hangs.
const CALL: Duration = Duration::from_secs(15);

impl Page {
    /// A frame came in.
    pub(super) fn hear(&mut self, line: &mut Line, text: &str) {
        Counters::one(&self.world.counters.frames);
        let (channel, frame) = match frame::read(text, line.own) {
            Ok(read) => read,
            Err(error) => {
                let what = format!("a frame that can't be read ({error}): {text:.200}");
                return self.accuse(line.own, Fault::new(Rule::Refused, what));
            }
        };
        if let Some(channel) = channel {
            self.trail(channel, || text.to_owned());
        }
        match (channel, frame) {
            (_, Frame::Ok(reference)) => self.answered(line, reference),
            (_, Frame::Error(refused)) => self.refused(line, &refused),
            (Some(Channel::Chat(id)), Frame::Message(message)) => self.message(line, id, &message),
            (Some(Channel::Chat(id)), Frame::Marker(marker)) => self.marker(line, id, &marker),
            (Some(Channel::Inbox), Frame::Notification(shown)) => self.notification(line, &shown),
            (Some(Channel::Inbox), Frame::Marker(marker)) => {
                let checked = InboxWatch::marker(self.user, &marker);
                self.check(Channel::Inbox, checked);
            }
            (Some(Channel::Inbox), Frame::InboxRead(read)) => {
                let checked = line.inbox.as_ref().map_or(Ok(()), |watch| watch.read(&read));
                self.check(Channel::Inbox, checked);
            }
            (Some(Channel::Typing(id)), Frame::Typing(user)) if user == self.user => {
                let what = "a typist was told of their own typing";
                self.accuse(Some(Channel::Typing(id)), Fault::new(Rule::Refused, what));
            }
            _ => {}
        }
    }

    fn check<T>(&self, channel: Channel, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.accuse(Some(channel), fault)).ok()
    }

    fn message(&mut self, line: &mut Line, id: i64, message: &Message) {
        let channel = Channel::Chat(id);
        if message.conversation_id.get() != id {
            return self.accuse(Some(channel), Fault::new(Rule::Refused, "another conversation's message"));
        }
        let Some(watch) = line.chats.get_mut(&id) else { return };
        let came = watch.message(message);
        let told = watch.told();
        let came = self.check(channel, came);
        let noted = self.world.board().message(message);
        self.check(channel, noted);
        if came == Some(Came::New) {
            self.stand(channel, told, message.message_id.get());
        }
        if message.sender_id.get() == self.user {
            line.sent(&message.content);
            self.acked(&message.content, "an echo", Some(message.message_id.get()));
        }
    }

    /// Stands here now.
    fn stand(&mut self, channel: Channel, told: Option<Head>, id: i64) {
        if let Some(place) = self.places.get_mut(&channel) {
            if self.habits.resumes || told.is_some() {
                place.told = told.filter(|_| self.habits.resumes);
                self.world.stands(self.number, channel, Some(Standing { told, user: self.user }));
            }
            if place.recent.len() == RECENT {
                place.recent.pop_front();
            }
            place.recent.push_back(id);
        }
    }

    fn marker(&mut self, line: &mut Line, id: i64, marker: &Marker) {
        let channel = Channel::Chat(id);
        let Some(watch) = line.chats.get_mut(&id) else { return };
        let checked = watch.marker(marker);
        self.check(channel, checked);
        self.world.board().marker(marker);
    }

    fn notification(&mut self, line: &mut Line, shown: &Notification) {
        Counters::one(&self.world.counters.notifications);
        let Some(watch) = &mut line.inbox else { return };
        let came = watch.notification(shown);
        let told = watch.told();
        let new = self.check(Channel::Inbox, came).is_some();
        let noted = self.world.board().notification(self.user, shown);
        self.check(Channel::Inbox, noted);
        if new {
            self.stand(Channel::Inbox, told, shown.notification_id.get());
        }
    }

    /// A message of ours is stored.
    fn acked(&mut self, content: &str, by: &'static str, message_id: Option<i64>) {
        let channel = self
            .drafts
            .iter()
            .find(|draft| draft.content == content)
            .map(|draft| Channel::Chat(draft.conversation));
        let acked = self.world.ledger().acked(content, by, message_id);
        match acked {
            Ok(true) => Counters::one(&self.world.counters.acked),
            Ok(false) => {}
            Err(fault) => self.accuse(channel, fault),
        }
        if let Some(index) = self.drafts.iter().position(|draft| draft.content == content) {
            let draft = self.drafts.swap_remove(index);
            if draft.client_id.is_some() && draft.tries < 4 {
                self.done.truncate(DONE);
                self.done.push_back(draft);
            }
        }
    }

    /// What was asked on the multiplexed socket is done.
    fn answered(&mut self, line: &mut Line, reference: i64) {
        match line.answered(reference) {
            Some(Asked::Send(content)) => self.acked(&content, "an ok", None),
            Some(Asked::Read(conversation, message)) => {
                self.world.ledger().read(conversation, self.user, message);
            }
            Some(Asked::InboxRead(Some(id))) => {
                self.world.ledger().inbox_reads.entry(self.user).or_default().push(id);
            }
            Some(Asked::Subscribe(channel)) => line.on(reference, channel),
            Some(Asked::InboxRead(None) | Asked::Typing) | None => {}
        }
    }

    fn refused(&mut self, line: &mut Line, refused: &Refused) {
        let asked = match (refused.reference, &refused.client_id) {
            (Some(reference), _) => line.answered(reference).or_else(|| line.off(reference)),
            (None, Some(client_id)) => {
                self.draft_of(client_id).map(|draft| Asked::Send(draft.content.clone()))
            }
            // A page of the old guide is not told which.
            (None, None) if !self.habits.resumes => line.oldest_send().map(Asked::Send),
            (None, None) => None,
        };
        let channel = match &asked {
            Some(Asked::Send(content)) => {
                line.sent(content);
                self.again(content);
                None
            }
            Some(Asked::Subscribe(channel)) => {
                self.lost.push((Instant::now() + Duration::from_millis(700), *channel));
                Some(*channel)
            }
            _ => None,
        };
        match refused.code.as_str() {
            "unavailable" => Counters::one(&self.world.counters.unavailable),
            "rate_limited" => {}
            code => {
                let what = format!("{asked:?} was refused with {code}: {}", refused.detail);
                self.accuse(channel.or(line.own), Fault::new(Rule::Refused, what));
            }
        }
    }

    fn draft_of(&self, client_id: &str) -> Option<&Draft> {
        self.drafts.iter().find(|draft| draft.client_id.as_deref() == Some(client_id))
    }

    /// A message is sent again in a moment; one of the old guide's, which has no name, is given up.
    fn again(&mut self, content: &str) {
        let Some(index) = self.drafts.iter().position(|draft| draft.content == content) else { return };
        if self.drafts[index].client_id.is_none() {
            self.drafts.swap_remove(index);
        } else {
            let pause = Duration::from_millis(self.rng.u64(100..1_000));
            self.drafts[index].due = Some(Instant::now() + pause);
        }
    }

    /// A call over HTTP has ended.
    pub(super) fn called(&mut self, called: &Called) {
        let Some(answer) = &called.answer else {
            if let Asked::Send(content) = &called.asked {
                self.again(content);
            }
            return;
        };
        if called.took > CALL {
            let what = format!("a call took {:.1} s: {:?}", called.took.as_secs_f32(), called.asked);
            self.accuse(None, Fault::new(Rule::Answer, what));
        }
        match (&called.asked, answer.status, called.message()) {
            (Asked::Send(content), _, Some(message)) => {
                if message.content != *content {
                    let what = format!("{} was answered with another message", short(content));
                    self.accuse(None, Fault::new(Rule::Same, what));
                }
                let noted = self.world.board().message(&message);
                self.check(Channel::Chat(message.conversation_id.get()), noted);
                self.acked(content, "201 or 200", Some(message.message_id.get()));
            }
            (Asked::Read(conversation, message), 204, _) => {
                self.world.ledger().read(*conversation, self.user, *message);
            }
            (asked, 429 | 503, _) => {
                Counters::one(&self.world.counters.unavailable);
                if let Asked::Send(content) = asked {
                    self.again(content);
                }
            }
            (asked, status, _) => {
                let what = format!("{asked:?} was refused with {status}: {}", answer.body);
                self.accuse(None, Fault::new(Rule::Refused, what));
                if let Asked::Send(content) = asked {
                    self.again(content);
                }
            }
        }
    }
}
