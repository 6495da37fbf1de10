//! The channels of a gateway: starts and ends them, hands them their events, and compares logs with their services.

use crate::{
    channel::{
        log_channel::{Delivered, LogChannel},
        maintenance::Maintenance,
        presence::PresenceBoard,
        probe::Probe,
        registry::{Registry, SHARDS},
        typing_channel::TypingChannel,
    },
    nats::{
        connection::{Link, Listener, Mark},
        protocol::Message,
    },
    topic::{LogKey, Subscriber},
};
use contract::{ConversationId, Refusal, UserId, chat::Heads, limits, notify::InboxHeads};
use service::{Bus, RequestError};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often every log is compared with its service, even if nothing is in doubt.
const COMPARE: Duration = Duration::from_secs(15);
/// How long one comparison may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How often channels that have lingered are ended.
const SWEEP: Duration = Duration::from_secs(1);
/// How long NATS may take to confirm a subscription.
const SUBSCRIBE: Duration = limits::SEND_DEADLINE;

/// The channels of a gateway.
pub struct Hub {
    logs: Registry<LogKey, LogChannel>,
    typing: Registry<ConversationId, TypingChannel>,
    presence: Arc<PresenceBoard>,
    probe: Probe,
    maintenance: Arc<Maintenance>,
    shutdown: CancellationToken,
}

/// Log channels, each with how much it delivered before its service is asked.
#[derive(Default)]
struct Channels {
    conversations: Vec<(ConversationId, Delivered, Arc<LogChannel>)>,
    inboxes: Vec<(UserId, Delivered, Arc<LogChannel>)>,
}

impl Hub {
    /// A hub without channels, whose probe is subscribed. `shutdown` ends its tasks, after the sockets are closed.
    pub fn new(bus: Bus, link: Link, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let probe = Probe::new();
        link.subscribe(probe.subscriber());
        let presence = Arc::new(PresenceBoard::new(bus.clone(), link.clone()));
        let maintenance = Arc::new(Maintenance::new(bus, link, tasks, shutdown.clone()));
        Self {
            logs: Registry::default(),
            typing: Registry::default(),
            presence,
            probe,
            maintenance,
            shutdown,
        }
    }

    /// The NATS client for requests.
    pub fn bus(&self) -> &Bus {
        &self.maintenance.bus
    }

    /// Checks that events come back through NATS to this gateway.
    ///
    /// # Errors
    /// If they do not.
    pub async fn probe(&self) -> anyhow::Result<()> {
        self.probe.check(self.bus()).await
    }

    /// The channel of a log. Its subscription precedes the requests that are sent over the same connection after this.
    pub fn log(&self, key: LogKey) -> Arc<LogChannel> {
        self.logs.get_or_add(key, || LogChannel::new(key, self.maintenance.clone()))
    }

    /// The channel of a log, once NATS has confirmed its subscription: any request that is sent after this is answered
    /// after the subscription began.
    ///
    /// # Errors
    /// If NATS does not confirm it in time.
    pub async fn confirmed_log(&self, key: LogKey) -> Result<Arc<LogChannel>, Refusal> {
        let channel = self.log(key);
        self.subscribed(channel.subscribed()).await?;
        Ok(channel)
    }

    /// The typing channel of a conversation, once NATS has confirmed its subscription.
    ///
    /// # Errors
    /// If NATS does not confirm it in time.
    pub async fn typing(&self, conversation: ConversationId) -> Result<Arc<TypingChannel>, Refusal> {
        let make = || TypingChannel::new(conversation, self.maintenance.clone());
        let channel = self.typing.get_or_add(conversation, make);
        self.subscribed(channel.subscribed()).await?;
        Ok(channel)
    }

    /// The sockets that watch the presence of users.
    pub const fn presence(&self) -> &Arc<PresenceBoard> {
        &self.presence
    }

    async fn subscribed(&self, mark: Mark) -> Result<(), Refusal> {
        let passed = timeout(SUBSCRIBE, self.maintenance.link.passed(mark)).await;
        passed.map_err(|_| Refusal::unavailable())
    }

    /// Sets the gauges of channels.
    pub fn measure(&self) {
        self.maintenance.link.measure();
        self.maintenance.measure();
        self.presence.measure();
    }

