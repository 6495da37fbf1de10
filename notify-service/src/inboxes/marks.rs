//! What users read, see and archive.

use super::{Inboxes, StoreError};
use crate::{
    ops::Membership,
    plan::{Changes, Inbox, InboxUpdate, LastRead},
    settled,
    store::{self, DecisionPlace, Marked, SettledRow, telling},
};
use contract::{
    NotificationId, Timestamp, UserId,
    notify::{ArchiveNotification, InboxEvent, InboxRead, InboxSeen, MarkNotification, MarkSeen, ReadPlace},
};
use service::trace;
use sqlx::PgConnection;
use std::collections::HashMap;

/// The outcome of marking notifications as read.
struct Read {
    /// The last read; `None` if the inbox is empty.
    last: Option<InboxRead>,
    /// Its position; `None` if everything had been read before.
    place: Option<ReadPlace>,
}

impl Inboxes {
    /// Marks one or all of a user's notifications as read. Returns `None` if the inbox is empty.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the user has no such notification.
    pub async fn mark(&self, request: &MarkNotification) -> Result<Option<InboxRead>, StoreError> {
        let MarkNotification { user_id, notification_id } = *request;
        let read = self.with_retry(async || self.mark_stored(user_id, notification_id, false).await).await?;
        self.publish_read(user_id, read).await
    }

    /// Archives a notification of a user and marks it as read.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the user has no such notification.
    pub async fn archive(&self, request: &ArchiveNotification) -> Result<(), StoreError> {
        let ArchiveNotification { user_id, notification_id } = *request;
        let stored = async || self.mark_stored(user_id, Some(notification_id), true).await;
        let read = self.with_retry(stored).await?;
        self.publish_read(user_id, read).await.map(drop)
    }

    /// Moves the marker of what a user has seen forward, and publishes it. Returns the marker.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the user has no such notification.
    pub async fn mark_seen(&self, request: &MarkSeen) -> Result<InboxSeen, StoreError> {
        let MarkSeen { user_id: user, notification_id } = *request;
        let (seen, place) = self
            .with_retry(async || {
                let mut tx = self.pool.begin().await?;
                let before =
                    store::lock_inboxes(&mut tx, &[user.get()]).await?.remove(&user).unwrap_or_default();
                if !store::mark_seen(&mut tx, user, notification_id).await? {
                    return Err(StoreError::NotFound);
                }
                let inbox = store::inbox(&mut *tx, user).await?.unwrap_or_default();
                tx.commit().await?;
                let seen = inbox.seen.ok_or(StoreError::NotFound)?;
                Ok((seen, (before.reads < inbox.reads).then(|| inbox.read_place())))
            })
            .await?;
        if place.is_some() {
            let update = InboxUpdate { user, event: InboxEvent::seen(seen), place };
            self.publish(&update, trace::current()).await;
        }
        Ok(seen)
    }

    async fn publish_read(&self, user: UserId, read: Read) -> Result<Option<InboxRead>, StoreError> {
        let Read { last, place } = read;
        if let (Some(read), Some(_)) = (last, place) {
            let update = InboxUpdate { user, event: InboxEvent::Read(read), place };
            self.publish(&update, trace::current()).await;
        }
        Ok(last)
    }

    async fn mark_stored(
        &self,
        user: UserId,
        notification: Option<NotificationId>,
        archives: bool,
    ) -> Result<Read, StoreError> {
        let mut tx = self.pool.begin().await?;
        let inbox = store::lock_inboxes(&mut tx, &[user.get()]).await?.remove(&user).unwrap_or_default();
        let Some(last) = NotificationId::new(inbox.last_id).ok() else {
            return if notification.is_some() {
                Err(StoreError::NotFound)
            } else {
                Ok(Read { last: None, place: None })
            };
        };
        let mut subject = None;
        let marked = match notification {
            Some(id) => match store::mark_one(&mut tx, user, id).await? {
                Some((marked, conversation)) => {
                    subject = Some(
                        conversation.map_or(format!("n{id}"), |conversation| format!("c{conversation}")),
                    );
                    marked
                }
                None => {
                    let at = store::read_at(&mut tx, user, id).await?.ok_or(StoreError::NotFound)?;
                    Marked { at, count: 0, reminded: false }
                }
            },
            None => store::mark_all(&mut tx, user).await?,
        };
        if let Some(id) = notification.filter(|_| archives) {
            store::archive(&mut tx, user, id).await?;
        }
        let Marked { at, count, reminded } = marked;
        let (id, all) = (notification.unwrap_or(last), notification.is_none());
        let last_read = Some(LastRead { id, at: at.into(), all });
        let mut inbox = Inbox { last_read, reads: inbox.reads + 1, ..inbox };
        if !all && count > 0 {
            inbox.count_read(id);
        } else if all {
            inbox.unread_count -= count;
            inbox.seen = inbox.seen.map(|seen| InboxSeen { unseen_count: 0, ..seen });
        }
        let (last, place) = (inbox.read(), (count > 0).then(|| inbox.read_place()));
        if count > 0 {
            store::update_inboxes(&mut tx, &HashMap::from([(user, inbox)])).await?;
        }
        let is_settled =
            count > 0 && reminded && self.end_episodes(&mut tx, user, subject, at.into()).await?;
        tx.commit().await?;
        if is_settled {
            self.wake_publisher();
        }
        Ok(Read { last, place })
    }

