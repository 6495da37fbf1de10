//! Every channel that some socket of this gateway is on.

use crate::{
    channel::{log_channel::Channel, maintenance::Maintenance, typing_channel::TypingChannel},
    nats::{
        connection::{Events, Listener, Mark},
        protocol::Message,
    },
    topic::{LogKey, Topic},
};
use contract::{ConversationId, Refusal, chat::Heads, limits, notify::InboxHeads};
use service::Bus;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often every log is compared with its service, though nothing is in doubt.
const COMPARE: Duration = Duration::from_secs(15);
/// How long one comparison may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Locks of a registry: few sockets ever meet at one.
const SHARDS: usize = 64;

/// How often it is looked which channels have lingered enough.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a subscription may take.
const SUBSCRIBE: Duration = limits::SEND_DEADLINE;

/// Every channel of this gateway.
pub struct Hub {
    logs: Registry<LogKey, Channel>,
    typing: Registry<ConversationId, TypingChannel>,
    maintenance: Arc<Maintenance>,
    shutdown: CancellationToken,
}

impl Hub {
    /// An empty hub. `shutdown` ends its channels: after their sockets are gone.
    pub fn new(bus: Bus, events: Events, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let maintenance = Arc::new(Maintenance::new(bus, events, tasks, shutdown.clone()));
        Self { logs: Registry::default(), typing: Registry::default(), maintenance, shutdown }
    }

    /// NATS.
    pub fn bus(&self) -> &Bus {
        &self.maintenance.bus
    }

    /// The channel of a log. Its subscription is on its way.
    pub fn channel(&self, key: LogKey) -> Arc<Channel> {
        self.logs.get_or_add(key, || Channel::new(key, self.maintenance.clone()))
    }

    /// The channel of a log, subscribed: what is asked of a service after this is answered later than the subscription
    /// began.
    ///
    /// # Errors
    /// When NATS is away.
    pub async fn log(&self, key: LogKey) -> Result<Arc<Channel>, Refusal> {
        let channel = self.channel(key);
        self.subscribed(channel.subscribed()).await?;
        Ok(channel)
    }

    /// Who types in a conversation, subscribed.
    ///
    /// # Errors
    /// When NATS is away.
    pub async fn typing(&self, conversation: ConversationId) -> Result<Arc<TypingChannel>, Refusal> {
        let make = || TypingChannel::new(conversation, self.maintenance.clone());
        let typists = self.typing.get_or_add(conversation, make);
        self.subscribed(typists.subscribed()).await?;
        Ok(typists)
    }

    async fn subscribed(&self, mark: Mark) -> Result<(), Refusal> {
        let passed = timeout(SUBSCRIBE, self.maintenance.events.passed(mark)).await;
        passed.map_err(|_| Refusal::unavailable())
    }

    /// Sets the metrics of channels.
    pub fn measure(&self) {
        self.maintenance.events.measure();
        self.maintenance.measure();
    }