    /// Ends channels that have lingered without a member.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = self.shutdown.cancelled() => return,
            }
            let now = Instant::now();
            while let Some(channel) = self.maintenance.lingered(now) {
                self.end_unused(channel);
            }
        }
    }

    fn end_unused(&self, channel: Subscriber) {
        let unsubscribe = || self.maintenance.link.unsubscribe(channel);
        let lingers = match channel {
            Subscriber::Log(key) => self.logs.remove_unused(&key, LogChannel::lingers, unsubscribe),
            Subscriber::Typing(conversation) => {
                self.typing.remove_unused(&conversation, TypingChannel::lingers, unsubscribe)
            }
            // These end with their last member.
            Subscriber::Person(_) | Subscriber::Probe(_) => false,
        };
        if lingers {
            self.maintenance.linger(channel);
        }
    }

    /// Compares every log with its service whenever events may have been lost, and every 15 s on average. So a loss is
    /// found wherever it happened.
    pub async fn compare(self: Arc<Self>) {
        let (mut events, mut disruptions) = (self.maintenance.link.disruptions(), self.bus().disruptions());
        disruptions.mark_unchanged();
        loop {
            tokio::select! {
                _ = events.changed() => {}
                _ = disruptions.changed() => {}
                () = tokio::time::sleep(COMPARE.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = self.shutdown.cancelled() => return,
            }
            events.mark_unchanged();
            disruptions.mark_unchanged();
            if !self.bus().is_connected() {
                continue; // A reconnect raises a doubt.
            }
            if let Err(error) = self.compare_all().await {
                tracing::warn!(%error, "cannot compare the channels with their services; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                events.mark_changed();
            }
        }
    }

    async fn compare_all(&self) -> Result<(), RequestError> {
        let Channels { conversations, inboxes } = self.channels();
        for chunk in conversations.chunks(limits::HEADS_MAX) {
            self.compare_conversations(chunk).await?;
        }
        for chunk in inboxes.chunks(limits::HEADS_MAX) {
            self.compare_inboxes(chunk).await?;
        }
        Ok(())
    }

    fn channels(&self) -> Channels {
        let mut channels = Channels::default();
        for channel in self.logs.all() {
            let Some(delivered) = channel.delivered() else { continue };
            match channel.key() {
                LogKey::Conversation(conversation) => {
                    channels.conversations.push((conversation, delivered, channel));
                }
                LogKey::Inbox(user) => channels.inboxes.push((user, delivered, channel)),
            }
        }
        channels
    }

    async fn compare_conversations(
        &self,
        chunk: &[(ConversationId, Delivered, Arc<LogChannel>)],
    ) -> Result<(), RequestError> {
        let request = Heads { conversations: chunk.iter().map(|(conversation, ..)| *conversation).collect() };
        let heads = self.bus().request_until(&request, ANSWER).await?;
        let heads: HashMap<_, _> = heads.into_iter().map(|head| (head.conversation_id, head)).collect();
        for (conversation, delivered, channel) in chunk {
            let head = heads.get(conversation);
            channel.check_end(
                head.map_or(0, |head| head.seq),
                head.and_then(|head| head.changes),
                *delivered,
            );
            if let Some(head) = head {
                channel.conversation_head(head);
            }
        }
        Ok(())
    }

    async fn compare_inboxes(
        &self,
        chunk: &[(UserId, Delivered, Arc<LogChannel>)],
    ) -> Result<(), RequestError> {
        let request = InboxHeads { users: chunk.iter().map(|(user, ..)| *user).collect() };
        let heads = self.bus().request_until(&request, ANSWER).await?;
        let heads: HashMap<_, _> = heads.into_iter().map(|head| (head.user_id, head)).collect();
        for (user, delivered, channel) in chunk {
            let head = heads.get(user);
            channel.check_end(head.map_or(0, |head| head.seq), None, *delivered);
            if let Some(head) = head {
                channel.inbox_head(head);
            }
        }
        Ok(())
    }
}

impl Listener for Hub {
    const PARTS: usize = SHARDS;

    fn resubscribe(&self, part: usize, link: &Link) {
        if part == 0 {
            link.subscribe(self.probe.subscriber());
        }
        self.presence.resubscribe(part);
        for key in self.logs.shard(part).keys() {
            link.subscribe(Subscriber::Log(*key));
        }
        for conversation in self.typing.shard(part).keys() {
            link.subscribe(Subscriber::Typing(*conversation));
        }
    }

    fn take(&self, message: &Message<'_>) {
        // A message for a channel that has ended meanwhile is dropped.
        match Subscriber::of_sid(message.sid) {
            Some(Subscriber::Log(key)) => {
                if let Some(channel) = self.logs.get(&key) {
                    channel.take(message);
                }
            }
            Some(Subscriber::Typing(conversation)) => {
                if let Some(channel) = self.typing.get(&conversation) {
                    channel.take(message);
                }
            }
            Some(Subscriber::Person(_)) => self.presence.take(message.payload),
            Some(Subscriber::Probe(_)) => self.probe.take(message.payload),
            None => tracing::error!(sid = message.sid, "NATS named a subscription that never existed"),
        }
    }
}
