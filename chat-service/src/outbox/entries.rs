//! Publishes the entries of commits to JetStream, several at once.

use super::events::{Pending, publish_entry};
use crate::store;
use anyhow::Context;
use contract::chat::{LogEntry, MessageChanged};
use futures_util::future::join_all;
use service::{
    Bus,
    postgres::{self, Pool},
};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};

/// Maximum number of entries that wait for JetStream; further ones stay in the table until they are stale.
pub const WAITING: usize = 1024;
/// Maximum number of batches whose events wait for `EVENTS_OUT` at once. The rows of any others stay in the table, and the
/// sweep publishes them.
const TELLING: usize = 16;
/// Minimum time between two publications to JetStream. A single commit is published at once. In a burst, each message
/// mostly supersedes the notification of the one before, which costs little if notify-service receives both together.
const LOG_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum size of an entry in bytes of JSON, unless a single commit is larger: half of the payload limit of NATS.
const ENTRY_BYTES: usize = 512 * 1024;

/// Publishes entries to JetStream and deletes their rows once they are acknowledged. Rows without an acknowledgement
/// stay in the table and are published again.
pub async fn publish_log(bus: Bus, mut receiver: mpsc::Receiver<Pending>, pool: Pool) {
    let (mut batch, mut telling) = (Vec::with_capacity(WAITING), JoinSet::new());
    while receiver.recv_many(&mut batch, WAITING).await > 0 {
        let (mut published, mut told) = (Vec::new(), Vec::new());
        for pending in merge(batch.drain(..)) {
            let ack = publish_entry(&bus, &pending).await;
            let Pending { outbox_ids, backend_event, .. } = pending;
            let ack = async move { ack?.await.map(drop).context("no acknowledgement from JetStream") };
            match backend_event {
                Some(event) => told.push((outbox_ids, tell(bus.clone(), ack, event))),
                None => published.push((outbox_ids, ack)),
            }
        }
        // The stream for backends may be slow or away. It delays no notification.
        while let Some(ended) = telling.try_join_next() {
            log_panic(ended);
        }
        if telling.len() >= TELLING {
            let left = told.iter().map(|(outbox_ids, _)| outbox_ids.len() as u64).sum();
            metrics::counter!("chat_outbox_unacknowledged_total").increment(left);
        } else if !told.is_empty() {
            let pool = pool.clone();
            telling.spawn(async move { delete(&pool, &acknowledged(told).await).await });
        }
        delete(&pool, &acknowledged(published).await).await;
        let next = Instant::now() + LOG_INTERVAL;
        while Instant::now() < next && receiver.len() < WAITING / 2 && !receiver.is_closed() {
            tokio::time::sleep(LOG_INTERVAL / 8).await;
        }
    }
    while let Some(ended) = telling.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "tell backends of changes; they stay in the outbox");
    }
}

/// Publishes the event of an entry for backends, once JetStream has the entry.
async fn tell(
    bus: Bus,
    entry: impl Future<Output = anyhow::Result<()>>,
    event: Box<MessageChanged>,
) -> anyhow::Result<()> {
    entry.await?;
    bus.store(&*event, &event.event_id).await
}

async fn delete(pool: &Pool, done: &[i64]) {
    if done.is_empty() {
        return;
    }
    if let Err(error) = postgres::in_time(store::delete_outbox(pool, done)).await {
        let error = service::bus::chain(&error);
        tracing::warn!(error, "delete published rows of the outbox; they will be published again");
    }
}

/// Returns the rows that JetStream acknowledges. Awaits all acknowledgements at the same time, because each lost one
/// takes seconds.
async fn acknowledged(published: Vec<(Vec<i64>, impl Future<Output = anyhow::Result<()>>)>) -> Vec<i64> {
    let acknowledged = published.into_iter().map(async |(outbox_ids, ack)| match ack.await {
        Ok(()) => outbox_ids,
        Err(error) => {
            metrics::counter!("chat_outbox_unacknowledged_total").increment(outbox_ids.len() as u64);
            tracing::warn!(
                error = format!("{error:#}"),
                ?outbox_ids,
                "publish to JetStream; will be retried"
            );
            Vec::new()
        }
    });
    join_all(acknowledged).await.concat()
}

