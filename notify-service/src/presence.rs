//! What is stored and told about users' presence: when they were last seen, and who hides.

use crate::{
    inboxes::{Inboxes, StoreError},
    outbox::Outbox,
    store::{
        self, PresenceRow, Telling,
        telling::{self, Outgoing},
    },
};
use contract::{
    Code, Event, Refusal, Timestamp, UserId,
    presence::{
        BackendPresence, Changed, GetShown, SEEN_STEP, SetShown, StoredPresence, UserNews, UserNewsKind,
        UserPresence, WHO_MAX, Who, WhoReply, rounded,
    },
};
use service::{Presence, bus::chain, presence};
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;

/// Maximum number of publications of a state that keeps changing.
const PUBLICATIONS: usize = 8;
/// Time for which a publication waits until the client has sent it. Without NATS, it is sent later.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of users in one statement.
const BATCH: usize = 1_000;
/// Pause between two statements that remove times, so that other transactions don't wait for long.
const FORGET_PAUSE: Duration = Duration::from_millis(100);
/// Time after which such a statement that failed is repeated.
const FORGET_RETRY: Duration = Duration::from_secs(30);

/// Users' presence as this service knows and stores it. Cheap to clone.
#[derive(Clone)]
pub struct PresenceStore {
    inboxes: Inboxes,
    /// The users who are present; `None` if presence is switched off.
    present: Option<Presence>,
    /// Tells backends; `None` if they are not told.
    outbox: Option<Outbox>,
}

/// A change of a user's presence that backends are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The user.
    pub user_id: UserId,
    /// Whether the user is present.
    pub is_present: bool,
    /// When that changed.
    pub at: Timestamp,
}

impl PresenceStore {
    /// Combines what is stored with the users who are present.
    pub const fn new(inboxes: Inboxes, present: Option<Presence>, outbox: Option<Outbox>) -> Self {
        Self { inboxes, present, outbox }
    }

    /// Whether a user hides.
    fn hides(&self, stored: PresenceRow) -> bool {
        stored.hidden.unwrap_or(self.inboxes.hides_by_default())
    }

    /// Answers a request for the presence of users.
    ///
    /// # Errors
    /// If there are too many users, presence is switched off, this replica does not know all present users yet, or
    /// Postgres fails.
    pub async fn who(&self, Who { user_ids }: Who) -> Result<WhoReply, Refusal> {
        if user_ids.len() > WHO_MAX {
            return Err(Refusal::new(Code::InvalidRequest, format!("at most {WHO_MAX} users")));
        }
        let off = || Refusal::new(Code::InvalidRequest, "presence is switched off");
        let present = self.present.as_ref().ok_or_else(off)?;
        if !present.is_settled() {
            return Err(Refusal::unavailable());
        }
        self.read(user_ids).await.map(|items| WhoReply { items }).map_err(|error| refusal(&error))
    }

