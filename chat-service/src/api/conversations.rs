//! Conversations: creating, reading and listing them.

use super::Api;
use crate::{
    config::ConversationsBy,
    error::{encoding_failed, invalid},
    store::{self, Opening},
};
use contract::chat::{
    Conversation, CreateConversation, EnsureConversation, GetConversation, Invitee, ListConversations,
    OpenConversation, Opened,
};
use contract::{
    Code, ConversationId, Page, Refusal, UserId, limits,
    text::{self, display_name},
};
use service::{bus::truncate_page, postgres::refusal};
use std::collections::BTreeMap;

impl Api {
    pub async fn create(&self, request: CreateConversation) -> Result<Conversation, Refusal> {
        Ok(self.ensure(EnsureConversation(request)).await?.conversation)
    }

    pub async fn ensure(&self, EnsureConversation(request): EnsureConversation) -> Result<Opened, Refusal> {
        let opened = self.create_or_open(request).await?;
        Ok(Opened { conversation: as_backend(opened.conversation), ..opened })
    }

    pub async fn open(&self, OpenConversation(request): OpenConversation) -> Result<Opened, Refusal> {
        if self.rules.conversations_by == ConversationsBy::Backends {
            return Err(Refusal::new(
                Code::Forbidden,
                "only the marketplace's backends start conversations here",
            ));
        }
        let others: Vec<UserId> =
            request.participants.iter().skip(1).map(|invitee| invitee.user_id).collect();
        if let Some(opener) = request.participants.first() {
            let blocked = store::is_blocked_by_any(&self.pool, opener.user_id, &others).await;
            if blocked.map_err(|error| refusal("look for blocks", &error))? {
                return Err(Refusal::new(Code::Blocked, "a participant doesn't accept your messages"));
            }
        }
        self.create_or_open(request).await
    }

    async fn create_or_open(&self, request: CreateConversation) -> Result<Opened, Refusal> {
        let viewer = request.participants.first().map(|first| first.user_id);
        let is_system = |user: &Invitee| {
            self.rules.system_user.as_ref().is_some_and(|system| system.user_id == user.user_id)
        };
        if request.participants.iter().any(is_system) {
            return Err(invalid("the sender of system messages does not participate"));
        }
        let (request, participants) = checked(request)?;
        let viewer = viewer.ok_or_else(|| invalid("participants are missing"))?;
        let (users, usernames): (Vec<i64>, Vec<Option<String>>) = participants.into_iter().unzip();
        let is_published = self.outbox.publishes_openings();
        let opening = store::open_conversation(&self.pool, &users, &usernames, &request, is_published).await;
        let Opening { conversation_id, is_new, outbox_id } =
            opening.map_err(|error| refusal("create a conversation", &error))?;
        if let Some(outbox_id) = outbox_id {
            let event = store::opened(&self.pool, conversation_id).await;
            if let Some(event) = event.map_err(|error| refusal("read a new conversation", &error))? {
                self.outbox.publish_opening(outbox_id, event).await;
            }
        }
        let conversation = self.one(conversation_id, viewer).await?;
        Ok(Opened { conversation, created: is_new })
    }

    async fn one(&self, id: ConversationId, viewer: UserId) -> Result<Conversation, Refusal> {
        let found = store::conversations(&self.pool, &[id.get()], viewer)
            .await
            .map_err(|error| refusal("read a conversation", &error))?;
        found.into_iter().next().ok_or_else(Refusal::forbidden)
    }

    pub async fn conversation(&self, request: GetConversation) -> Result<Conversation, Refusal> {
        let id = request.conversation_id;
        let viewer = match request.user_id {
            Some(user) => user,
            None => {
                let participants = store::participants(&self.pool, &[id.get()]).await;
                let participants = participants.map_err(|error| refusal("read participants", &error))?;
                let first = participants.get(&id).and_then(|people| people.all.first().copied());
                first.ok_or_else(|| Refusal::new(Code::NotFound, "no such conversation"))?
            }
        };
        let conversation = self.one(id, viewer).await?;
        Ok(if request.user_id.is_none() { as_backend(conversation) } else { conversation })
    }

    pub async fn list(&self, request: ListConversations) -> Result<Page<Conversation>, Refusal> {
        let limit = request.limit.clamp(1, limits::PAGE_MAX);
        let listed = store::list(&self.pool, &request, i64::from(limit) + 1)
            .await
            .map_err(|error| refusal("list conversations", &error))?;
        let listed = Page::of(listed, usize::from(limit), |listed| listed.cursor());
        let ids: Vec<i64> = listed.items.iter().map(|listed| listed.id).collect();
        let mut items = store::conversations(&self.pool, &ids, request.user_id)
            .await
            .map_err(|error| refusal("read conversations", &error))?;
        let cut = truncate_page(&mut items).map_err(|error| encoding_failed("measure a page", &error))?;
        let next = if cut {
            let last = items.last().map(|last| last.conversation_id.get());
            listed.items.iter().find(|listed| Some(listed.id) == last).map(|listed| listed.cursor())
        } else {
            listed.next
        };
        Ok(Page { next, items })
    }
}

/// Removes what only the participant sees.
fn as_backend(conversation: Conversation) -> Conversation {
    Conversation { muted_until: None, archived: false, pinned: false, ..conversation }
}

/// The participants by id, each with the username that was given, if any.
type Usernames = BTreeMap<i64, Option<String>>;

fn checked(request: CreateConversation) -> Result<(CreateConversation, Usernames), Refusal> {
    if request.participants.len() > 2 * limits::PARTICIPANTS_MAX {
        return Err(invalid(format!("a conversation has at most {} participants", limits::PARTICIPANTS_MAX)));
    }
    let mut participants = Usernames::new();
    for Invitee { user_id, username: name } in &request.participants {
        let known = participants.entry(user_id.get()).or_default();
        *known = name.as_deref().and_then(display_name).or(known.take());
    }
    if !(limits::PARTICIPANTS_MIN..=limits::PARTICIPANTS_MAX).contains(&participants.len()) {
        let (min, max) = (limits::PARTICIPANTS_MIN, limits::PARTICIPANTS_MAX);
        return Err(invalid(format!("a conversation has {min} to {max} different participants")));
    }
    if request.listing_id.is_some_and(|listing| listing < 1) {
        return Err(invalid("\"listing_id\" must be a positive whole number"));
    }
    if request.title.as_ref().is_some_and(|title| title.contains('\0')) {
        return Err(invalid("\"title\" contains a NUL character"));
    }
    let title = request.title.as_deref().and_then(text::title);
    if title.as_ref().is_some_and(|title| title.chars().count() > limits::TITLE_CHARS) {
        return Err(invalid(format!("\"title\" has at most {} characters", limits::TITLE_CHARS)));
    }
    Ok((CreateConversation { title, ..request }, participants))
}
