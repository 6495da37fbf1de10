//! The questions that chat-service answers.

use crate::{
    SERVICE,
    config::ConversationsBy,
    error::{broken, failed, invalid, late},
    joins::Joins,
    lanes::Lanes,
    outbox::Outbox,
    reports,
    store::{self, Marked, Members, Named},
};
use contract::chat::{
    Conversation, ConversationHead, CountUnread, CreateConversation, GetConversation, Heads, Invitee,
    JoinBatch, JoinReply, ListBlocks, ListConversations, MakeReport, MarkRead, Marker, Message, MessagePage,
    OpenConversation, Opened, PageMessages, Participant, Reported, Send, SendBatch, SendOne, Sent, SetBlock,
    Unread,
};
use contract::{
    Code, ConversationId, Page, Refusal, Request, UserId, frames, limits,
    text::{self, display_name},
    typing::TypingBlock,
};
use futures_util::future::join_all;
use service::{
    Bus, Endpoints, Span,
    bus::fit,
    endpoints::deadline,
    trace::{self, Kind},
};
use sqlx::PgPool;
use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Packs that are worked on at once; more wait in NATS.
const PACKS: usize = 64;
/// Other questions of one kind that are worked on at once.
const QUESTIONS: usize = 32;

/// How long an answer may take: after that, whoever asked has asked again.
const ANSWER: Duration = Duration::from_secs(6);

/// What answers.
pub struct Api {
    bus: Bus,
    pool: PgPool,
    lanes: Lanes,
    joins: Joins,
    outbox: Outbox,
    conversations_by: ConversationsBy,
}

