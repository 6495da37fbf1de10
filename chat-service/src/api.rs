//! Handlers of the requests that chat-service answers.

use crate::{
    SERVICE,
    changes::Changes,
    config::ConversationsBy,
    erasures::Erasures,
    error::{checked_reason, encoding_failed, invalid, timed_out},
    export,
    joins::Joins,
    kinds::{CurrentKinds, Origin},
    lanes::Lanes,
    outbox::Outbox,
    reports,
    store::{self, DisplayName, MarkOutcome, Members},
};
use contract::chat::{
    ChangeMessage, ChangePage, Conversation, ConversationHead, CountUnread, CreateConversation,
    DescribeMessages, DescribedMessage, EnsureConversation, GetConversation, GetMessage, Heads, Invitee,
    JoinBatch, JoinReply, Kinds, ListBlocks, ListConversations, ListKinds, ListMessages, ListedMessage,
    MakeReport, MarkRead, Marker, Message, MessagePage, OpenConversation, Opened, PageChanges, PageMessages,
    Participant, RemoveMessage, Reported, Send, SendBatch, SendOne, Sent, SetBlock, StoreOne, StoredOne,
    Unread, UpdateMessage,
};
use contract::{
    Code, ConversationId, Page, Refusal, Request, UserId,
    erasure::{EraseUser, Erasure, Export, ExportUser},
    frames, limits,
    text::{self, display_name},
    typing::TypingBlock,
};
use futures_util::future::join_all;
use service::{
    Bus, Endpoints, Span,
    bus::truncate_page,
    endpoints::deadline,
    postgres::{Pool, refusal},
    trace::{self, Kind},
};
use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Batches in progress at once; more wait in NATS.
const BATCHES: usize = 64;
/// Other requests of one kind in progress at once; more wait in NATS.
const REQUESTS: usize = 32;

/// Exports in progress at once; more wait in NATS.
const EXPORTS: usize = 2;

/// Time for which a batch waits for each of its sends. After that, a send counts as unavailable: it goes on, and its
/// gateway repeats it with the same key. So a send to a locked conversation does not delay the answers to the others, and
/// the gateway, which waits for 1.5 s, receives them.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);
/// Time limit of a request. After that, its sender has already repeated it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// What the handlers need.
pub struct Api {
    pub bus: Bus,
    pub pool: Pool,
    pub lanes: Lanes,
    pub joins: Joins,
    pub outbox: Outbox,
    pub changes: Changes,
    pub erasures: Erasures,
    pub rules: Rules,
}

/// What an operator permits.
pub struct Rules {
    /// The kinds of messages.
    pub kinds: CurrentKinds,
    /// The sender of system messages, if there may be any.
    pub system_user: Option<SystemUser>,
    /// Who may start conversations.
    pub conversations_by: ConversationsBy,
}

/// The sender of system messages.
pub struct SystemUser {
    pub user_id: UserId,
    pub username: String,
}

/// Serves all requests.
///
/// # Errors
/// If subscribing to NATS fails.
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
                    async move {
                        timeout(REQUEST_TIMEOUT, api.$method(request)).await.unwrap_or_else(|_| timed_out())
                    }
                })
                .await?;
        }};
    }
    serve!(SendBatch, BATCHES, send_batch);
    serve!(SendOne, BATCHES, send);
    serve!(StoreOne, BATCHES, store);
    serve!(JoinBatch, REQUESTS, join_batch);
    serve!(PageMessages, REQUESTS, page);
    serve!(MarkRead, REQUESTS, mark_read);
    serve!(ChangeMessage, REQUESTS, change);
    serve!(UpdateMessage, REQUESTS, update);
    serve!(RemoveMessage, REQUESTS, remove);
    serve!(GetMessage, REQUESTS, message);
    serve!(ListMessages, REQUESTS, list_messages);
    serve!(DescribeMessages, REQUESTS, describe_messages);
    serve!(PageChanges, REQUESTS, page_changes);
    serve!(Heads, REQUESTS, heads);
    serve!(CreateConversation, REQUESTS, create);
    serve!(OpenConversation, REQUESTS, open);
    serve!(EnsureConversation, REQUESTS, ensure);
    serve!(GetConversation, REQUESTS, conversation);
    serve!(ListConversations, REQUESTS, list);
    serve!(CountUnread, REQUESTS, unread);
    serve!(SetBlock, REQUESTS, set_block);
    serve!(ListBlocks, REQUESTS, list_blocks);
    serve!(MakeReport, REQUESTS, report);
    serve!(EraseUser, REQUESTS, erase_user);
    serve!(ExportUser, EXPORTS, export_user);
    serve!(ListKinds, REQUESTS, list_kinds);
    Ok(endpoints)
}

