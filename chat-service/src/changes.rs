//! Changes of messages: by their senders, by backends, and reading them.

use crate::{
    error::{checked_reason, encoding_failed},
    kinds::CurrentKinds,
    outbox::Outbox,
    store::{self, Change, Changed, Kind, Members},
};
use contract::{
    Code, ConversationId, MessageId, Refusal, UserId,
    chat::{
        Action, ChangeMessage, ChangePage, DeletedBy, Message, PageChanges, RemoveMessage, UpdateMessage,
    },
    frames, limits,
};
use service::{
    bus::truncate_page,
    postgres::{Pool, refusal},
};

/// Times that an operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Seconds in which senders may edit a message.
    pub edit_seconds: u32,
    /// Seconds in which senders may delete a message.
    pub delete_seconds: u32,
    /// Days for which former texts are kept.
    pub version_days: u32,
}

/// Makes and reads changes.
pub struct Changes {
    pool: Pool,
    outbox: Outbox,
    kinds: CurrentKinds,
    times: Times,
}

impl Changes {
    pub const fn new(pool: Pool, outbox: Outbox, kinds: CurrentKinds, times: Times) -> Self {
        Self { pool, outbox, kinds, times }
    }

    /// A sender changes an own message.
    pub async fn by_sender(&self, request: ChangeMessage) -> Result<Message, Refusal> {
        let ChangeMessage { conversation_id, message_id, user_id, action } = request;
        let text = match action {
            Action::Edit(text) => Some(frames::message_text(&text)?),
            Action::Delete => None,
        };
        let (kind, seconds) = match &text {
            Some(text) => (Kind::Edit(text), self.times.edit_seconds),
            None => (Kind::Delete(DeletedBy::Sender, None), self.times.delete_seconds),
        };
        let user = Some((user_id, seconds));
        let message = self.make(Change { conversation_id, message_id, user, kind, if_change: None }).await?;
        Ok(for_viewer(message, Some(user_id)))
    }

    /// A backend replaces the text of a message, or its data.
    pub async fn update(&self, request: UpdateMessage) -> Result<Message, Refusal> {
        let UpdateMessage { conversation_id, message_id, message, data, if_change } = request;
        let text = message.map(|text| frames::message_text(&text)).transpose()?;
        let kinds = self.kinds.get();
        let name = self.kind_of(conversation_id, message_id).await?;
        let (data, made) = match (&name, data) {
            (Some(name), Some(data)) => {
                let (data, made) = kinds.check_update(name, &frames::checked_data(data)?)?;
                (Some(data), made)
            }
            (None, Some(_)) => {
                return Err(Refusal::new(Code::InvalidMessage, "a message without a kind has no data"));
            }
            (Some(name), None) if kinds.makes_text(name) => {
                let detail = "the text of this kind is made from its \"data\"";
                return Err(Refusal::new(Code::InvalidMessage, detail));
            }
            (_, None) => (None, None),
        };
        let text = made.or(text);
        let kind = match (&data, text.as_deref()) {
            (Some(data), text) => Kind::Data(data, text),
            (None, Some(text)) => Kind::Edit(text),
            (None, None) => {
                let detail = "an update needs \"message\" or \"data\"";
                return Err(Refusal::new(Code::InvalidMessage, detail));
            }
        };
        let message = self.make(Change { conversation_id, message_id, user: None, kind, if_change }).await?;
        Ok(for_viewer(message, None))
    }

