//! Typing inputs of a client.

use super::{Session, outcome::Reply};
use crate::{
    session::{join::Subscription, multiplex::Reference},
    state::Shared,
    topic::Topic,
};
use contract::{
    Code, ConversationId, Refusal, Timestamp, UserId,
    frames::TypingFrame,
    typing::{TypingAction, TypingInput},
};
use std::time::Duration;
use tokio::time::Instant;

/// Minimum time between two `true`s of a client that are published.
const TYPING_EVERY: Duration = Duration::from_millis(250);

impl Session {
    /// Handles a frame of a typing channel.
    pub(super) fn typing(
        &mut self,
        conversation_id: ConversationId,
        frame: TypingFrame,
        reference: Option<Reference>,
    ) {
        let is_typing = match frame {
            TypingFrame::Typing(is_typing) => is_typing,
            TypingFrame::Auth(token) => return self.auth(&token, reference),
            TypingFrame::Visible(visible) => return self.visible(visible, reference),
        };
        let reply = Reply { reference, client_id: None };
        let membership = match self.subscriptions.get_mut(&Topic::Typing(conversation_id)) {
            Some(Subscription::Typing(membership)) => membership,
            Some(Subscription::Joining(_)) => return self.answer(&reply, Err(Refusal::unavailable())),
            _ => {
                let refusal = Refusal::new(Code::Forbidden, "subscribe to the channel first");
                return self.answer(&reply, Err(refusal));
            }
        };
        let now = Instant::now();
        let input = match (is_typing, membership.published) {
            (true, Some(published)) if now < published + TYPING_EVERY => None,
            (true, _) => {
                membership.published = Some(now);
                Some(TypingAction::Typing)
            }
            (false, published) => {
                membership.published = None;
                (published.is_some() || membership.is_typing()).then_some(TypingAction::Stopped)
            }
        };
        let username = membership.username().to_owned();
        let Some(input) = input else { return self.answer(&reply, Ok(())) };
        if let Err(refusal) = self.shared.limits.typing(self.identity.user_id) {
            return self.answer(&reply, Err(refusal));
        }
        let input = self.shared.typing_input(conversation_id, self.identity.user_id, &username, input);
        self.answer(&reply, self.shared.typing_inputs.publish(input));
    }

    /// Publishes the end of typing when the user's last socket on a typing channel leaves it.
    pub(super) fn end_typing(&self, topic: Topic, subscription: &Subscription) {
        let (Topic::Typing(conversation), Subscription::Typing(membership)) = (topic, subscription) else {
            return;
        };
        if membership.is_last() && (membership.published.is_some() || membership.is_typing()) {
            let (user, username) = (self.identity.user_id, membership.username());
            let input = self.shared.typing_input(conversation, user, username, TypingAction::Left);
            // If the queue is full, typing-service ends the typing after its time to live.
            self.shared.typing_inputs.publish(input).ok();
        }
    }
}

impl Shared {
    fn typing_input(
        &self,
        conversation_id: ConversationId,
        user_id: UserId,
        username: &str,
        action: TypingAction,
    ) -> TypingInput {
        TypingInput {
            conversation_id,
            user_id,
            username: username.to_owned(),
            gateway: self.id.clone(),
            action,
            at_ms: Some(Timestamp::now().unix_millis()),
        }
    }
}
