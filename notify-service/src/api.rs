//! Handlers of the gateways' requests.

use crate::erasure;
use crate::inboxes::{Inboxes, StoreError};
use crate::preferences::{self, PreferencesError};
use crate::presence::PresenceStore;
use crate::store::{self, PageQuery};
use contract::{
    Code, Lang, Page, Refusal, UserId,
    erasure::{DeleteInbox, RenameSender},
    limits,
    log::{Head, Range},
    notify::{
        ArchiveNotification, InboxHead, InboxHeads, InboxRead, MarkNotification, MarkSeen, NotificationPage,
        PageNotifications, RememberLanguages,
    },
    preferences::{GetPreferences, SetPreferences},
    presence::{GetShown, SetShown, Who},
};
use service::{Endpoints, bus::PAYLOAD_BYTES, postgres};
use std::collections::BTreeMap;

/// Requests of each kind in progress at once.
const CONCURRENCY: usize = 32;
/// Requests of erasures of each kind in progress at once.
const ERASURES: usize = 2;
/// Maximum size of a page's items in bytes. The rest of the payload is for the other fields.
const PAGE_BYTES: usize = PAYLOAD_BYTES - 8 * 1024;

/// Serves all requests.
///
/// # Errors
/// If subscribing to NATS fails.
pub async fn serve(
    endpoints: &Endpoints,
    inboxes: &Inboxes,
    presences: &PresenceStore,
) -> anyhow::Result<()> {
    serve_presence(endpoints, presences).await?;
    let (pages, marks, heads, languages) =
        (inboxes.clone(), inboxes.clone(), inboxes.clone(), inboxes.clone());
    endpoints
        .serve::<PageNotifications, _, _>(CONCURRENCY, move |request| {
            let inboxes = pages.clone();
            async move { page(&inboxes, request).await }
        })
        .await?;
    endpoints
        .serve::<MarkNotification, _, _>(CONCURRENCY, move |request| {
            let inboxes = marks.clone();
            async move { mark(&inboxes, request).await }
        })
        .await?;
    let (views, archives) = (inboxes.clone(), inboxes.clone());
    endpoints
        .serve::<MarkSeen, _, _>(CONCURRENCY, move |request| {
            let inboxes = views.clone();
            async move { inboxes.mark_seen(&request).await.map_err(|error| refusal(&error)) }
        })
        .await?;
    endpoints
        .serve::<ArchiveNotification, _, _>(CONCURRENCY, move |request| {
            let inboxes = archives.clone();
            async move { inboxes.archive(&request).await.map_err(|error| refusal(&error)) }
        })
        .await?;
    endpoints
        .serve::<RememberLanguages, _, _>(CONCURRENCY, move |request| {
            let inboxes = languages.clone();
            async move { save_languages(&inboxes, request).await }
        })
        .await?;
    endpoints
        .serve::<InboxHeads, _, _>(CONCURRENCY, move |request| {
            let inboxes = heads.clone();
            async move { inbox_heads(&inboxes, request).await }
        })
        .await?;
    let (reads, changes) = (inboxes.clone(), inboxes.clone());
    endpoints
        .serve::<GetPreferences, _, _>(CONCURRENCY, move |request| {
            let inboxes = reads.clone();
            async move { preferences::get(&inboxes, request.user_id).await.map_err(|error| refusal(&error)) }
        })
        .await?;
    endpoints
        .serve::<SetPreferences, _, _>(CONCURRENCY, move |request| {
            let inboxes = changes.clone();
            async move {
                preferences::set(&inboxes, &request).await.map_err(|error| match error {
                    PreferencesError::Store(error) => refusal(&error),
                    PreferencesError::Invalid(detail) => Refusal::new(Code::InvalidRequest, detail),
                })
            }
        })
        .await?;
    let (renames, deletions, erased) = (inboxes.clone(), inboxes.clone(), presences.clone());
    endpoints
        .serve::<RenameSender, _, _>(ERASURES, move |request| {
            let inboxes = renames.clone();
            async move { erasure::rename(&inboxes, &request).await.map_err(|error| refusal(&error)) }
        })
        .await?;
    endpoints
        .serve::<DeleteInbox, _, _>(ERASURES, move |request| {
            let (inboxes, presences) = (deletions.clone(), erased.clone());
            async move {
                let progress = erasure::delete(&inboxes, request).await.map_err(|error| refusal(&error))?;
                if !progress.more {
                    presences.erased(request.user_id).await;
                }
                Ok(progress)
            }
        })
        .await
}

