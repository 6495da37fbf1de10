//! What gateways ask.

use crate::inboxes::{Inboxes, StoreError};
use crate::store::{self, Part};
use contract::{
    Code, Lang, Page, Refusal, UserId, limits,
    log::{Head, Range},
    notify::{
        InboxHead, InboxHeads, InboxRead, MarkNotification, NotificationPage, PageNotifications,
        RememberLanguages,
    },
};
use service::{Endpoints, bus::PAYLOAD_BYTES, bus::chain};
use std::collections::BTreeMap;

/// Answers of each kind that are under way at once.
const CONCURRENCY: usize = 32;
/// Bytes of a page, with room for what is around its items.
const PAGE_BYTES: usize = PAYLOAD_BYTES - 8 * 1024;

/// Listens to what is asked.
///
/// # Errors
/// When NATS can't be asked.
pub async fn serve(endpoints: &Endpoints, inboxes: &Inboxes) -> anyhow::Result<()> {
    let (pages, marks, heads, languages) =
        (inboxes.clone(), inboxes.clone(), inboxes.clone(), inboxes.clone());
    endpoints
        .serve::<PageNotifications, _, _>(CONCURRENCY, move |question| {
            let inboxes = pages.clone();
            async move { page(&inboxes, question).await }
        })
        .await?;
    endpoints
        .serve::<MarkNotification, _, _>(CONCURRENCY, move |question| {
            let inboxes = marks.clone();
            async move { mark(&inboxes, question).await }
        })
        .await?;
    endpoints
        .serve::<RememberLanguages, _, _>(CONCURRENCY, move |question| {
            let inboxes = languages.clone();
            async move { remember(&inboxes, question).await }
        })
        .await?;
    endpoints
        .serve::<InboxHeads, _, _>(CONCURRENCY, move |question| {
            let inboxes = heads.clone();
            async move { inbox_heads(&inboxes, question).await }
        })
        .await
}

async fn page(inboxes: &Inboxes, question: PageNotifications) -> Result<NotificationPage, Refusal> {
    let user = question.user_id;
    let part = Part {
        user,
        unread: question.unread,
        limit: question.limit.min(limits::PAGE_MAX),
        bytes: i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX),
    };
    let read = async || {
        // The items before the head, which is never older than they are.
        let (items, more) = match question.range {
            _ if part.limit == 0 => (Vec::new(), false),
            Range::Newest => store::page_before(inboxes.pool(), i64::MAX, part).await?,
            Range::Before(id) => store::page_before(inboxes.pool(), id, part).await?,
            Range::After(id) => store::page_after(inboxes.pool(), id, part).await?,
        };
        Ok((items, more, store::inbox(inboxes.pool(), user).await?.unwrap_or_default()))
    };
    let (mut items, more, inbox) = inboxes.steady(read).await.map_err(|error| refusal(&error))?;
    for item in &mut items {
        item.unread_count = inbox.unread_count;
    }
    let next = items.last().filter(|_| more).map(|last| last.notification_id.get());
    Ok(NotificationPage {
        page: Page { items, next },
        head: Head { seq: inbox.last_seq, id: inbox.last_id },
        unread_count: inbox.unread_count,
        last_read: inbox.read(),
        reads: Some(inbox.reads),
        moves: Some(inbox.moves),
        last_moved: inbox.last_moved,
    })
}

async fn remember(inboxes: &Inboxes, question: RememberLanguages) -> Result<(), Refusal> {
    if question.seen.len() > limits::LANGUAGES_MAX {
        let detail = format!("at most {} users", limits::LANGUAGES_MAX);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    let seen: BTreeMap<UserId, Lang> = question.seen.into_iter().collect();
    let stored = inboxes.steady(async || Ok(store::remember_languages(inboxes.pool(), &seen).await?)).await;
    stored.map_err(|error| refusal(&error))
}

async fn mark(inboxes: &Inboxes, question: MarkNotification) -> Result<Option<InboxRead>, Refusal> {
    inboxes.mark(&question).await.map_err(|error| refusal(&error))
}

async fn inbox_heads(inboxes: &Inboxes, question: InboxHeads) -> Result<Vec<InboxHead>, Refusal> {
    if question.users.len() > limits::HEADS_MAX {
        let detail = format!("at most {} users", limits::HEADS_MAX);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    let users: Vec<i64> = question.users.iter().map(|user| user.get()).collect();
    let heads = inboxes.steady(async || Ok(store::heads(inboxes.pool(), &users).await?)).await;
    heads.map_err(|error| refusal(&error))
}

/// What a client is told of an error. The cause goes to the log only.
fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::NotFound => Refusal::new(Code::NotFound, "no such notification"),
        error if error.is_passing() => {
            tracing::warn!(error = chain(error), "a question waits for Postgres");
            Refusal::unavailable()
        }
        error => {
            tracing::error!(error = chain(error), "a question can't be answered");
            Refusal::new(Code::Internal, "a fault of the server")
        }
    }
}