impl Api {
    async fn send_batch(&self, batch: SendBatch) -> Result<Vec<Sent>, Refusal> {
        if batch.sends.len() > limits::BATCH_SENDS || batch.sends.iter().any(|send| send.client_id.is_none())
        {
            return Err(invalid("a batch has a limited number of sends, each with a client_id"));
        }
        let spans: Vec<Span> = (0..batch.sends.len())
            .map(|index| Span::under(batch.trace_of(index), SendBatch::SUBJECT, Kind::Server))
            .collect();
        let deadlines = batch.deadlines.into_iter().map(Some).chain(iter::repeat(deadline()));
        let sends = batch.sends.into_iter().zip(spans).zip(deadlines);
        let kinds = self.rules.kinds.get();
        let sent = sends.map(async |((send, span), deadline)| {
            let send = match kinds.check(send, Origin::Users) {
                Ok(send) => send,
                Err(refusal) => return Sent::Refused(refusal),
            };
            let stored = timeout(BATCH_PATIENCE, self.lanes.store(send, span, deadline)).await;
            stored.unwrap_or_else(|_| Sent::Refused(Refusal::unavailable()))
        });
        let mut sent = join_all(sent).await;
        self.as_now(&mut sent).await;
        let brief = |sent| match sent {
            // The gateway doesn't know the text and the data as they are stored.
            Sent::Stored(message) if batch.receipts && message.kind.is_none() => Sent::Placed(message.into()),
            sent => sent,
        };
        Ok(sent.into_iter().map(brief).collect())
    }

    /// Adds the fields of changes to repeated messages. The query that stores messages leaves them out, because few
    /// messages are repeated and fewer have changed.
    async fn as_now(&self, sent: &mut [Sent]) {
        let repeated = sent.iter().filter_map(|sent| match sent {
            Sent::Repeated(message) => Some((message.conversation_id.get(), message.message_id.get())),
            _ => None,
        });
        let (conversations, messages): (Vec<_>, Vec<_>) = repeated.unzip();
        if messages.is_empty() {
            return;
        }
        let read = store::messages(&self.pool, &conversations, &messages).await;
        let read = read.map_err(|error| refusal("read repeated messages", &error));
        for sent in sent {
            let Sent::Repeated(message) = sent else { continue };
            match &read {
                Ok(now) => {
                    if let Some(now) = now.iter().find(|now| now.message_id == message.message_id) {
                        let (is_read, client_id) = (message.is_read, message.client_id.take());
                        *message = Message { is_read, client_id, ..now.clone() };
                    }
                }
                Err(refusal) => *sent = Sent::Refused(refusal.clone()),
            }
        }
    }

    async fn send(&self, send: SendOne) -> Result<Message, Refusal> {
        Ok(self.store(StoreOne(send)).await?.message)
    }

    async fn store(&self, StoreOne(send): StoreOne) -> Result<StoredOne, Refusal> {
        let (sender_id, sender_username) = match (send.sender_id, send.system, &self.rules.system_user) {
            (Some(user), false, _) => (user, send.sender_username.as_deref().and_then(display_name)),
            (None, true, Some(system)) => (system.user_id, display_name(&system.username)),
            (None, true, None) => return Err(invalid("SYSTEM_USER_ID is not set")),
            (None, false, _) => return Err(invalid("\"sender_id\" is missing")),
            (Some(_), true, _) => return Err(invalid("a system message has no \"sender_id\"")),
        };
        let send = Send {
            conversation_id: send.conversation_id,
            sender_id,
            sender_username,
            sender_named_at: send.sender_named_at,
            message: frames::sent_text(send.message.as_deref(), send.kind.as_deref())?,
            client_id: Some(match send.client_id {
                Some(id) => frames::client_id(id)?,
                None => Send::own_key(format_args!("{:032x}", fastrand::u128(..))),
            }),
            kind: send.kind,
            data: send.data.map(frames::checked_data).transpose()?,
            reply_to: send.reply_to,
            system: send.system,
        };
        let send = self.rules.kinds.get().check(send, Origin::Backends)?;
        let span = Span::under(trace::current(), "store", Kind::Internal);
        let mut sent = [self.lanes.store(send, span, deadline()).await];
        self.as_now(&mut sent).await;
        let [sent] = sent;
        match sent {
            Sent::Stored(message) => Ok(StoredOne { message, is_new: true }),
            Sent::Repeated(message) => Ok(StoredOne { message, is_new: false }),
            Sent::Refused(refusal) => Err(refusal),
            // Only replies to batches have receipts.
            Sent::Placed(_) => Err(Refusal::internal()),
        }
    }

    async fn change(&self, request: ChangeMessage) -> Result<Message, Refusal> {
        self.changes.by_sender(request).await
    }

