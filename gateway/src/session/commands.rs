//! What a client asks over its socket, and how it hears what became of it.

use super::{Asked, Reply, Session, expiry};
use crate::{
    admission::tokens::{Identity, Rejected},
    channel::encode,
    session::{
        handshake::{Dialect, Subscription},
        multiplex::{self, Op},
    },
    state::Shared,
    topic::{LogKey, Topic},
};
use contract::{
    Close, Code, ConversationId, Refusal, Timestamp, UserId,
    chat::{MarkRead, Send, Sent},
    frames::{ChatFrame, InboxFrame, ServerFrame, TypingFrame, client_id_of},
    limits,
    notify::MarkNotification,
    typing::{Keyboard, TypingInput},
};
use futures_util::FutureExt;
use service::{Span, bus::RequestError, trace::Kind};
use std::time::Duration;
use tokio::time::Instant;

/// How often a client's `true`s are passed on, at most.
const TYPING_EVERY: Duration = Duration::from_millis(250);
/// Messages, or frames, that are refused for their rate before the socket is closed.
const REFUSED: u16 = 100;
/// Refusals that an accepted message or frame makes up for: a client that stays this far over its rate is closed. Refusals
/// in a row would not do: the limiter lets a frame through now and then, however many come.
const FORGIVEN: u16 = 10;
/// Channels of one socket.
const CHANNELS: usize = 128;

impl Session {
    /// Takes a frame of the client's.
    pub(super) fn take(&mut self, text: &str) {
        if let Err(refusal) = self.limit_frame() {
            return self.refuse_frame(text, &refusal);
        }
        match self.dialect {
            Dialect::Chat(conversation) => match ChatFrame::parse(text) {
                Ok(frame) => self.chat(conversation, frame, None),
                Err(bad) => self.outbox.push(encode::error(&bad.refusal, bad.client_id.as_deref())),
            },
            Dialect::Notifications => match InboxFrame::parse(text) {
                Ok(frame) => self.inbox(frame, None),
                Err(refusal) => self.outbox.push(encode::error(&refusal, None)),
            },
            Dialect::Typing(conversation) => match TypingFrame::parse(text) {
                Ok(frame) => self.keyboard(conversation, frame, None),
                Err(refusal) => self.outbox.push(encode::error(&refusal, None)),
            },
            Dialect::Multiplexed => match Op::parse(text, self.identity.user_id) {
                Ok((op, reference)) => self.operate(op, reference),
                Err(bad) => {
                    let (reference, client_id) = (bad.reference.as_ref(), bad.client_id.as_deref());
                    self.outbox.push(multiplex::error(&bad.refusal, reference, client_id));
                }
            },
        }
    }