    /// Ends the channels that nobody has been on for a while.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = self.shutdown.cancelled() => return,
            }
            let now = Instant::now();
            while let Some(topic) = self.maintenance.lingered(now) {
                self.end_unused(topic);
            }
        }
    }

    fn end_unused(&self, topic: Topic) {
        let unsubscribe = || self.maintenance.events.unsubscribe(topic);
        let lingers = match topic {
            Topic::Log(key) => self.logs.remove_unused(&key, Channel::lingers, unsubscribe),
            Topic::Typing(conversation) => {
                self.typing.remove_unused(&conversation, TypingChannel::lingers, unsubscribe)
            }
        };
        if lingers {
            self.maintenance.linger(topic);
        }
    }

    /// Compares every log with its service whenever events may have been lost, and now and then: whatever was lost
    /// on the way, and wherever, is found.
    pub async fn compare(self: Arc<Self>) {
        let (mut events, mut doubts) = (self.maintenance.events.doubts(), self.bus().doubts());
        doubts.mark_unchanged();
        loop {
            tokio::select! {
                _ = events.changed() => {}
                _ = doubts.changed() => {}
                () = tokio::time::sleep(COMPARE.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = self.shutdown.cancelled() => return,
            }
            events.mark_unchanged();
            doubts.mark_unchanged();
            if !self.bus().is_connected() {
                continue; // Coming back is a doubt of its own.
            }
            if let Err(error) = self.compare_all().await {
                tracing::warn!(%error, "compare the channels with their services; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                events.mark_changed();
            }
        }
    }

    async fn compare_all(&self) -> Result<(), service::RequestError> {
        // Each with what it has sent before its service is asked.
        let (mut conversations, mut inboxes) = (Vec::new(), Vec::new());
        for channel in self.logs.all() {
            let Some(sent) = channel.last_seq() else { continue };
            match channel.key() {
                LogKey::Conversation(conversation) => conversations.push((conversation, sent, channel)),
                LogKey::Inbox(user) => inboxes.push((user, sent, channel)),
                LogKey::Canary(_) => {}
            }
        }
        for chunk in conversations.chunks(limits::HEADS_MAX) {
            let ask = Heads { conversations: chunk.iter().map(|(conversation, ..)| *conversation).collect() };
            let heads = self.bus().request_until(&ask, ANSWER).await?;
            let heads: HashMap<_, _> = heads.into_iter().map(|head| (head.conversation_id, head)).collect();
            for (conversation, sent, channel) in chunk {
                let head = heads.get(conversation);
                channel.check_end(head.map_or(0, |head| head.seq), *sent);
                if let Some(head) = head {
                    channel.head(head.seq, Some(head.read_sum));
                }
            }
        }
        for chunk in inboxes.chunks(limits::HEADS_MAX) {
            let ask = InboxHeads { users: chunk.iter().map(|(user, ..)| *user).collect() };
            let heads = self.bus().request_until(&ask, ANSWER).await?;
            let heads: HashMap<_, _> = heads.into_iter().map(|head| (head.user_id, head)).collect();
            for (user, sent, channel) in chunk {
                let head = heads.get(user);
                channel.check_end(head.map_or(0, |head| head.seq), *sent);
                if let Some(head) = head {
                    channel.inbox_head(head);
                }
            }
        }
        Ok(())
    }
}

impl Listener for Hub {
    const PARTS: usize = SHARDS;

    fn resubscribe(&self, part: usize, events: &Events) {
        for key in self.logs.part(part).keys() {
            events.subscribe(Topic::Log(*key));
        }
        for conversation in self.typing.part(part).keys() {
            events.subscribe(Topic::Typing(*conversation));
        }
    }

    fn take(&self, message: &Message<'_>) {
        // A channel that has ended meanwhile is no channel.
        match Topic::of_sid(message.sid) {
            Some(Topic::Log(key)) => {
                if let Some(channel) = self.logs.get(&key) {
                    channel.take(message);
                }
            }
            Some(Topic::Typing(conversation)) => {
                if let Some(typists) = self.typing.get(&conversation) {
                    typists.take(message);
                }
            }
            None => tracing::error!(sid = message.sid, "NATS named a subscription that there never was"),
        }
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
        self.part(usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default())
    }

    fn part(&self, part: usize) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        self.shards[part].lock().expect("no holder of this lock panics")
    }

    fn get(&self, key: &K) -> Option<Arc<V>> {
        self.shard(key).get(key).cloned()
    }

    /// What is there under a key; `make` holds the lock.
    fn get_or_add(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        self.shard(&key).entry(key).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Removes a value that only this registry still holds, unless `lingers` says that it is in use; says whether it is to
    /// be asked again. `removed` is called under the lock.
    fn remove_unused(&self, key: &K, lingers: impl FnOnce(&V) -> bool, removed: impl FnOnce()) -> bool {
        let mut shard = self.shard(key);
        let Some(value) = shard.get(key).filter(|value| lingers(value)) else { return false };
        // New holders come through this lock or from a holder that would be counted.
        if Arc::strong_count(value) > 1 {
            return true;
        }
        shard.remove(key);
        if shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit();
        }
        removed();
        false
    }

    fn all(&self) -> Vec<Arc<V>> {
        (0..SHARDS).flat_map(|part| self.part(part).values().cloned().collect::<Vec<_>>()).collect()
    }
}