    async fn update(&self, request: UpdateMessage) -> Result<Message, Refusal> {
        self.changes.update(request).await
    }

    async fn remove(&self, request: RemoveMessage) -> Result<Message, Refusal> {
        self.changes.remove(request).await
    }

    async fn message(&self, request: GetMessage) -> Result<Message, Refusal> {
        self.changes.message(request.conversation_id, request.message_id, request.user_id).await
    }

    async fn list_messages(&self, request: ListMessages) -> Result<Page<ListedMessage>, Refusal> {
        self.changes.list(request).await
    }

    async fn describe_messages(&self, request: DescribeMessages) -> Result<Vec<DescribedMessage>, Refusal> {
        if request.messages.len() > limits::DESCRIBED_MESSAGES {
            return Err(invalid("too many messages in one request"));
        }
        let described = store::describe(&self.pool, &request.messages, request.text).await;
        described.map_err(|error| refusal("describe messages", &error))
    }

    async fn page_changes(&self, request: PageChanges) -> Result<ChangePage, Refusal> {
        self.changes.page(request).await
    }

    async fn join_batch(&self, JoinBatch { mut entries }: JoinBatch) -> Result<Vec<JoinReply>, Refusal> {
        if entries.len() > limits::BATCH_JOINS {
            return Err(invalid("too many joins in one batch"));
        }
        for entry in &mut entries {
            entry.username = entry.username.as_deref().and_then(display_name);
        }
        self.joins.admit(entries).await
    }

    async fn page(&self, request: PageMessages) -> Result<MessagePage, Refusal> {
        // Read before the items: if the page is empty, the log ended at this head.
        let members = store::members(&self.pool, request.conversation_id, request.user_id)
            .await
            .map_err(|error| refusal("read a conversation's head", &error))?;
        if let Some(user) = request.user_id {
            self.admit(&members, user, request.username.as_deref(), request.named_at).await?;
        }
        let limit = request.limit.min(limits::PAGE_MAX);
        let mut items = Vec::new();
        if limit > 0 {
            items = store::page(&self.pool, request.conversation_id, request.range, i64::from(limit) + 1)
                .await
                .map_err(|error| refusal("read a page", &error))?;
        }
        let limit = usize::from(limit);
        let mut more = items.len() > limit;
        items.truncate(limit);
        members.show_to(request.user_id, &mut items);
        more |= truncate_page(&mut items).map_err(|error| encoding_failed("measure a page", &error))?;
        Ok(MessagePage {
            items,
            more,
            head: members.head(),
            markers: members.markers(request.conversation_id),
            changes: members.changes(),
            first_seq: members.first_seq(),
        })
    }

