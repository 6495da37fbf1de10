//! Handlers of the requests that chat-service answers.

mod conversations;
mod sending;

use crate::{
    SERVICE,
    changes::Changes,
    config::ConversationsBy,
    erasures::Erasures,
    error::{checked_reason, encoding_failed, invalid, timed_out},
    export,
    joins::Joins,
    kinds::CurrentKinds,
    lanes::Lanes,
    listing,
    outbox::Outbox,
    reports, soft_state,
    store::{self, DisplayName, MarkOutcome, Members},
};
use contract::chat::{
    ChangeMessage, ChangePage, ConversationHead, CountUnread, CreateConversation, DescribeMessages,
    DescribedMessage, EnsureConversation, FindBlocks, FindPeople, GetConversation, GetMessage, Heads,
    JoinBatch, JoinReply, Kinds, ListBlocks, ListConversations, ListKinds, ListMessages, ListVersions,
    ListedMessage, MakeReport, MarkRead, Marker, Message, MessagePage, OpenConversation, PAIRS_MAX,
    PageChanges, PageMessages, Participant, Person, RemoveMessage, Reported, SendBatch, SendOne, SetBlock,
    SetMine, StoreOne, Unread, UpdateMessage,
};
use contract::{
    Code, ConversationId, Page, Refusal, UserId,
    erasure::{EraseUser, Erasure, Export, ExportUser},
    limits,
    presence::READ_MAX,
    text::display_name,
};
use service::{
    Bus, Endpoints,
    bus::truncate_page,
    postgres::{Pool, refusal},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Batches in progress at once; more wait in NATS.
const BATCHES: usize = 64;
/// Other requests of one kind in progress at once; more wait in NATS.
const REQUESTS: usize = 32;
/// Exports in progress at once; more wait in NATS.
const EXPORTS: usize = 2;

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
    serve!(ListVersions, REQUESTS, list_versions);
    serve!(DescribeMessages, REQUESTS, describe_messages);
    serve!(PageChanges, REQUESTS, page_changes);
    serve!(Heads, REQUESTS, heads);
    serve!(CreateConversation, REQUESTS, create);
    serve!(OpenConversation, REQUESTS, open);
    serve!(EnsureConversation, REQUESTS, ensure);
    serve!(GetConversation, REQUESTS, conversation);
    serve!(ListConversations, REQUESTS, list);
    serve!(SetMine, REQUESTS, set_mine);
    serve!(CountUnread, REQUESTS, unread);
    serve!(SetBlock, REQUESTS, set_block);
    serve!(ListBlocks, REQUESTS, list_blocks);
    serve!(FindPeople, REQUESTS, find_people);
    serve!(FindBlocks, REQUESTS, find_blocks);
    serve!(MakeReport, REQUESTS, report);
    serve!(EraseUser, REQUESTS, erase_user);
    serve!(ExportUser, EXPORTS, export_user);
    serve!(ListKinds, REQUESTS, list_kinds);
    Ok(endpoints)
}

impl Api {
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

    async fn list_messages(&self, request: ListMessages) -> Result<Page<Message>, Refusal> {
        listing::messages(&self.pool, &request).await
    }

    async fn list_versions(&self, request: ListVersions) -> Result<Page<ListedMessage>, Refusal> {
        listing::versions(&self.pool, &request).await
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

    async fn set_mine(&self, request: SetMine) -> Result<(), Refusal> {
        let SetMine { user_id, conversation_id, changes } = request;
        let mine = store::set_mine(&self.pool, conversation_id, user_id, changes).await;
        let mine = mine.map_err(|error| refusal("change a conversation's settings", &error))?;
        let (mine, outbox_id) = mine.ok_or_else(Refusal::forbidden)?;
        if let Some(outbox_id) = outbox_id {
            self.outbox.publish_mute(outbox_id, user_id, mine).await;
        }
        if let Err(error) = soft_state::publish_mine(&self.bus, &self.pool, conversation_id, user_id).await {
            tracing::warn!(error = format!("{error:#}"), "publish a conversation's settings");
        }
        Ok(())
    }

    async fn set_block(&self, request: SetBlock) -> Result<(), Refusal> {
        let SetBlock { user_id, blocked_id, blocked } = request;
        if user_id == blocked_id {
            return Err(invalid("users can't block themselves"));
        }
        let set = match blocked {
            true => store::block(&self.pool, user_id, blocked_id).await,
            false => store::unblock(&self.pool, user_id, blocked_id).await,
        };
        set.map_err(|error| refusal("set a block", &error))?;
        if let Err(error) = soft_state::publish_block(&self.bus, &self.pool, user_id, blocked_id).await {
            tracing::warn!(error = format!("{error:#}"), "publish a block");
        }
        Ok(())
    }

    async fn find_people(&self, request: FindPeople) -> Result<Vec<Person>, Refusal> {
        if request.others.len() > READ_MAX {
            return Err(invalid("too many users in one request"));
        }
        let others: Vec<i64> = request.others.iter().map(|user| user.get()).collect();
        let find = async {
            let sharing = store::sharing(&self.pool, request.user_id, &others).await?;
            store::people(&self.pool, request.user_id, &sharing).await
        };
        find.await.map_err(|error| refusal("find people", &error))
    }

    async fn find_blocks(&self, request: FindBlocks) -> Result<Vec<(UserId, UserId)>, Refusal> {
        if request.pairs.len() > PAIRS_MAX {
            return Err(invalid("too many pairs in one request"));
        }
        let found = store::blocked_pairs(&self.pool, &request.pairs).await;
        found.map_err(|error| refusal("find blocks", &error))
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