/// Listens to every question.
///
/// # Errors
/// When NATS can't be asked.
pub async fn serve(
    api: &Arc<Api>,
    bus: &Bus,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<Endpoints> {
    let (name, description) = SERVICE;
    let endpoints = Endpoints::new(bus, name, description, tasks.clone(), shutdown.clone()).await?;
    macro_rules! serve {
        ($request:ty, $concurrency:expr, $method:ident) => {{
            let api = api.clone();
            endpoints
                .serve::<$request, _, _>($concurrency, move |request| {
                    let api = api.clone();
                    async move { timeout(ANSWER, api.$method(request)).await.unwrap_or_else(|_| late()) }
                })
                .await?;
        }};
    }
    serve!(SendBatch, PACKS, pack);
    serve!(SendOne, PACKS, send);
    serve!(JoinBatch, QUESTIONS, enter);
    serve!(PageMessages, QUESTIONS, page);
    serve!(MarkRead, QUESTIONS, mark_read);
    serve!(Heads, QUESTIONS, heads);
    serve!(CreateConversation, QUESTIONS, create);
    serve!(OpenConversation, QUESTIONS, open);
    serve!(GetConversation, QUESTIONS, conversation);
    serve!(ListConversations, QUESTIONS, list);
    serve!(CountUnread, QUESTIONS, unread);
    serve!(SetBlock, QUESTIONS, set_block);
    serve!(ListBlocks, QUESTIONS, list_blocks);
    serve!(MakeReport, QUESTIONS, report);
    Ok(endpoints)
}

impl Api {
    /// What answers with these.
    pub const fn new(
        bus: Bus,
        pool: PgPool,
        lanes: Lanes,
        joins: Joins,
        outbox: Outbox,
        conversations_by: ConversationsBy,
    ) -> Self {
        Self { bus, pool, lanes, joins, outbox, conversations_by }
    }

    async fn pack(&self, pack: SendBatch) -> Result<Vec<Sent>, Refusal> {
        if pack.sends.len() > limits::BATCH_SENDS || pack.sends.iter().any(|send| send.client_id.is_none()) {
            return Err(invalid("a pack holds a bounded number of sends, each with a client_id"));
        }
        let spans: Vec<Span> = (0..pack.sends.len())
            .map(|index| Span::under(pack.trace_of(index), SendBatch::SUBJECT, Kind::Server))
            .collect();
        let deadlines = pack.deadlines.into_iter().map(Some).chain(iter::repeat(deadline()));
        let sends = pack.sends.into_iter().zip(spans).zip(deadlines);
        Ok(join_all(sends.map(|((send, span), deadline)| self.lanes.store(send, span, deadline))).await)
    }

    async fn send(&self, SendOne(send): SendOne) -> Result<Message, Refusal> {
        let send = Send {
            message: frames::message_text(&send.message)?,
            client_id: Some(match send.client_id {
                Some(id) => frames::client_id(id)?,
                None => Send::own_key(format_args!("{:032x}", fastrand::u128(..))),
            }),
            sender_username: send.sender_username.as_deref().and_then(display_name),
            ..send
        };
        let span = Span::under(trace::current(), "store", Kind::Internal);
        match self.lanes.store(send, span, deadline()).await {
            Sent::Stored(message) | Sent::Repeated(message) => Ok(message),
            Sent::Refused(refusal) => Err(refusal),
        }
    }

    async fn enter(&self, JoinBatch { mut entries }: JoinBatch) -> Result<Vec<JoinReply>, Refusal> {
        if entries.len() > limits::BATCH_JOINS {
            return Err(invalid("too many who want in at once"));
        }
        for entry in &mut entries {
            entry.username = entry.username.as_deref().and_then(display_name);
        }
        self.joins.admit(entries).await
    }

    async fn page(&self, ask: PageMessages) -> Result<MessagePage, Refusal> {
        // Before the items: where the page is empty, the log ended at this head.
        let members = store::members(&self.pool, ask.conversation_id, ask.user_id)
            .await
            .map_err(|error| failed("read a conversation's head", &error))?;
        if let Some(user) = ask.user_id {
            self.admit(&members, user, ask.username.as_deref(), ask.named_at).await?;
        }
        let limit = ask.limit.min(limits::PAGE_MAX);
        let mut items = Vec::new();
        if limit > 0 {
            items = store::page(&self.pool, ask.conversation_id, ask.range, i64::from(limit) + 1)
                .await
                .map_err(|error| failed("read a page", &error))?;
        }
        let limit = usize::from(limit);
        let mut more = items.len() > limit;
        items.truncate(limit);
        for message in &mut items {
            message.is_read = members.is_read(message);
            if ask.user_id.is_some_and(|user| user != message.sender_id) {
                message.client_id = None;
            }
        }
        more |= fit(&mut items).map_err(|error| broken("measure a page", &error))?;
        Ok(MessagePage { items, more, head: members.head(), markers: members.markers(ask.conversation_id) })
    }

    /// Lets a participant in, and remembers the name in the token.
    async fn admit(
        &self,
        members: &Members,
        user_id: UserId,
        claimed: Option<&str>,
        named_at: Option<i64>,
    ) -> Result<(), Refusal> {
        if !members.holds(user_id) {
            return Err(Refusal::forbidden());
        }
        let named_at = named_at.unwrap_or_default();
        match claimed.and_then(display_name) {
            Some(username) if members.is_news(user_id, &username, named_at) => {
                let named = Named { user_id, username: &username, named_at };
                let learned = store::learn_usernames(&self.pool, &[named]).await;
                learned.map_err(|error| failed("remember a username", &error))
            }
            _ => Ok(()),
        }
    }

    async fn mark_read(&self, ask: MarkRead) -> Result<Marker, Refusal> {
        let marked = store::mark_read(&self.pool, ask.conversation_id, ask.user_id, ask.message_id)
            .await
            .map_err(|error| failed("move a marker", &error))?;
        match marked {
            Marked::Forbidden => Err(Refusal::forbidden()),
            Marked::NotFound => Err(Refusal::new(Code::NotFound, "no such message in this conversation")),
            Marked::At(marker, None) => Ok(marker),
            Marked::At(marker, Some(outbox_id)) => {
                self.outbox.tell_read(outbox_id, marker).await;
                Ok(marker)
            }
        }
    }

    async fn heads(&self, ask: Heads) -> Result<Vec<ConversationHead>, Refusal> {
        if ask.conversations.len() > limits::HEADS_MAX {
            return Err(invalid("too many conversations at once"));
        }
        let ids: Vec<i64> = ask.conversations.into_iter().map(ConversationId::get).collect();
        store::heads(&self.pool, &ids).await.map_err(|error| failed("read heads", &error))
    }

    async fn create(&self, wanted: CreateConversation) -> Result<Conversation, Refusal> {
        Ok(self.make(wanted).await?.conversation)
    }

    async fn open(&self, OpenConversation(wanted): OpenConversation) -> Result<Opened, Refusal> {
        if self.conversations_by == ConversationsBy::Backends {
            return Err(Refusal::new(
                Code::Forbidden,
                "conversations are started by the marketplace itself here",
            ));
        }
        let others: Vec<UserId> = wanted.participants.iter().skip(1).map(|invitee| invitee.user_id).collect();
        if let Some(opener) = wanted.participants.first() {
            let blocked = store::is_blocked_by_any(&self.pool, opener.user_id, &others).await;
            if blocked.map_err(|error| failed("look for blocks", &error))? {
                return Err(Refusal::new(Code::Blocked, "a participant does not take your messages"));
            }
        }
        self.make(wanted).await
    }

    async fn make(&self, wanted: CreateConversation) -> Result<Opened, Refusal> {
        let viewer = wanted.participants.first().map(|first| first.user_id);
        let (wanted, people) = checked(wanted)?;
        let viewer = viewer.ok_or_else(|| invalid("participants are missing"))?;
        let (users, usernames): (Vec<i64>, Vec<Option<String>>) = people.into_iter().unzip();
        let (id, created) = store::open_conversation(&self.pool, &users, &usernames, &wanted)
            .await
            .map_err(|error| failed("make a conversation", &error))?;
        let conversation = self.one(id, viewer).await?;
        Ok(Opened { conversation, created })
    }

    async fn one(&self, id: ConversationId, viewer: UserId) -> Result<Conversation, Refusal> {
        let found = store::conversations(&self.pool, &[id.get()], viewer)
            .await
            .map_err(|error| failed("read a conversation", &error))?;
        found.into_iter().next().ok_or_else(Refusal::forbidden)
    }

    async fn conversation(&self, ask: GetConversation) -> Result<Conversation, Refusal> {
        self.one(ask.conversation_id, ask.user_id).await
    }

    async fn list(&self, ask: ListConversations) -> Result<Page<Conversation>, Refusal> {
        let limit = ask.limit.clamp(1, limits::PAGE_MAX);
        let listed = store::list(&self.pool, ask.user_id, ask.range, i64::from(limit) + 1)
            .await
            .map_err(|error| failed("list conversations", &error))?;
        let listed = Page::of(listed, usize::from(limit), |listed| listed.cursor());
        let ids: Vec<i64> = listed.items.iter().map(|listed| listed.id).collect();
        let mut items = store::conversations(&self.pool, &ids, ask.user_id)
            .await
            .map_err(|error| failed("read conversations", &error))?;
        let cut = fit(&mut items).map_err(|error| broken("measure a page", &error))?;
        let next = if cut {
            let last = items.last().map(|last| last.conversation_id.get());
            listed.items.iter().find(|listed| Some(listed.id) == last).map(|listed| listed.cursor())
        } else {
            listed.next
        };
        Ok(Page { next, items })
    }

    async fn set_block(&self, ask: SetBlock) -> Result<(), Refusal> {
        let SetBlock { user_id, blocked_id, blocked } = ask;
        if user_id == blocked_id {
            return Err(invalid("nobody blocks themselves"));
        }
        let set = async {
            if blocked {
                store::block(&self.pool, user_id, blocked_id).await?;
            } else {
                store::unblock(&self.pool, user_id, blocked_id).await?;
            }
            store::conversations_of_two(&self.pool, user_id, blocked_id).await
        };
        for conversation_id in set.await.map_err(|error| failed("set a block", &error))? {
            // Soft state: a socket that joins later is told by its page.
            if let Err(error) = self.bus.publish(&TypingBlock { conversation_id, user_id, blocked }).await {
                tracing::warn!(error = format!("{error:#}"), "tell of a block");
            }
        }
        Ok(())
    }

    async fn list_blocks(&self, ask: ListBlocks) -> Result<Page<Participant>, Refusal> {
        let limit = ask.limit.clamp(1, limits::PAGE_MAX);
        let blocks = store::blocks(&self.pool, ask.user_id, ask.range, i64::from(limit) + 1)
            .await
            .map_err(|error| failed("list blocks", &error))?;
        Ok(Page::of(blocks, usize::from(limit), |blocked| blocked.user_id.get()))
    }

    async fn report(&self, ask: MakeReport) -> Result<Reported, Refusal> {
        let reason = ask.reason.trim().to_owned();
        if reason.is_empty() || reason.chars().count() > limits::REASON_CHARS || reason.contains('\0') {
            let max = limits::REASON_CHARS;
            return Err(invalid(format!("\"reason\" is 1 to {max} characters, without NUL")));
        }
        let not_found = || Refusal::new(Code::NotFound, "no such message, for this user");
        let (user_id, message) = match (ask.message_id, ask.user_id) {
            (Some(message_id), None) => {
                let message = store::reports::message_seen_by(&self.pool, message_id, ask.reporter_id).await;
                let message =
                    message.map_err(|error| failed("read a message", &error))?.ok_or_else(not_found)?;
                (message.sender_id, Some(Message { client_id: None, ..message }))
            }
            (None, Some(user_id)) => (user_id, None),
            _ => return Err(invalid("a report names a \"message_id\" or a \"user_id\"")),
        };
        let (report_id, created_at) =
            store::reports::report(&self.pool, ask.reporter_id, user_id, message.as_ref(), &reason)
                .await
                .map_err(|error| failed("keep a report", &error))?;
        let reporter_id = ask.reporter_id;
        let reported = Reported { report_id, reporter_id, user_id, message, reason, created_at };
        reports::tell(&self.bus, &self.pool, &reported).await;
        Ok(reported)
    }

    async fn unread(&self, ask: CountUnread) -> Result<Unread, Refusal> {
        store::unread(&self.pool, ask.user_id).await.map_err(|error| failed("count what is unread", &error))
    }
}

/// Each person once, by id; with a name where one was given.
type People = BTreeMap<i64, Option<String>>;

fn checked(wanted: CreateConversation) -> Result<(CreateConversation, People), Refusal> {
    if wanted.participants.len() > 2 * limits::PARTICIPANTS_MAX {
        return Err(invalid(format!("a conversation has at most {} people", limits::PARTICIPANTS_MAX)));
    }
    let mut people = People::new();
    for Invitee { user_id, username: name } in &wanted.participants {
        let known = people.entry(user_id.get()).or_default();
        *known = name.as_deref().and_then(display_name).or(known.take());
    }
    if !(limits::PARTICIPANTS_MIN..=limits::PARTICIPANTS_MAX).contains(&people.len()) {
        let (min, max) = (limits::PARTICIPANTS_MIN, limits::PARTICIPANTS_MAX);
        return Err(invalid(format!("a conversation has {min} to {max} different people")));
    }
    if wanted.listing_id.is_some_and(|listing| listing < 1) {
        return Err(invalid("\"listing_id\" must be a positive whole number"));
    }
    if wanted.title.as_ref().is_some_and(|title| title.contains('\0')) {
        return Err(invalid("\"title\" holds a NUL character"));
    }
    let title = wanted.title.as_deref().and_then(text::title);
    if title.as_ref().is_some_and(|title| title.chars().count() > limits::TITLE_CHARS) {
        return Err(invalid(format!("\"title\" is at most {} characters", limits::TITLE_CHARS)));
    }
    Ok((CreateConversation { title, ..wanted }, people))
}