    /// The kind of a message, which never changes.
    async fn kind_of(
        &self,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<Option<String>, Refusal> {
        let found = store::messages(&self.pool, &[conversation.get()], &[message.get()]).await;
        let found = found.map_err(|error| refusal("read a message", &error))?;
        let message = found.into_iter().next().ok_or_else(no_such_message)?;
        Ok(message.kind)
    }

    /// A backend deletes a message.
    pub async fn remove(&self, request: RemoveMessage) -> Result<Message, Refusal> {
        let RemoveMessage { conversation_id, message_id, reason } = request;
        let reason = checked_reason(&reason)?;
        let kind = Kind::Delete(DeletedBy::Moderation, Some(reason));
        let change = Change { conversation_id, message_id, user: None, kind, if_change: None };
        Ok(for_viewer(self.make(change).await?, None))
    }

    /// Makes a change, publishes it, and returns the message as it is then.
    async fn make(&self, change: Change<'_>) -> Result<Message, Refusal> {
        let reserved = self.kinds.get().reserved();
        let changed = store::change_message(&self.pool, &change, self.times.version_days, &reserved)
            .await
            .map_err(|error| refusal("change a message", &error))?;
        let refused = |code, detail: &str| Err(Refusal::new(code, detail));
        let (made, moved) = match changed {
            Changed::Made { number, outbox_id, moved } => (Some((number, outbox_id)), moved),
            Changed::Unchanged => (None, Vec::new()),
            Changed::Forbidden if change.user.is_some() => return Err(Refusal::forbidden()),
            Changed::Forbidden | Changed::NotFound => return Err(no_such_message()),
            Changed::NotOwn => return refused(Code::Forbidden, "only senders may change their messages"),
            Changed::Reserved => {
                return refused(Code::Forbidden, "only backends change messages of this kind like this");
            }
            Changed::TooLate => return refused(Code::TooLate, "the message is too old for this change"),
            Changed::Blocked => return refused(Code::Blocked, "this user doesn't accept your messages"),
            Changed::Conflict => return refused(Code::Conflict, "the message has changed"),
            Changed::TooMany => {
                let detail = format!("a message can be changed {} times", limits::CHANGES_MAX);
                return refused(Code::InvalidRequest, &detail);
            }
        };
        let members = self.members(change.conversation_id, None).await?;
        let message = self.read(&members, change.conversation_id, change.message_id).await?;
        if let Some((number, outbox_id)) = made {
            let kind = match change.kind {
                Kind::Edit(_) => "edit",
                Kind::Data(..) => "data",
                Kind::Delete(..) => "delete",
            };
            metrics::counter!("chat_changes_total", "kind" => kind).increment(1);
            let markers = members.markers_of(change.conversation_id, &moved);
            self.outbox.publish_change(outbox_id, number, message.clone(), markers).await;
        }
        Ok(message)
    }

    /// The participants of a conversation, one of whom must be the viewer.
    async fn members(
        &self,
        conversation: ConversationId,
        viewer: Option<UserId>,
    ) -> Result<Members, Refusal> {
        let members = store::members(&self.pool, conversation, viewer)
            .await
            .map_err(|error| refusal("read a conversation's head", &error))?;
        if viewer.is_some_and(|viewer| !members.contains(viewer)) {
            return Err(Refusal::forbidden());
        }
        Ok(members)
    }

    async fn read(
        &self,
        members: &Members,
        conversation: ConversationId,
        message: MessageId,
    ) -> Result<Message, Refusal> {
        let mut found = store::messages(&self.pool, &[conversation.get()], &[message.get()])
            .await
            .map_err(|error| refusal("read a message", &error))?;
        let mut message = found
            .pop()
            .ok_or_else(|| Refusal::new(Code::NotFound, "no such message in this conversation"))?;
        message.is_read = members.is_read(&message);
        Ok(message)
    }

    /// One message, as a participant sees it.
    pub async fn message(
        &self,
        conversation: ConversationId,
        message: MessageId,
        viewer: UserId,
    ) -> Result<Message, Refusal> {
        // Before the message: a stranger does not learn whether it exists.
        let members = self.members(conversation, Some(viewer)).await?;
        Ok(for_viewer(self.read(&members, conversation, message).await?, Some(viewer)))
    }

    /// Messages by their last change.
    pub async fn page(&self, request: PageChanges) -> Result<ChangePage, Refusal> {
        let PageChanges { conversation_id, user_id, after, limit } = request;
        // Read before the items: they are at least as new.
        let members = self.members(conversation_id, user_id).await?;
        let limit = limit.clamp(1, limits::PAGE_MAX);
        let mut items = store::changes(&self.pool, conversation_id, after, i64::from(limit) + 1)
            .await
            .map_err(|error| refusal("read changes", &error))?;
        let mut more = items.len() > usize::from(limit);
        items.truncate(limit.into());
        members.show_to(user_id, &mut items);
        more |= truncate_page(&mut items).map_err(|error| encoding_failed("measure a page", &error))?;
        Ok(ChangePage { items, more, changes: members.changes() })
    }
}

fn no_such_message() -> Refusal {
    Refusal::new(Code::NotFound, "no such message in this conversation, or it is deleted")
}

/// The message as this user sees it; `None` is a backend.
fn for_viewer(message: Message, viewer: Option<UserId>) -> Message {
    let client_id = message.client_id.filter(|_| viewer == Some(message.sender_id));
    Message { client_id, ..message }
}
