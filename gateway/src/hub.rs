//! Every channel that some socket of this gateway is on.

use crate::{
    channel::{Channel, LogKey},
    typing::Typists,
};
use contract::{ConversationId, UserId, chat::Heads, limits, notify::InboxHeads};
use service::Bus;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often every log is compared with its service, though nothing is in doubt.
const COMPARE: Duration = Duration::from_secs(15);
/// How long one comparison may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Locks of a registry: few sockets ever meet at one.
const SHARDS: usize = 64;

/// Every channel of this gateway.
pub struct Hub {
    logs: Arc<Registry<LogKey, Channel>>,
    typing: Arc<Registry<ConversationId, Typists>>,
    bus: Bus,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Hub {
    /// An empty hub. `shutdown` ends its channels: after their sockets are gone.
    pub fn new(bus: Bus, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { logs: Arc::default(), typing: Arc::default(), bus, tasks, shutdown }
    }

    /// NATS.
    pub const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The channel of a log, subscribed.
    pub async fn log(&self, key: LogKey) -> Arc<Channel> {
        let channel = self.logs.get_or_add(
            key,
            || Channel::new(key),
            |channel| {
                let logs = self.logs.clone();
                let leave = move |channel: &Arc<Channel>| logs.remove_unused(&channel.key(), channel);
                self.tasks.spawn(channel.run(self.bus.clone(), self.shutdown.clone(), leave));
            },
        );
        channel.subscribed().await;
        channel
    }

    /// Who types in a conversation, subscribed.
    pub async fn typing(&self, conversation: ConversationId) -> Arc<Typists> {
        let typists = self.typing.get_or_add(
            conversation,
            || Typists::new(conversation),
            |typists| {
                let typing = self.typing.clone();
                let leave =
                    move |typists: &Arc<Typists>| typing.remove_unused(&typists.conversation(), typists);
                self.tasks.spawn(typists.run(self.bus.clone(), self.shutdown.clone(), leave));
            },
        );
        typists.subscribed().await;
        typists
    }

    /// Compares every log with its service whenever events may have been lost, and now and then: whatever was lost
    /// on the way, and wherever, is found.
    pub async fn compare(self: Arc<Self>) {
        let mut doubts = self.bus.doubts();
        doubts.mark_unchanged();
        loop {
            tokio::select! {
                _ = doubts.changed() => {}
                () = tokio::time::sleep(COMPARE.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = self.shutdown.cancelled() => return,
            }
            doubts.mark_unchanged();
            if !self.bus.is_connected() {
                continue; // Coming back is a doubt of its own.
            }
            if let Err(error) = self.compare_all().await {
                tracing::warn!(%error, "compare the channels with their services; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                doubts.mark_changed();
            }
        }
    }

    async fn compare_all(&self) -> Result<(), service::RequestError> {
        let (mut conversations, mut users): (Vec<ConversationId>, Vec<UserId>) = (Vec::new(), Vec::new());
        let logs = self.logs.all();
        for key in logs.iter().filter(|channel| channel.last_seq().is_some()).map(|channel| channel.key()) {
            match key {
                LogKey::Conversation(conversation) => conversations.push(conversation),
                LogKey::Inbox(user) => users.push(user),
                LogKey::Canary(_) => {}
            }
        }
        for chunk in conversations.chunks(limits::HEADS_MAX) {
            for head in self.bus.request_until(&Heads { conversations: chunk.to_vec() }, ANSWER).await? {
                if let Some(channel) = self.logs.get(&LogKey::Conversation(head.conversation_id)) {
                    channel.head(head.seq, Some(head.read_sum));
                }
            }
        }
        for chunk in users.chunks(limits::HEADS_MAX) {
            for head in self.bus.request_until(&InboxHeads { users: chunk.to_vec() }, ANSWER).await? {
                if let Some(channel) = self.logs.get(&LogKey::Inbox(head.user_id)) {
                    channel.inbox_head(&head);
                }
            }
        }
        Ok(())
    }
}

/// Things by key, each there only as long as someone uses it.
struct Registry<K, V> {
    shards: Vec<Mutex<HashMap<K, Arc<V>>>>,
    hasher: RandomState,
}

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Copy, V> Registry<K, V> {
    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        self.shards[hash].lock().expect("no holder of this lock panics")
    }

    fn get(&self, key: &K) -> Option<Arc<V>> {
        self.shard(key).get(key).cloned()
    }

    fn get_or_add(&self, key: K, make: impl FnOnce() -> V, start: impl FnOnce(Arc<V>)) -> Arc<V> {
        self.shard(&key)
            .entry(key)
            .or_insert_with(|| {
                let value = Arc::new(make());
                start(value.clone());
                value
            })
            .clone()
    }

    /// Removes a value that only this registry and its task, which asks, still hold.
    fn remove_unused(&self, key: &K, value: &Arc<V>) -> bool {
        let mut shard = self.shard(key);
        // New holders come through this lock or from a holder that would be counted.
        let unused = Arc::strong_count(value) <= 2;
        if unused {
            shard.remove(key);
        }
        unused
    }

    fn all(&self) -> Vec<Arc<V>> {
        let all = self.shards.iter().map(|shard| shard.lock().expect("no holder of this lock panics"));
        all.flat_map(|shard| shard.values().cloned().collect::<Vec<_>>()).collect()
    }
}