/// Merges consecutive entries of stored messages.
fn merge(pending: impl IntoIterator<Item = Pending>) -> Vec<Pending> {
    let mut all: Vec<Pending> = Vec::new();
    let mut room = 0;
    for mut next in pending {
        let size = next.bytes();
        match (all.last_mut(), &mut next) {
            (
                Some(Pending { outbox_ids, entry: LogEntry::Stored { messages }, .. }),
                Pending { outbox_ids: more_ids, entry: LogEntry::Stored { messages: more }, .. },
            ) if size <= room => {
                outbox_ids.append(more_ids);
                messages.append(more);
                room -= size;
            }
            _ => {
                room = ENTRY_BYTES.saturating_sub(size);
                all.push(next);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::database;
    use contract::{ConversationId, Event, MessageId, UserId, chat::Stored};
    use futures_util::StreamExt;
    use proptest::prelude::*;
    use service::config::Nats;
    use testkit::{NatsServer, wait::within};
    use tokio_util::sync::CancellationToken;

    fn entries() -> impl Strategy<Value = Vec<Pending>> {
        // For each entry, the number of recipients of each message; `None` for a marker.
        let entry = prop_oneof![
            9 => prop::collection::vec(0..3_000_usize, 1..4).prop_map(Some),
            1 => Just(None),
        ];
        prop::collection::vec(entry, 0..12).prop_map(|entries| {
            let mut message_id = 0;
            let mut next_id = || {
                message_id += 1;
                MessageId::new(message_id).unwrap()
            };
            let (conversation_id, user) =
                (ConversationId::new(i64::MAX).unwrap(), UserId::new(i64::MAX).unwrap());
            let entry = |(outbox_id, recipients): (i64, Option<Vec<usize>>)| Pending {
                outbox_ids: vec![outbox_id],
                backend_event: None,
                entry: match recipients {
                    None => {
                        LogEntry::Read { user_id: user, conversation_id, message_id: next_id(), marker: None }
                    }
                    Some(counts) => LogEntry::Stored {
                        messages: counts
                            .into_iter()
                            .map(|count| Stored {
                                conversation_id,
                                message_id: next_id(),
                                seq: Some(i64::MAX),
                                sender_id: user,
                                sender_username: "\"".repeat(count % 200),
                                recipients: vec![user; count],
                                muted: vec![user; count / 2],
                                kind: (count % 2 == 0).then(|| "k".repeat(contract::limits::KIND_BYTES)),
                                silent: count % 2 == 0,
                                system: count % 2 == 0,
                                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                                    .parse()
                                    .ok(),
                            })
                            .collect(),
                    },
                },
            };
            (1..).zip(entries).map(entry).collect()
        })
    }

    /// All outbox ids and all message ids, in order.
    fn flat(all: &[Pending]) -> (Vec<i64>, Vec<MessageId>) {
        let messages = |pending: &Pending| match &pending.entry {
            LogEntry::Stored { messages } => messages.iter().map(|stored| stored.message_id).collect(),
            LogEntry::Read { message_id, .. } | LogEntry::Changed { message_id, .. } => vec![*message_id],
            LogEntry::Opened { .. } | LogEntry::Muted { .. } => vec![],
        };
        (
            all.iter().flat_map(|pending| pending.outbox_ids.clone()).collect(),
            all.iter().flat_map(messages).collect(),
        )
    }

    proptest! {
        #[test]
        fn merging_keeps_all_messages_in_order(entries in entries()) {
            let before = flat(&entries);
            let all = merge(entries);
            prop_assert_eq!(flat(&all), before);
            for pending in &all {
                let json = serde_json::to_vec(&pending.entry).unwrap();
                prop_assert!(json.len() <= pending.bytes());
                prop_assert!(pending.outbox_ids.len() == 1 || pending.bytes() <= ENTRY_BYTES);
            }
            let ids: std::collections::HashSet<_> = all.iter().map(Pending::message_id).collect();
            prop_assert_eq!(ids.len(), all.len());
        }
    }

    #[test]
    fn small_commits_are_merged() {
        let stored = |outbox_id| Pending {
            outbox_ids: vec![outbox_id],
            entry: LogEntry::Stored { messages: vec![] },
            backend_event: None,
        };
        let all = merge((1..=50).map(stored));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].message_id(), "outbox-1-50");
    }

    /// The stream for backends accepts a change only once the log has the next entry.
    #[tokio::test]
    async fn a_stream_for_backends_that_waits_delays_no_entry() {
        let (server, database) = (NatsServer::start().await.unwrap(), database().await);
        let (nats, shutdown) = (Nats { nats_url: server.url(), nats_creds: None }, CancellationToken::new());
        let bus = Bus::connect("chat-service", &nats, &shutdown).await.unwrap().unwrap();
        service::streams::open(&bus, service::streams::chat_log()).await.unwrap();
        let mut changes = testkit::nats::subscribe(bus.client(), MessageChanged::PATTERN).await.unwrap();
        let insert = "insert into outbox (conversation_ids, message_ids) values ('{1}', '{1}') returning id";
        let row = async || -> i64 { postgres::query_scalar(insert).fetch_one(&database.pool).await.unwrap() };
        let event = serde_json::json!({
            "event_id": "chat.changed-1-1", "occurred_at": "2025-12-09T10:30:00.123456Z", "conversation_id": 1,
            "message_id": 1, "seq": 1, "sender_id": 1, "change": 1,
        });
        let event: MessageChanged = serde_json::from_value(event).unwrap();
        let (sender, receiver) = mpsc::channel(WAITING);
        let log = tokio::spawn(publish_log(bus.clone(), receiver, database.pool.clone()));
        let entry = || LogEntry::Stored { messages: vec![] };
        let backend_event = Some(Box::new(event));
        sender.send(Pending { outbox_ids: vec![row().await], entry: entry(), backend_event }).await.unwrap();
        let change = within("the change", changes.next()).await.unwrap();
        let asked = Instant::now();
        let next = Pending { outbox_ids: vec![row().await], entry: entry(), backend_event: None };
        sender.send(next).await.unwrap();
        let stream = bus.jetstream().get_stream_no_info(contract::streams::CHAT_STREAM).await.unwrap();
        let has_next = async || stream.get_raw_message(2).await.is_ok();
        testkit::eventually("the next entry", has_next).await;
        let ack = r#"{"stream":"EVENTS_OUT","seq":1}"#;
        bus.client().publish(change.reply.unwrap(), ack.into()).await.unwrap();
        if asked.elapsed() > Duration::from_secs(4) {
            return println!("skipped: the machine is so slow that the event may have timed out");
        }
        let is_empty = "select count(*) = 0 from outbox";
        let is_empty =
            async || postgres::query_scalar::<bool>(is_empty).fetch_one(&database.pool).await.unwrap();
        testkit::eventually("no rows", is_empty).await;
        drop(sender);
        log.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn lost_acknowledgements_time_out_at_the_same_time() {
        let start = Instant::now();
        let ack = |outbox_id: i64| async move {
            if outbox_id % 2 == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            anyhow::bail!("timed out")
        };
        let published = (1..=100).map(|outbox_id| (vec![outbox_id], ack(outbox_id))).collect();
        let expected: Vec<i64> = (1..=50).map(|half| 2 * half).collect();
        assert_eq!(acknowledged(published).await, expected);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
