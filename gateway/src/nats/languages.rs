//! The languages of users, reported to notify-service in batches. It writes their notifications in these languages.

use axum::http::{HeaderMap, header};
use contract::{Lang, UserId, limits, notify::RememberLanguages};
use service::{
    Bus,
    batcher::{Batcher, Batches, Limits, batcher},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

/// Number of languages in the queue. Further ones are dropped.
const WAITING: usize = 4_096;
/// Number of users in the cache of reported languages.
const CACHE_SIZE: usize = 100_000;
/// How long a language stays in the cache. After that it is reported again, because another gateway may have reported
/// another one.
const CACHE_TTL: Duration = Duration::from_secs(600);
/// Time limit of a batch.
const BATCH_TIMEOUT: Duration = limits::SEND_DEADLINE;
/// How long a handshake waits for the report. The socket opens even if the report is not done.
const REPORT_WAIT: Duration = Duration::from_millis(500);

/// The queue of languages, and the cache of reported ones.
pub struct Languages {
    reported: Mutex<HashMap<UserId, (Lang, Instant)>>,
    queue: Batcher<UserLang, ()>,
}

type UserLang = (UserId, Lang);

/// A report that may be in progress.
pub struct Report(Option<oneshot::Receiver<()>>);

impl Report {
    /// Waits until the report is done, but not long.
    pub async fn done(self) {
        if let Some(done) = self.0 {
            timeout(REPORT_WAIT, done).await.ok();
        }
    }
}

impl Languages {
    /// Starts the task that sends batches. It ends after this queue is dropped.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Arc<Self> {
        let limits = Limits::new(WAITING, limits::LANGUAGES_MAX, "gateway_languages_dropped_total");
        let (queue, batches) = batcher(limits);
        let languages = Arc::new(Self { reported: Mutex::default(), queue });
        // A weak reference, so that the task does not keep the queue alive.
        tasks.spawn(send_batches(bus, batches, Arc::downgrade(&languages)));
        languages
    }

    /// Reports the language in a user's token or else in the headers, unless it was reported recently.
    pub fn report(&self, user: UserId, claim: Option<Lang>, headers: Option<&HeaderMap>) -> Report {
        let accepted = || headers?.get(header::ACCEPT_LANGUAGE)?.to_str().ok().and_then(Lang::accepted);
        let Some(lang) = claim.or_else(accepted) else { return Report(None) };
        if !self.add_to_cache(user, &lang) {
            return Report(None);
        }
        match self.queue.try_call((user, lang)) {
            Ok(done) => Report(Some(done)),
            Err(_) => {
                self.reported().remove(&user);
                Report(None)
            }
        }
    }

    /// Adds a language to the cache. Returns false if it was there already.
    fn add_to_cache(&self, user: UserId, lang: &Lang) -> bool {
        let (mut reported, now) = (self.reported(), Instant::now());
        if reported.get(&user).is_some_and(|(known, at)| known == lang && now - *at < CACHE_TTL) {
            return false;
        }
        if reported.len() >= CACHE_SIZE {
            reported.retain(|_, (_, at)| now - *at < CACHE_TTL);
        }
        if reported.len() >= CACHE_SIZE {
            metrics::counter!("gateway_languages_full_total").increment(1);
            reported.clear();
        }
        reported.insert(user, (lang.clone(), now));
        true
    }

    fn reported(&self) -> MutexGuard<'_, HashMap<UserId, (Lang, Instant)>> {
        self.reported.lock().expect("no holder of this lock panics")
    }
}

/// Sends one batch after the other. Languages that are queued during a batch form the next one.
async fn send_batches(bus: Bus, mut batches: Batches<UserLang, ()>, languages: std::sync::Weak<Languages>) {
    while let Some(batch) = batches.next().await {
        let seen = batch.iter().map(|call| call.request.clone()).collect();
        if let Err(error) = bus.request_until(&RememberLanguages { seen }, BATCH_TIMEOUT).await {
            tracing::debug!(%error, "report languages; each is reported again when its user is seen again");
            metrics::counter!("gateway_languages_dropped_total").increment(batch.len() as u64);
            if let Some(languages) = languages.upgrade() {
                let mut reported = languages.reported();
                batch.iter().for_each(|call| drop(reported.remove(&call.request.0)));
            }
        }
        for call in batch {
            call.reply(()); // Most callers do not wait for it.
        }
    }
}