async fn serve_presence(endpoints: &Endpoints, presences: &PresenceStore) -> anyhow::Result<()> {
    let (who, shown, hides) = (presences.clone(), presences.clone(), presences.clone());
    endpoints
        .serve::<Who, _, _>(CONCURRENCY, move |request| {
            let presences = who.clone();
            async move { presences.who(request).await }
        })
        .await?;
    endpoints
        .serve::<GetShown, _, _>(CONCURRENCY, move |request| {
            let presences = shown.clone();
            async move { presences.shown(request).await }
        })
        .await?;
    endpoints
        .serve::<SetShown, _, _>(CONCURRENCY, move |request| {
            let presences = hides.clone();
            async move { presences.set_shown(request).await }
        })
        .await
}

async fn page(inboxes: &Inboxes, request: PageNotifications) -> Result<NotificationPage, Refusal> {
    let user = request.user_id;
    let query = PageQuery {
        user,
        unread: request.unread,
        hides_archived: request.hides_archived,
        limit: request.limit.min(limits::PAGE_MAX),
        bytes: i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX),
    };
    let read = async || {
        // The items are read before the head, so that the head is never older than they are.
        let (items, more) = match request.range {
            _ if query.limit == 0 => (Vec::new(), false),
            Range::Newest => store::page_before(inboxes.pool(), i64::MAX, query).await?,
            Range::Before(id) => store::page_before(inboxes.pool(), id, query).await?,
            Range::After(id) => store::page_after(inboxes.pool(), id, query).await?,
        };
        Ok((items, more, store::inbox(inboxes.pool(), user).await?.unwrap_or_default()))
    };
    let (mut items, more, inbox) = inboxes.with_retry(read).await.map_err(|error| refusal(&error))?;
    for item in &mut items {
        item.unread_count = inbox.unread_count;
        item.unseen_count = inbox.seen.map(|seen| seen.unseen_count);
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
        seen: inbox.seen,
    })
}

async fn save_languages(inboxes: &Inboxes, request: RememberLanguages) -> Result<(), Refusal> {
    if request.seen.len() > limits::LANGUAGES_MAX {
        let detail = format!("at most {} users", limits::LANGUAGES_MAX);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    let seen: BTreeMap<UserId, Lang> = request.seen.into_iter().collect();
    let stored = inboxes.with_retry(async || Ok(store::save_languages(inboxes.pool(), &seen).await?)).await;
    stored.map_err(|error| refusal(&error))
}

async fn mark(inboxes: &Inboxes, request: MarkNotification) -> Result<Option<InboxRead>, Refusal> {
    inboxes.mark(&request).await.map_err(|error| refusal(&error))
}

async fn inbox_heads(inboxes: &Inboxes, request: InboxHeads) -> Result<Vec<InboxHead>, Refusal> {
    if request.users.len() > limits::HEADS_MAX {
        let detail = format!("at most {} users", limits::HEADS_MAX);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    let users: Vec<i64> = request.users.iter().map(|user| user.get()).collect();
    let heads = inboxes.with_retry(async || Ok(store::heads(inboxes.pool(), &users).await?)).await;
    heads.map_err(|error| refusal(&error))
}

/// The refusal of a request that failed. The cause is only logged.
fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::NotFound => Refusal::new(Code::NotFound, "no such notification"),
        StoreError::TimedOut => {
            tracing::warn!("a request to Postgres timed out");
            Refusal::unavailable()
        }
        StoreError::Full => Refusal::unavailable(),
        StoreError::Sql(error) => postgres::refusal("serve a request", error),
    }
}
