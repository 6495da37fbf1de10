//! The commands of a client, and their answers.

use super::{
    Session, expiry,
    outcome::{Effect, Outcome, Reply},
};
use crate::{
    admission::tokens::{Identity, Rejected},
    channel::encode,
    session::{
        dialect::Dialect,
        join::Subscription,
        multiplex::{self, Op},
    },
    topic::{LogKey, Topic},
};
use contract::{
    Close, Code, ConversationId, Refusal,
    chat::{Action, ChangeMessage, MarkRead, Message, Receipt, Send, Sent},
    frames::{ChatFrame, InboxFrame, PresenceFrame, ServerFrame, TypingFrame, client_id_of},
    limits,
    notify::{MarkNotification, MarkSeen},
};
use futures_util::FutureExt;
use service::{Span, bus::RequestError, trace::Kind};
use tokio::time::Instant;

/// Number of messages, or frames, refused for their rate before the socket is closed.
const REFUSED: u16 = 100;
/// Number of refusals that one accepted message or frame cancels, so only a client that stays this many times over its
/// rate is closed. Counting refusals in a row would not find it, because the limiter accepts a frame now and then.
const FORGIVEN: u16 = 10;
/// Maximum number of channels of one socket.
const CHANNELS: usize = 128;

impl Session {
    /// Handles a frame of the client.
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
                Ok(frame) => self.typing(conversation, frame, None),
                Err(refusal) => self.outbox.push(encode::error(&refusal, None)),
            },
            Dialect::Presence(_) => match PresenceFrame::parse(text) {
                Ok(PresenceFrame::Auth(token)) => self.auth(&token, None),
                Ok(PresenceFrame::Visible(visible)) => self.visible(visible, None),
                Err(refusal) => self.outbox.push(encode::error(&refusal, None)),
            },
            Dialect::Multiplexed => match Op::parse(text, self.identity.user_id) {
                Ok((op, reference)) => self.execute(op, reference),
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

    /// Answers a frame that is refused for its rate.
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

    fn execute(&mut self, op: Op, reference: multiplex::Reference) {
        let reply = || Reply { reference: Some(reference.clone()), client_id: None };
        match op {
            Op::Subscribe(topic, _) if self.subscriptions.contains(&topic) => {
                self.answer(&reply(), Err(Refusal::new(Code::InvalidRequest, "already subscribed")));
            }
            Op::Subscribe(..) if self.subscriptions.len() >= CHANNELS => {
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
            Op::Typing(conversation, frame) => self.typing(conversation, frame, Some(reference)),
            Op::Visible(visible) => self.visible(visible, Some(reference)),
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
            ChatFrame::Message { message, client_id, kind, data, reply_to } => {
                let reply = Reply { reference, client_id: client_id.clone() };
                if let Err(refusal) = self.limit_send(conversation_id) {
                    return self.answer(&reply, Err(refusal));
                }
                let (sender_username, sender_named_at) =
                    (self.identity.username.clone(), self.identity.stamp.issued_at);
                let send = Send {
                    conversation_id,
                    sender_id: user_id,
                    sender_username,
                    sender_named_at,
                    message,
                    client_id,
                    kind,
                    data,
                    reply_to,
                    system: false,
                };
                let (sends, deadline) = (self.shared.sends.clone(), Instant::now() + limits::SEND_DEADLINE);
                let span = Span::root("chat send", Kind::Server);
                span.set("conversation.id", conversation_id.get());
                let sent = async move {
                    let sent = Effect::Sent(sends.send(send, deadline).await);
                    Outcome::Service(reply, topic, Ok(sent))
                };
                self.pending.push(span.within(sent).boxed());
            }
            ChatFrame::Edit { message_id, message } => {
                let action = Action::Edit(message);
                self.change(ChangeMessage { conversation_id, message_id, user_id, action }, reference);
            }
            ChatFrame::Delete(message_id) => {
                let action = Action::Delete;
                self.change(ChangeMessage { conversation_id, message_id, user_id, action }, reference);
            }
            ChatFrame::Read(message_id) => {
                let request = MarkRead { conversation_id, user_id, message_id };
                self.mark_read(topic, reference, request);
            }
            ChatFrame::Auth(token) => self.auth(&token, reference),
            ChatFrame::Visible(visible) => self.visible(visible, reference),
        }
    }

    fn inbox(&mut self, frame: InboxFrame, reference: Option<multiplex::Reference>) {
        let user_id = self.identity.user_id;
        let topic = Topic::Log(LogKey::Inbox(user_id));
        let notification_id = match frame {
            InboxFrame::Read(id) => Some(id),
            InboxFrame::ReadAll => None,
            InboxFrame::Seen(notification_id) => {
                return self.mark_read(topic, reference, MarkSeen { user_id, notification_id });
            }
            InboxFrame::Auth(token) => return self.auth(&token, reference),
            InboxFrame::Visible(visible) => return self.visible(visible, reference),
        };
        self.mark_read(topic, reference, MarkNotification { user_id, notification_id });
    }

    /// Counts a send or a change. A client far over its rate is closed.
    fn limit_send(&mut self, conversation: ConversationId) -> Result<(), Refusal> {
        let limited = self.shared.limits.send(self.identity.user_id, conversation);
        if is_far_over(&mut self.refused_sends, limited.is_err()) {
            self.outbox.close(Close::RateLimited);
        }
        limited
    }

    /// Requests chat-service to change a message.
    fn change(&mut self, request: ChangeMessage, reference: Option<multiplex::Reference>) {
        let reply = Reply { reference, client_id: None };
        if let Err(refusal) = self.limit_send(request.conversation_id) {
            return self.answer(&reply, Err(refusal));
        }
        let topic = Topic::Log(LogKey::Conversation(request.conversation_id));
        self.request(reply, topic, request, |message| Effect::Changed(message.change.unwrap_or_default()));
    }

    /// Requests a service to move a marker.
    fn mark_read<R: contract::Request>(
        &mut self,
        topic: Topic,
        reference: Option<multiplex::Reference>,
        request: R,
    ) {
        let reply = Reply { reference, client_id: None };
        if let Err(refusal) = self.shared.limits.read(self.identity.user_id) {
            return self.answer(&reply, Err(refusal));
        }
        self.request(reply, topic, request, |_| Effect::Moved);
    }

    /// Requests something from a service, after the commands before.
    fn request<R: contract::Request>(
        &mut self,
        reply: Reply,
        topic: Topic,
        request: R,
        effect: impl FnOnce(R::Reply) -> Effect + std::marker::Send + 'static,
    ) {
        let (shared, deadline) = (self.shared.clone(), Instant::now() + limits::SEND_DEADLINE);
        self.pending.push(
            async move {
                let left = deadline.saturating_duration_since(Instant::now());
                let answer = shared.hub.bus().request_until(&request, left).await;
                Outcome::Service(reply, topic, answer.map(effect).map_err(RequestError::into_refusal))
            }
            .boxed(),
        );
    }

    /// Records whether the client's page is visible: a hidden one does not make its user present. Changes need no rate
    /// of their own, because an end of presence is only published some seconds later.
    pub(super) fn visible(&mut self, visible: bool, reference: Option<multiplex::Reference>) {
        self.set_visible(visible);
        self.answer(&Reply { reference, client_id: None }, Ok(()));
    }

    pub(super) fn auth(&mut self, token: &str, reference: Option<multiplex::Reference>) {
        let reply = Reply { reference, client_id: None };
        match self.shared.identify(token) {
            // The key may have been published since the last fetch.
            Err(Rejected::UnknownKey) => {
                let (shared, token) = (self.shared.clone(), token.to_owned());
                let check = async move { Outcome::Token(reply, shared.fetch_key_and_identify(&token).await) };
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
        self.shared.languages.report(fresh.user_id, fresh.lang.take(), None);
        self.expires_at = expiry(&self.shared, &fresh);
        let expires_at = fresh.expires_at;
        self.slot.renew(fresh.stamp.clone());
        if let Some(name) = &fresh.username {
            self.is_renamed |= self.identity.username.as_ref() != Some(name);
            self.subscriptions.rename(name);
        }
        self.identity = Identity { username: fresh.username.or(self.identity.username.take()), ..fresh };
        match reply.reference {
            Some(_) => self.answer(reply, Ok(())),
            None => self.outbox.push(encode::encode(&ServerFrame::Auth { expires_at })),
        }
    }

    /// Takes the outcome of a command, and answers it.
    pub(super) fn done(&mut self, outcome: Outcome) {
        let (reply, topic, answer) = match outcome {
            Outcome::Service(reply, topic, answer) => (reply, topic, answer),
            Outcome::Token(reply, fresh) => return self.identified(&reply, fresh),
        };
        let membership = match self.subscriptions.get(&topic) {
            Some(Subscription::Log(membership)) => Some(membership),
            _ => None,
        };
        let answer = match answer {
            Ok(Effect::Sent(Sent::Repeated(message))) if message.client_id.is_some() => {
                let entry = encode::message(message);
                match membership {
                    Some(membership) => membership.repeat(&entry),
                    None => tracing::debug!("a repeated send of a socket that has not subscribed"),
                }
                Ok(())
            }
            // A send without a `client_id` was sent once by the client: the gateway repeated the request.
            Ok(Effect::Sent(
                Sent::Stored(Message { seq, .. })
                | Sent::Repeated(Message { seq, .. })
                | Sent::Placed(Receipt { seq, .. }),
            )) => {
                // The channel delivers the message; if its event was lost, this `seq` shows the gap.
                if let Some(membership) = membership {
                    membership.stored(seq);
                    self.stored = Some((topic, seq));
                }
                Ok(())
            }
            Ok(Effect::Changed(number)) => {
                // As with a stored message: if the event was lost, the number shows it.
                if let Some(membership) = membership {
                    membership.change_made(number);
                }
                Ok(())
            }
            Ok(Effect::Sent(Sent::Refused(refusal))) | Err(refusal) => Err(refusal),
            Ok(Effect::Moved) => Ok(()),
        };
        self.answer(&reply, answer);
    }

    /// Answers a command. A single socket receives only errors, because the effect of a success is visible.
    pub(super) fn answer(&self, reply: &Reply, answer: Result<(), Refusal>) {
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

/// Counts a refused or accepted frame. Returns whether the client is far over its rate.
const fn is_far_over(refused: &mut u16, is_refused: bool) -> bool {
    *refused = if is_refused { refused.saturating_add(1) } else { refused.saturating_sub(FORGIVEN) };
    *refused > REFUSED
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