    /// The presence of these users, in their order.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn read(&self, users: Vec<UserId>) -> Result<Vec<BackendPresence>, StoreError> {
        let ids: Vec<i64> = users.iter().map(|user| user.get()).collect();
        let read = async || Ok(store::presences(self.inboxes.pool(), &ids).await?);
        let stored = self.inboxes.with_retry(read).await?;
        let item = |user_id: UserId| {
            let stored = stored.get(&user_id).copied().unwrap_or_default();
            if self.hides(stored) {
                return BackendPresence::Hidden { user_id, hidden: true };
            }
            let online = self.is_present(user_id);
            BackendPresence::Shown(UserPresence {
                user_id,
                online,
                last_seen: stored.seen_at.filter(|_| !online),
            })
        };
        Ok(users.into_iter().map(item).collect())
    }

    /// Answers a request for what is stored about a user.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn shown(&self, GetShown { user_id }: GetShown) -> Result<StoredPresence, Refusal> {
        let read = async || Ok(store::presences(self.inboxes.pool(), &[user_id.get()]).await?);
        let stored = self.inboxes.with_retry(read).await.map_err(|error| refusal(&error))?;
        let stored = stored.get(&user_id).copied().unwrap_or_default();
        Ok(StoredPresence {
            shown: !self.hides(stored),
            choice: stored.hidden.map(|hidden| !hidden),
            last_seen: stored.seen_at,
        })
    }

    /// Hides or shows a user's presence, and tells the gateways.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn set_shown(&self, SetShown { user_id, shown }: SetShown) -> Result<(), Refusal> {
        let hidden = !shown;
        let write = async || Ok(store::set_hidden(self.inboxes.pool(), user_id, hidden).await?);
        self.inboxes.with_retry(write).await.map_err(|error| refusal(&error))?;
        // At once, and first: otherwise, the next event would say when a user who hides left.
        let is_present = self.is_present(user_id);
        if let Err(error) = self.tell(vec![Settled { user_id, is_present, at: Timestamp::now() }]).await {
            tracing::warn!(error = chain(&error), "tell backends who hides; told with the next change");
        }
        self.publish_hidden(user_id, hidden).await;
        Ok(())
    }

    /// Tells the gateways that nothing is stored about a user any longer, who was erased.
    pub async fn erased(&self, user: UserId) {
        if self.present.is_some() {
            self.publish_hidden(user, self.inboxes.hides_by_default()).await;
        }
    }

    fn is_present(&self, user: UserId) -> bool {
        self.present.as_ref().is_some_and(|present| present.is_present(user))
    }

    /// Tells the gateways whether a user hides. What is stored is read again after it was published, because another
    /// replica may have changed it meanwhile. Gateways compare from time to time, in case even that was too early.
    async fn publish_hidden(&self, user_id: UserId, mut hidden: bool) {
        for _ in 0..PUBLICATIONS {
            let kind = UserNewsKind::Hidden { hidden, online: self.is_present(user_id) };
            let publish = async {
                self.inboxes.bus().publish(&UserNews { user_id, kind }).await?;
                timeout(FLUSH_TIMEOUT, self.inboxes.bus().client().flush()).await??;
                let read = async || Ok(store::presences(self.inboxes.pool(), &[user_id.get()]).await?);
                let stored = self.inboxes.with_retry(read).await?;
                anyhow::Ok(self.hides(stored.get(&user_id).copied().unwrap_or_default()))
            };
            match publish.await {
                Ok(stored) if stored == hidden => return,
                Ok(stored) => hidden = stored,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "publish who hides; gateways read it later");
                    return;
                }
            }
        }
    }

    /// Stores events for backends about those of these users whose presence, as others see it, differs from what
    /// backends were last told.
    ///
    /// # Errors
    /// If Postgres fails, or too many events wait already.
    pub async fn tell(&self, mut settled: Vec<Settled>) -> Result<(), StoreError> {
        let Some(outbox) = self.outbox.as_ref().filter(|_| !settled.is_empty()) else { return Ok(()) };
        outbox.check_room()?;
        settled.sort_unstable_by_key(|settled| settled.user_id);
        let users: Vec<i64> = settled.iter().map(|settled| settled.user_id.get()).collect();
        let present: Vec<bool> = settled.iter().map(|settled| settled.is_present).collect();
        let times: HashMap<UserId, Timestamp> =
            settled.iter().map(|settled| (settled.user_id, settled.at)).collect();
        let event = |telling: Telling| {
            let Telling { user_id, online, last_seen, number } = telling;
            let event_id = format!("{}-{user_id}-{number}", Changed::PATTERN);
            let event = Changed {
                event_id: event_id.clone(),
                occurred_at: times.get(&user_id).copied().unwrap_or_else(Timestamp::now),
                presence: UserPresence { user_id, online, last_seen },
                change: number,
            };
            let event = Outgoing::new(&event_id, &event);
            Ok(event.map_err(|error| sqlx::Error::Encode(error.into()))?.about(user_id))
        };
        let store = async || {
            let mut tx = self.inboxes.pool().begin().await?;
            let tellings = store::tell(&mut tx, &users, &present, self.inboxes.hides_by_default()).await?;
            let events = tellings.into_iter().map(event).collect::<Result<Vec<_>, sqlx::Error>>()?;
            telling::add(&mut *tx, &events).await?;
            tx.commit().await?;
            Ok(())
        };
        self.inboxes.with_retry(store).await?;
        self.inboxes.wake_publisher();
        Ok(())
    }

    /// Those of the next `limit` users by id of whom backends were told that they are online.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn told_online(&self, after: i64, limit: i64) -> Result<Vec<i64>, StoreError> {
        self.inboxes
            .with_retry(async || Ok(store::told_online(self.inboxes.pool(), after, limit).await?))
            .await
    }

    /// Removes the stored times of users who have chosen nothing, if such users hide, until that is done or the token
    /// is cancelled.
    pub async fn forget_undecided(self, stop: CancellationToken) {
        let (mut place, limit) = (0, i64::try_from(BATCH).unwrap_or(i64::MAX));
        while self.inboxes.hides_by_default() {
            let forget = async || Ok(store::forget_undecided(self.inboxes.pool(), place, limit).await?);
            let pause = match self.inboxes.with_retry(forget).await {
                Ok(Some(last)) => {
                    place = last;
                    FORGET_PAUSE
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "remove last-seen times; will be retried");
                    FORGET_RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Stores when users were last seen, until the token is cancelled: when they come, when they leave, and every 5
    /// minutes in between, in case that no replica sees them leave.
    pub async fn store_seen(self, present: Presence, stop: CancellationToken) {
        let mut changes = present.changes();
        let mut regularly = interval_at(Instant::now() + SEEN_STEP, SEEN_STEP);
        loop {
            tokio::select! {
                news = changes.next() => match news {
                    Some(presence::Update::Changes(changes)) => {
                        let of = |came: bool| {
                            let changes = changes.iter().filter(move |change| change.is_present == came);
                            changes.map(|change| change.user_id).collect::<Vec<_>>()
                        };
                        self.store(of(true), true).await;
                        self.store(of(false), false).await;
                    }
                    // Those who came meanwhile are stored with the next regular time.
                    Some(presence::Update::Missed) => {}
                    None => return,
                },
                _ = regularly.tick() => self.store(present.present(), false).await,
                () = stop.cancelled() => return,
            }
        }
    }

    async fn store(&self, mut users: Vec<UserId>, came: bool) {
        users.sort_unstable();
        let (at, by_default) = (rounded(Timestamp::now()), self.inboxes.hides_by_default());
        for users in users.chunks(BATCH) {
            let users: Vec<i64> = users.iter().map(|user| user.get()).collect();
            let write = async || {
                let pool = self.inboxes.pool();
                match came {
                    true => store::came(pool, &users, at, by_default).await?,
                    false => store::seen(pool, &users, at, by_default).await?,
                }
                Ok(())
            };
            if let Err(error) = self.inboxes.with_retry(write).await {
                metrics::counter!("presence_unstored_total").increment(users.len() as u64);
                tracing::warn!(
                    error = chain(&error),
                    "store when users were last seen; the next time follows"
                );
            }
        }
    }
}

fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Sql(error) => service::postgres::refusal("read or store presence", error),
        StoreError::NotFound | StoreError::TimedOut | StoreError::Full => Refusal::unavailable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::Catalogue, chat_events::Wanted};
    use service::{Bus, config, postgres};
    use std::sync::Arc;
    use testkit::{NatsServer, Reads};
    use tokio::sync::watch;
    use tokio_util::task::TaskTracker;

    #[tokio::test]
    async fn replicas_tell_backends_a_change_once_and_nothing_of_users_without_an_inbox() {
        let reads = Reads::of("notify", &crate::MIGRATIONS, &postgres::PLANS, &[]).await.unwrap();
        let nats = NatsServer::start().await.unwrap();
        let config = config::Nats { nats_url: nats.url(), nats_creds: None };
        let stop = CancellationToken::new();
        let bus = Bus::connect("notify-service", &config, &stop).await.unwrap().unwrap();
        let (_catalogue, texts) = watch::channel(Arc::new(Catalogue::load(None).unwrap()));
        let inboxes = Inboxes::new(reads.pool().clone().into(), bus, texts);
        let outbox = Outbox::start(&inboxes, Wanted::default(), &TaskTracker::new(), &stop);
        let replicas = [(); 2].map(|()| PresenceStore::new(inboxes.clone(), None, Some(outbox.clone())));
        let user = |id: i64| UserId::new(id).unwrap();
        let at = Timestamp::from_unix(1_765_275_900).unwrap();
        store::came(reads.pool(), &[7], at, false).await.unwrap();
        let settled = |id: i64, is_present| Settled { user_id: user(id), is_present, at };
        for is_present in [true, false] {
            for replica in &replicas {
                replica.tell(vec![settled(8, is_present), settled(7, is_present)]).await.unwrap();
            }
        }
        assert!(replicas[0].told_online(0, 9).await.unwrap().is_empty());
        replicas[0].tell(vec![settled(7, true)]).await.unwrap();
        assert_eq!(replicas[0].told_online(0, 9).await.unwrap(), [7]);
        replicas[1].set_shown(SetShown { user_id: user(7), shown: false }).await.unwrap();
        // There is no stream yet, so the events wait.
        let rows: Vec<(String, String)> =
            postgres::query_as("select event_id, body from telling order by place")
                .fetch_all(reads.pool())
                .await
                .unwrap();
        let events: Vec<Changed> = rows.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
        assert!(rows.iter().zip(&events).all(|((id, _), event)| *id == event.event_id));
        let told: Vec<_> =
            events.iter().map(|event| (event.presence.online, event.presence.last_seen)).collect();
        assert_eq!(told, [(true, None), (false, Some(at)), (true, None), (false, None)]);
        assert!(events.iter().all(|event| event.presence.user_id == user(7)));
    }
}
