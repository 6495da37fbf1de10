//! Conversations and users, created anew for each run, so that runs don't affect each other.

use crate::target::{Dialect, Target, username};
use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer::pull};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::{Duration, Instant};

/// Number of conversations that are created concurrently.
const AT_ONCE: usize = 64;
/// Timeout of the work that remains after the load.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// notify-service's consumer of the chat log.
const NOTIFY_CONSUMER: &str = "notify";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: i64,
    /// Participants.
    pub users: Vec<i64>,
}

/// The first of a range of free user ids, within the 32 bits of Django's user ids. Two runs on one stack are unlikely
/// to get the same users. That is harmless if only participants of a conversation are concerned.
pub fn new_users() -> i64 {
    fastrand::i64(1..1 << 30)
}

/// Creates conversations of new users, each with this many participants.
///
/// # Errors
/// If the system fails.
pub async fn conversations(
    target: &Target,
    count: usize,
    people: usize,
) -> anyhow::Result<Vec<Conversation>> {
    let mut next = new_users();
    let mut fresh = || {
        next += 1;
        next
    };
    let users: Vec<Vec<i64>> = (0..count).map(|_| (0..people).map(|_| fresh()).collect()).collect();
    let ids = match target.conversations {
        Some(sql) => by_sql(target, sql, &users).await?,
        // A channel of Centrifugo exists once it has a subscriber.
        None if target.dialect == Dialect::Centrifugo => (new_users()..).take(count).collect(),
        None => {
            by_request(target.nats.as_deref().context("creating conversations needs NATS")?, &users).await?
        }
    };
    Ok(ids.into_iter().zip(users).map(|(id, users)| Conversation { id, users }).collect())
}

/// Creates conversations by requests over NATS, like a backend of the marketplace.
async fn by_request(nats: &str, users: &[Vec<i64>]) -> anyhow::Result<Vec<i64>> {
    let client = async_nats::connect(nats).await.context("connect to NATS")?;
    let create = async |people: &Vec<i64>| {
        let participants: Vec<Value> =
            people.iter().map(|user| json!({"user_id": user, "username": username(*user)})).collect();
        let request = json!({"participants": participants}).to_string();
        let reply = client.request("chat.conversations.create", request.into()).await?;
        let conversation: Value = serde_json::from_slice(&reply.payload)?;
        conversation["conversation_id"].as_i64().with_context(|| format!("unexpected reply: {conversation}"))
    };
    stream::iter(users).map(create).buffered(AT_ONCE).try_collect().await
}

/// Creates conversations with a peer's own statement, whose parameters are pairs of conversation id and user id.
async fn by_sql(target: &Target, sql: &str, users: &[Vec<i64>]) -> anyhow::Result<Vec<i64>> {
    let url = target.database.as_ref().context("the peer has no database")?;
    let first = new_users();
    let (mut ids, mut conversations, mut people) = (Vec::new(), Vec::new(), Vec::new());
    for (id, users) in (first..).zip(users) {
        ids.push(id);
        conversations.extend(std::iter::repeat_n(id, users.len()));
        people.extend_from_slice(users);
    }
    let mut connection = PgConnection::connect(url).await.context("connect to the peer's Postgres")?;
    for statement in sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let query = sqlx::query(AssertSqlSafe(statement.to_owned())).bind(&conversations).bind(&people);
        query.execute(&mut connection).await.context("create the peer's conversations")?;
    }
    connection.close().await?;
    Ok(ids)
}

/// Waits until all background work is done: every message has its notification.
///
/// # Errors
/// If it takes too long.
pub async fn settled(target: &Target) -> anyhow::Result<()> {
    let Some(nats) = target.nats.as_ref().filter(|_| target.dialect == Dialect::Guide) else { return Ok(()) };
    let jetstream = jetstream::new(async_nats::connect(nats).await?);
    let Ok(stream) = jetstream.get_stream(contract::streams::CHAT_STREAM).await else { return Ok(()) };
    let mut consumer: jetstream::consumer::Consumer<pull::Config> =
        stream.get_consumer(NOTIFY_CONSUMER).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let began = Instant::now();
    loop {
        let info = consumer.info().await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(());
        }
        let pending = info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(0);
        ensure!(
            began.elapsed() < SETTLE_TIMEOUT,
            "{pending} commits are still without notifications after {SETTLE_TIMEOUT:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
