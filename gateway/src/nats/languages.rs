//! The languages that users are seen with, on their way to notify-service, which writes their notifications in them.

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

/// Users whose language waits to be told.
const WAITING: usize = 4_096;
/// Users of whom it is known what was told last.
const TOLD: usize = 100_000;
/// After so long the same is told again: another gateway may have told otherwise meanwhile.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// How long a question to notify-service may take.
const ANSWER: Duration = limits::SEND_DEADLINE;
/// How long a socket waits until its language is remembered: it is open without that, too.
const SETTLED: Duration = Duration::from_millis(500);

/// The languages that notify-service was sent lately.
pub struct Languages {
    told: Mutex<HashMap<UserId, (Lang, Instant)>>,
    waiting: Batcher<Seen, ()>,
}

type Seen = (UserId, Lang);

/// A language that may not be remembered yet.
pub struct Telling(Option<oneshot::Receiver<()>>);

impl Telling {
    /// Waits until it is remembered, or won't be soon.
    pub async fn settled(self) {
        if let Some(done) = self.0 {
            timeout(SETTLED, done).await.ok();
        }
    }
}

impl Languages {
    /// Nothing is told yet.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Arc<Self> {
        let limits = Limits::new(WAITING, limits::LANGUAGES_MAX, "gateway_languages_dropped_total");
        let (waiting, seen) = batcher(limits);
        let languages = Arc::new(Self { told: Mutex::default(), waiting });
        // It ends with the last holder of the other end.
        tasks.spawn(tell(bus, seen, Arc::downgrade(&languages)));
        languages
    }

    /// A user was seen with this language in the token, else in the headers. Costs nothing where that is no news.
    pub fn saw(&self, user: UserId, claim: Option<Lang>, headers: Option<&HeaderMap>) -> Telling {
        let accepted = || headers?.get(header::ACCEPT_LANGUAGE)?.to_str().ok().and_then(Lang::accepted);
        let Some(lang) = claim.or_else(accepted) else { return Telling(None) };
        if !self.is_news(user, &lang) {
            return Telling(None);
        }
        match self.waiting.try_call((user, lang)) {
            Ok(settled) => Telling(Some(settled)),
            Err(_) => {
                self.told().remove(&user);
                Telling(None)
            }
        }
    }

    /// Whether this was not told lately; from now on it was.
    fn is_news(&self, user: UserId, lang: &Lang) -> bool {
        let (mut told, now) = (self.told(), Instant::now());
        if told.get(&user).is_some_and(|(known, at)| known == lang && now - *at < TOLD_FOR) {
            return false;
        }
        if told.len() >= TOLD {
            told.retain(|_, (_, at)| now - *at < TOLD_FOR);
        }
        if told.len() >= TOLD {
            metrics::counter!("gateway_languages_full_total").increment(1);
            told.clear();
        }
        told.insert(user, (lang.clone(), now));
        true
    }

    fn told(&self) -> MutexGuard<'_, HashMap<UserId, (Lang, Instant)>> {
        self.told.lock().expect("no holder of this lock panics")
    }
}

/// Tells what has gathered while the telling before was under way.
async fn tell(bus: Bus, mut seen: Batches<Seen, ()>, languages: std::sync::Weak<Languages>) {
    while let Some(batch) = seen.next().await {
        let named = batch.iter().map(|call| call.request.clone()).collect();
        let remembered = bus.request_until(&RememberLanguages { seen: named }, ANSWER).await;
        if let Err(error) = remembered {
            tracing::debug!(%error, "languages are not remembered: they will be seen again");
            metrics::counter!("gateway_languages_dropped_total").increment(batch.len() as u64);
            if let Some(languages) = languages.upgrade() {
                let mut told = languages.told();
                batch.iter().for_each(|call| drop(told.remove(&call.request.0)));
            }
        }
        for call in batch {
            call.reply(()); // Most sockets don't wait for it.
        }
    }
}