    /// Checks that the user is a participant, and saves the name from the token if it is newer.
    async fn admit(
        &self,
        members: &Members,
        user_id: UserId,
        claimed: Option<&str>,
        named_at: Option<i64>,
    ) -> Result<(), Refusal> {
        if !members.contains(user_id) {
            return Err(Refusal::forbidden());
        }
        let named_at = named_at.unwrap_or_default();
        match claimed.and_then(display_name) {
            Some(username) if members.is_newer_name(user_id, &username, named_at) => {
                let named = DisplayName { user_id, username: &username, named_at };
                // The next request saves it: a read does not fail because Postgres accepts no writes.
                if let Err(error) = store::save_usernames(&self.pool, &[named]).await {
                    tracing::warn!(error = service::bus::chain(&error), "save a username");
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn mark_read(&self, request: MarkRead) -> Result<Marker, Refusal> {
        let marked =
            store::mark_read(&self.pool, request.conversation_id, request.user_id, request.message_id)
                .await
                .map_err(|error| refusal("move a marker", &error))?;
        match marked {
            MarkOutcome::Forbidden => Err(Refusal::forbidden()),
            MarkOutcome::NotFound => {
                Err(Refusal::new(Code::NotFound, "no such message in this conversation"))
            }
            MarkOutcome::At(marker, None) => Ok(marker),
            MarkOutcome::At(marker, Some(outbox_id)) => {
                self.outbox.publish_read(outbox_id, marker).await;
                Ok(marker)
            }
        }
    }

    async fn heads(&self, request: Heads) -> Result<Vec<ConversationHead>, Refusal> {
        if request.conversations.len() > limits::HEADS_MAX {
            return Err(invalid("too many conversations in one request"));
        }
        let ids: Vec<i64> = request.conversations.into_iter().map(ConversationId::get).collect();
        store::heads(&self.pool, &ids).await.map_err(|error| refusal("read heads", &error))
    }

    async fn create(&self, request: CreateConversation) -> Result<Conversation, Refusal> {
        Ok(self.create_or_open(request).await?.conversation)
    }

    async fn ensure(&self, EnsureConversation(request): EnsureConversation) -> Result<Opened, Refusal> {
        self.create_or_open(request).await
    }

    async fn open(&self, OpenConversation(request): OpenConversation) -> Result<Opened, Refusal> {
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
        let (id, created) = store::open_conversation(&self.pool, &users, &usernames, &request)
            .await
            .map_err(|error| refusal("create a conversation", &error))?;
        let conversation = self.one(id, viewer).await?;
        Ok(Opened { conversation, created })
    }

    async fn one(&self, id: ConversationId, viewer: UserId) -> Result<Conversation, Refusal> {
        let found = store::conversations(&self.pool, &[id.get()], viewer)
            .await
            .map_err(|error| refusal("read a conversation", &error))?;
        found.into_iter().next().ok_or_else(Refusal::forbidden)
    }

    async fn conversation(&self, request: GetConversation) -> Result<Conversation, Refusal> {
        let id = request.conversation_id;
        let viewer = match request.user_id {
            Some(user) => user,
            None => {
                let participants = store::participants(&self.pool, &[id.get()]).await;
                let participants = participants.map_err(|error| refusal("read participants", &error))?;
                let first = participants.get(&id).and_then(|users| users.iter().min().copied());
                first.ok_or_else(|| Refusal::new(Code::NotFound, "no such conversation"))?
            }
        };
        self.one(id, viewer).await
    }

    async fn list(&self, request: ListConversations) -> Result<Page<Conversation>, Refusal> {
        let limit = request.limit.clamp(1, limits::PAGE_MAX);
        let listed = store::list(&self.pool, request.user_id, request.range, i64::from(limit) + 1)
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

    async fn set_block(&self, request: SetBlock) -> Result<(), Refusal> {
        let SetBlock { user_id, blocked_id, blocked } = request;
        if user_id == blocked_id {
            return Err(invalid("users can't block themselves"));
        }
        let set = async {
            if blocked {
                store::block(&self.pool, user_id, blocked_id).await?;
            } else {
                store::unblock(&self.pool, user_id, blocked_id).await?;
            }
            store::conversations_of_two(&self.pool, user_id, blocked_id).await
        };
        for conversation_id in set.await.map_err(|error| refusal("set a block", &error))? {
            // Soft state: a socket that joins later gets it with the reply to its join.
            if let Err(error) = self.bus.publish(&TypingBlock { conversation_id, user_id, blocked }).await {
                tracing::warn!(error = format!("{error:#}"), "publish a block");
            }
        }
        Ok(())
    }

    async fn list_blocks(&self, request: ListBlocks) -> Result<Page<Participant>, Refusal> {
        let limit = request.limit.clamp(1, limits::PAGE_MAX);
        let blocks = store::blocks(&self.pool, request.user_id, request.range, i64::from(limit) + 1)
            .await
            .map_err(|error| refusal("list blocks", &error))?;
        Ok(Page::of(blocks, usize::from(limit), |blocked| blocked.user_id.get()))
    }

    async fn report(&self, request: MakeReport) -> Result<Reported, Refusal> {
        let reason = checked_reason(&request.reason)?.to_owned();
        let not_found = || Refusal::new(Code::NotFound, "no such message in this user's conversations");
        let (user_id, message) = match (request.message_id, request.user_id) {
            (Some(message_id), None) => {
                let message =
                    store::reports::message_seen_by(&self.pool, message_id, request.reporter_id).await;
                let message =
                    message.map_err(|error| refusal("read a message", &error))?.ok_or_else(not_found)?;
                (message.sender_id, Some(Message { client_id: None, ..message }))
            }
            (None, Some(user_id)) => (user_id, None),
            _ => return Err(invalid("a report needs either \"message_id\" or \"user_id\"")),
        };
        let (report_id, created_at) =
            store::reports::report(&self.pool, request.reporter_id, user_id, message.as_ref(), &reason)
                .await
                .map_err(|error| refusal("store a report", &error))?;
        let reporter_id = request.reporter_id;
        let reported = Reported { report_id, reporter_id, user_id, message, reason, created_at };
        reports::publish(&self.bus, &self.pool, &reported).await;
        Ok(reported)
    }

    async fn erase_user(&self, request: EraseUser) -> Result<Erasure, Refusal> {
        self.erasures.start(request).await
    }

    async fn export_user(&self, request: ExportUser) -> Result<Export, Refusal> {
        export::page(&self.bus, &self.pool, request).await
    }

    async fn list_kinds(&self, ListKinds {}: ListKinds) -> Result<Kinds, Refusal> {
        Ok(self.rules.kinds.get().list())
    }

    async fn unread(&self, request: CountUnread) -> Result<Unread, Refusal> {
        store::unread(&self.pool, request.user_id)
            .await
            .map_err(|error| refusal("count unread messages", &error))
    }
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