    /// Counts a frame of any kind. A client far over its rate is closed.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn limit_frame(&mut self) -> Result<(), Refusal> {
        let limited = self.shared.limits.frame(self.identity.user_id);
        if is_far_over(&mut self.refused_frames, limited.is_err()) {
            self.outbox.close(Close::RateLimited);
        }
        limited
    }

    /// Answers a frame that is not executed for its rate.
    fn refuse_frame(&self, text: &str, refusal: &Refusal) {
        let frame = match self.dialect {
            Dialect::Multiplexed => {
                let named = multiplex::Names::of(text);
                multiplex::error(refusal, named.reference.as_ref(), named.client_id.as_deref())
            }
            _ => encode::error(refusal, client_id_of(text).as_deref()),
        };
        self.outbox.push(frame);
    }

    fn operate(&mut self, op: Op, reference: multiplex::Reference) {
        let reply = || Reply { reference: Some(reference.clone()), client_id: None };
        match op {
            Op::Subscribe(topic, _) if self.places.contains(&topic) => {
                self.answer(&reply(), Err(Refusal::new(Code::InvalidRequest, "already subscribed")));
            }
            Op::Subscribe(..) if self.places.len() >= CHANNELS => {
                metrics::counter!("gateway_channels_limited_total").increment(1);
                let detail = format!("at most {CHANNELS} channels on one socket");
                self.answer(&reply(), Err(Refusal::new(Code::InvalidRequest, detail)));
            }
            Op::Subscribe(topic, start) => {
                if let Err(refusal) = self.shared.limits.subscribe(self.identity.user_id) {
                    return self.answer(&reply(), Err(refusal));
                }
                self.subscribe(topic, start, reference);
            }
            Op::Unsubscribe(topic) => {
                let answer = self.unsubscribe(topic);
                self.answer(&reply(), answer);
            }
            Op::Ping => self.answer(&reply(), Ok(())),
            Op::Auth(token) => self.auth(&token, Some(reference)),
            Op::Chat(conversation, frame) => self.chat(conversation, frame, Some(reference)),
            Op::Inbox(frame) => self.inbox(frame, Some(reference)),
            Op::Typing(conversation, frame) => self.keyboard(conversation, frame, Some(reference)),
        }
    }

    fn chat(
        &mut self,
        conversation_id: ConversationId,
        frame: ChatFrame,
        reference: Option<multiplex::Reference>,
    ) {
        let topic = Topic::Log(LogKey::Conversation(conversation_id));
        let user_id = self.identity.user_id;
        match frame {
            ChatFrame::Message { message, client_id } => {
                let reply = Reply { reference, client_id: client_id.clone() };
                let limited = self.shared.limits.send(user_id, conversation_id);
                if is_far_over(&mut self.refused_sends, limited.is_err()) {
                    self.outbox.close(Close::RateLimited);
                }
                if let Err(refusal) = limited {
                    return self.answer(&reply, Err(refusal));
                }
                let (sender_username, sender_named_at) =
                    (self.identity.username.clone(), self.identity.stamp.issued_at);
                let sender_id = user_id;
                let send =
                    Send { conversation_id, sender_id, sender_username, sender_named_at, message, client_id };
                let (sends, deadline) = (self.shared.sends.clone(), Instant::now() + limits::SEND_DEADLINE);
                let span = Span::root("chat send", Kind::Server);
                span.set("conversation.id", conversation_id.get());
                let sent =
                    async move { Asked::Service(reply, topic, Ok(Some(sends.send(send, deadline).await))) };
                self.pending.push(span.within(sent).boxed());
            }
            ChatFrame::Read(message_id) => {
                let ask = MarkRead { conversation_id, user_id, message_id };
                self.mark(topic, reference, ask);
            }
            ChatFrame::Auth(token) => self.auth(&token, reference),
        }
    }

    fn inbox(&mut self, frame: InboxFrame, reference: Option<multiplex::Reference>) {
        let user_id = self.identity.user_id;
        let notification_id = match frame {
            InboxFrame::Read(id) => Some(id),
            InboxFrame::ReadAll => None,
            InboxFrame::Auth(token) => return self.auth(&token, reference),
        };
        let topic = Topic::Log(LogKey::Inbox(user_id));
        self.mark(topic, reference, MarkNotification { user_id, notification_id });
    }

    /// Asks a service to move a marker.
    fn mark<R: contract::Request>(
        &mut self,
        topic: Topic,
        reference: Option<multiplex::Reference>,
        question: R,
    ) {
        let reply = Reply { reference, client_id: None };
        if let Err(refusal) = self.shared.limits.read(self.identity.user_id) {
            return self.answer(&reply, Err(refusal));
        }
        let (shared, deadline) = (self.shared.clone(), Instant::now() + limits::SEND_DEADLINE);
        self.pending.push(
            async move {
                let left = deadline.saturating_duration_since(Instant::now());
                let answer = shared.hub.bus().request_until(&question, left).await;
                Asked::Service(reply, topic, answer.map(|_| None).map_err(RequestError::into_refusal))
            }
            .boxed(),
        );
    }

    fn keyboard(
        &mut self,
        conversation_id: ConversationId,
        frame: TypingFrame,
        reference: Option<multiplex::Reference>,
    ) {
        let is_typing = match frame {
            TypingFrame::Typing(is_typing) => is_typing,
            TypingFrame::Auth(token) => return self.auth(&token, reference),
        };
        let topic = Topic::Typing(conversation_id);
        let reply = Reply { reference, client_id: None };
        let watching = match self.places.get_mut(&topic) {
            Some(Subscription::Typing(watching)) => watching,
            Some(Subscription::Joining(_)) => return self.answer(&reply, Err(Refusal::unavailable())),
            _ => {
                return self
                    .answer(&reply, Err(Refusal::new(Code::Forbidden, "subscribe to the channel first")));
            }
        };
        let now = Instant::now();
        let keyboard = match (is_typing, watching.told) {
            (true, Some(told)) if now < told + TYPING_EVERY => None,
            (true, _) => {
                watching.told = Some(now);
                Some(Keyboard::Typing)
            }
            (false, told) => {
                watching.told = None;
                (told.is_some() || watching.is_typing()).then_some(Keyboard::Stopped)
            }
        };
        let username = watching.username().to_owned();
        let Some(keyboard) = keyboard else { return self.answer(&reply, Ok(())) };
        if let Err(refusal) = self.shared.limits.typing(self.identity.user_id) {
            return self.answer(&reply, Err(refusal));
        }
        let input = self.shared.input(conversation_id, self.identity.user_id, &username, keyboard);
        self.answer(&reply, self.shared.typing_inputs.publish(input));
    }

    fn auth(&mut self, token: &str, reference: Option<multiplex::Reference>) {
        let reply = Reply { reference, client_id: None };
        match self.shared.identify(token) {
            // It may have been published a moment ago.
            Err(Rejected::UnknownKey) => {
                let (shared, token) = (self.shared.clone(), token.to_owned());
                let check = async move { Asked::Token(reply, shared.identify_anew(&token).await) };
                self.pending.check_token(check.boxed());
            }
            identified => self.identified(&reply, identified),
        }
    }

    fn identified(&mut self, reply: &Reply, fresh: Result<Identity, Rejected>) {
        let fresh = fresh.ok().filter(|fresh| fresh.user_id == self.identity.user_id);
        let Some(mut fresh) = fresh else {
            let refusal = Refusal::new(Code::Unauthorized, "the token is not valid, or another user's");
            return self.answer(reply, Err(refusal));
        };
        self.shared.languages.saw(fresh.user_id, fresh.lang.take(), None);
        self.expires = expiry(&self.shared, &fresh);
        let expires_at = fresh.expires_at;
        self.presence.renew(fresh.stamp.clone());
        if let Some(name) = &fresh.username {
            self.is_renamed |= self.identity.username.as_ref() != Some(name);
            self.places.rename(name);
        }
        self.identity = Identity { username: fresh.username.or(self.identity.username.take()), ..fresh };
        match reply.reference {
            Some(_) => self.answer(reply, Ok(())),
            None => self.outbox.push(encode::encode(&ServerFrame::Auth { expires_at })),
        }
    }

    /// What the client asked is done, or not.
    pub(super) fn done(&mut self, asked: Asked) {
        let (reply, topic, answer) = match asked {
            Asked::Service(reply, topic, answer) => (reply, topic, answer),
            Asked::Token(reply, fresh) => return self.identified(&reply, fresh),
        };
        let place = match self.places.get(&topic) {
            Some(Subscription::Log(membership)) => Some(membership),
            _ => None,
        };
        let answer = match answer {
            Ok(Some(Sent::Repeated(message))) if message.client_id.is_some() => {
                let entry = encode::message(message);
                match place {
                    Some(membership) => membership.repeat(&entry),
                    None => tracing::debug!("a repeated send without a place in its conversation"),
                }
                Ok(())
            }
            // A client that has no name for it has sent it once: it was the gateway that asked again.
            Ok(Some(Sent::Stored(message) | Sent::Repeated(message))) => {
                // The message itself comes with the log; this only makes sure that it does.
                if let Some(membership) = place {
                    membership.stored(message.seq);
                    self.stored = Some((topic, message.seq));
                }
                Ok(())
            }
            Ok(Some(Sent::Refused(refusal))) | Err(refusal) => Err(refusal),
            Ok(None) => Ok(()),
        };
        self.answer(&reply, answer);
    }

    /// Tells the client what became of what it asked; on a single socket, success shows by itself.
    fn answer(&self, reply: &Reply, answer: Result<(), Refusal>) {
        let frame = match (&reply.reference, answer) {
            (Some(reference), Ok(())) => multiplex::ok(reference),
            (Some(reference), Err(refusal)) => {
                multiplex::error(&refusal, Some(reference), reply.client_id.as_deref())
            }
            (None, Ok(())) => return,
            (None, Err(refusal)) => encode::error(&refusal, reply.client_id.as_deref()),
        };
        self.outbox.push(frame);
    }
}

/// Counts what is refused for its rate, and what is not; returns whether the client is far over its rate.
const fn is_far_over(refused: &mut u16, is_refused: bool) -> bool {
    *refused = if is_refused { refused.saturating_add(1) } else { refused.saturating_sub(FORGIVEN) };
    *refused > REFUSED
}

impl Shared {
    pub(super) fn input(
        &self,
        conversation_id: ConversationId,
        user_id: UserId,
        username: &str,
        keyboard: Keyboard,
    ) -> TypingInput {
        TypingInput {
            conversation_id,
            user_id,
            username: username.to_owned(),
            gateway: self.id.clone(),
            keyboard,
            at_ms: Some(Timestamp::now().unix_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_stays_far_over_a_rate_is_closed_and_one_a_little_over_it_is_not() {
        let is_closed = |times: usize| {
            let mut refused = 0;
            (0..10_000).any(|frame| is_far_over(&mut refused, frame % times != 0))
        };
        assert!(is_closed(20));
        assert!(!is_closed(10));
    }
}