    /// The names of the steps whose reminders are settled.
    fn settling(&self) -> Vec<&str> {
        self.steps.iter().filter(|step| step.settle).map(|step| step.name.as_str()).collect()
    }

    /// Ends the episodes of what was marked: one conversation or notification, or with `None`, all. Returns
    /// whether there are events to publish after the commit.
    async fn end_episodes(
        &self,
        tx: &mut PgConnection,
        user: UserId,
        subject: Option<String>,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let (steps, user) = (self.settling(), user.get());
        let settled = match subject {
            Some(subject) => store::end_episodes(tx, &steps, &[user], &[subject]).await?,
            None => store::end_all_episodes(tx, &steps, user).await?,
        };
        tell_settled(tx, settled, at).await
    }

    /// Lets the reminders follow what has changed: ends the episodes of conversations that were read, starts those
    /// later that were read in part, and decides again about what is muted or not. Returns whether there are events to
    /// publish after the commit.
    pub(super) async fn follow(
        &self,
        tx: &mut PgConnection,
        changes: &Changes,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut settled = Vec::new();
        if !changes.ended.is_empty() {
            let (users, subjects) = subjects(changes.ended.iter());
            settled = store::end_episodes(tx, &self.settling(), &users, &subjects).await?;
        }
        if !changes.shortened.is_empty() {
            let steps: Vec<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
            let shortened = &changes.shortened;
            settled.extend(store::shorten_episodes(tx, (&steps, &self.settling()), shortened).await?);
        }
        if !changes.mutes.is_empty() {
            let (users, subjects) = subjects(changes.mutes.keys());
            store::decide_subjects_again(tx, &users, &subjects, true).await?;
        }
        let superseding = changes.added.iter().filter(|added| added.shown.replaces.is_some());
        let superseding: Vec<Membership> = superseding
            .filter_map(|added| Some((added.user, added.summary.as_ref()?.conversation)))
            .collect();
        if !superseding.is_empty() {
            let (users, subjects) = subjects(superseding.iter());
            store::decide_subjects_again(tx, &users, &subjects, false).await?;
        }
        tell_settled(tx, settled, at).await
    }
}

/// What was deleted of some decisions about reminders that were looked through.
#[derive(Debug)]
pub struct Forgotten {
    /// Number of decisions that nothing needs.
    pub count: usize,
    /// Where to continue; `None` if all were looked through.
    pub next: Option<DecisionPlace>,
}

impl Inboxes {
    /// Looks through the next `limit` decisions about reminders, and deletes those that nothing needs: about what was
    /// read while no reminders were configured, and of steps that are gone for good.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn forget_needless(&self, after: &DecisionPlace, limit: i64) -> Result<Forgotten, StoreError> {
        let (forgotten, is_settled) = self
            .with_retry(async || {
                let mut tx = self.pool.begin().await?;
                let recent = store::recent_steps(&mut tx).await?;
                let steps = self.steps.iter().map(|step| step.name.as_str());
                let steps: Vec<&str> = steps.chain(recent.iter().map(String::as_str)).collect();
                let needless = store::needless(&mut tx, &steps, after, limit).await?;
                let (found, next) = (needless.found, needless.last);
                let forgotten = Forgotten { count: found.len(), next };
                if found.is_empty() {
                    return Ok((forgotten, false));
                }
                let mut users: Vec<i64> = found.iter().map(|place| place.user).collect();
                users.dedup();
                store::lock_inboxes(&mut tx, &users).await?;
                let settled = store::forget_needless(&mut tx, &self.settling(), &steps, &found).await?;
                let is_settled = tell_settled(&mut tx, settled, Timestamp::now()).await?;
                tx.commit().await?;
                Ok((forgotten, is_settled))
            })
            .await?;
        if is_settled {
            self.wake_publisher();
        }
        Ok(forgotten)
    }
}

/// The users, and the subjects of the conversations.
fn subjects<'a>(memberships: impl Iterator<Item = &'a Membership>) -> (Vec<i64>, Vec<String>) {
    memberships.map(|(user, conversation)| (user.get(), format!("c{conversation}"))).unzip()
}

async fn tell_settled(
    tx: &mut PgConnection,
    settled: Vec<SettledRow>,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let events = settled::events(settled, at).map_err(|error| sqlx::Error::Encode(error.into()))?;
    if !events.is_empty() {
        telling::add(tx, &events).await?;
    }
    Ok(!events.is_empty())
}
