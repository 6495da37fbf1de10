//! Erasures of users (GDPR, article 17), in the background. Any replica continues an erasure where another one stopped.
//!
//! The stages are in [`Stage`]. Every step may be repeated: what is erased already stays as it is.

use crate::{
    error::checked_reason,
    outbox::Outbox,
    pace::{Pace, pause},
    store::{
        self,
        erasures::{self as store_erasures, Pending, Stage},
    },
};
use anyhow::Context;
use contract::{
    ConversationId, Refusal, UserId,
    chat::Message,
    erasure::{DeleteInbox, EraseUser, Erasure, ErasureProgress, RenameSender, UserErased},
    limits,
    sessions::Revoke,
    streams,
};
use service::{
    Bus,
    postgres::{Pool, refusal},
};
use sqlx::PgConnection;
use std::{collections::HashMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// Average time between two looks for erasures while none is due.
const IDLE: Duration = Duration::from_secs(1);
/// Time after the revocation of the sessions in which a message that the user sent before may still be stored.
const SETTLE: Duration = Duration::from_secs(2 * limits::SEND_DEADLINE.as_secs());
/// Time between two checks whether the streams are consumed.
const RECHECK: Duration = Duration::from_secs(1);
/// Time until a step that failed is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// Maximum number of messages that one step looks at.
const BATCH: i32 = 500;
/// Time limit of a request to another service.
const ANSWER: Duration = Duration::from_secs(5);

/// Erases users.
#[derive(Clone)]
pub struct Erasures {
    pub bus: Bus,
    pub pool: Pool,
    pub outbox: Outbox,
}

/// A step that is committed.
enum Step {
    /// The next one may follow.
    Done,
    /// Messages were looked at, and perhaps erased; the changes are to be published.
    Erased(ConversationId, store_erasures::ErasedMessages),
    /// Nothing is due.
    Idle,
}

impl Erasures {
    /// Starts an erasure.
    ///
    /// # Errors
    /// If the reason is invalid, or Postgres fails.
    pub async fn start(&self, request: EraseUser) -> Result<Erasure, Refusal> {
        let EraseUser { user_id, reason } = request;
        let reason = reason.as_deref().map(checked_reason).transpose()?;
        let start = async {
            let mut connection = self.pool.acquire().await?;
            store_erasures::start_erasure(&mut connection, user_id, reason).await
        };
        let erasure_id = start.await.map_err(|error| refusal("start an erasure", &error))?;
        tracing::info!(erasure_id, %user_id, "erasing a user");
        Ok(Erasure { erasure_id })
    }

    /// Performs the erasures that are due, until the token is cancelled.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pace = Pace::default();
        loop {
            let step = pace.work(self.step()).await;
            let wait = match step {
                Ok(Step::Erased(conversation, erased)) => {
                    if let Err(error) = pace.work(self.publish(conversation, &erased)).await {
                        let error = service::bus::chain(&error);
                        tracing::warn!(error, "publish erased messages; the outbox will be swept");
                    }
                    Duration::ZERO
                }
                Ok(Step::Done) => Duration::ZERO,
                Ok(Step::Idle) => IDLE.mul_f64(0.75 + fastrand::f64() / 2.0),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "erase a user; will be retried");
                    pace = Pace::default(); // It has mostly waited.
                    RETRY
                }
            };
            if !pace.rest(&shutdown).await || !pause(wait, &shutdown).await {
                return;
            }
        }
    }

    /// Performs one step of one erasure. If it fails, the next one is another erasure's.
    async fn step(&self) -> anyhow::Result<Step> {
        let waiting = store_erasures::count_erasures(&self.pool).await?;
        metrics::gauge!("chat_erasures_waiting").set(waiting as f64);
        if waiting == 0 {
            return Ok(Step::Idle);
        }
        let mut transaction = self.pool.begin().await?;
        let Some(mut pending) = store_erasures::lock_erasure(&mut transaction).await? else {
            return Ok(Step::Idle);
        };
        let (user, stage) = (pending.user_id, pending.stage);
        let stepped = self.advance(&mut transaction, &mut pending).await;
        match stepped {
            Ok((step, wait)) => {
                store_erasures::save_erasure(&mut transaction, &pending, wait.as_secs_f64()).await?;
                transaction.commit().await?;
                Ok(step)
            }
            Err(error) => {
                transaction.rollback().await?;
                let mut connection = self.pool.acquire().await?;
                store_erasures::delay_erasure(&mut connection, user, RETRY.as_secs_f64()).await?;
                Err(error.context(format!("erasure of user {user}, stage {stage:?}")))
            }
        }
    }

    /// Performs the next step of an erasure. Returns the time until the step after it.
    async fn advance(
        &self,
        transaction: &mut PgConnection,
        pending: &mut Pending,
    ) -> anyhow::Result<(Step, Duration)> {
        let user = pending.user_id;
        let mut wait = Duration::ZERO;
        match pending.stage {
            Stage::Sessions => {
                self.bus.request(&Revoke { user_id: user, except_jti: None }, ANSWER).await?;
                pending.stage = Stage::Messages;
                wait = SETTLE;
            }
            Stage::Messages => {
                let (place, after) = (pending.place, pending.message);
                let next = store_erasures::conversation_after(&mut *transaction, user, place).await?;
                let Some(conversation) = next else {
                    pending.outbox_id = Some(store_erasures::erase_user(transaction, user).await?);
                    pending.stage = Stage::Streams;
                    return Ok((Step::Done, wait));
                };
                let erased =
                    store_erasures::erase_messages(transaction, conversation, user, after, BATCH).await?;
                if erased.upto.is_none() {
                    store::clear_mine(&mut *transaction, conversation, user).await?;
                }
                pending.advance(conversation, erased.upto);
                return Ok((Step::Erased(conversation, erased), wait));
            }
            Stage::Streams => {
                if self.is_consumed(transaction, pending).await? {
                    pending.stage = Stage::Names;
                    pending.place = 0;
                } else {
                    wait = RECHECK;
                }
            }
            Stage::Names => {
                let (place, after) = (pending.place, pending.message);
                match store_erasures::conversation_after(&mut *transaction, user, place).await? {
                    Some(conversation) => {
                        let (progress, upto) = self.rename(transaction, conversation, user, after).await?;
                        // The same messages once more, until no notification names the user.
                        if !progress.more {
                            pending.advance(conversation, upto);
                        }
                    }
                    None => pending.stage = Stage::Inbox,
                }
            }
            Stage::Inbox => {
                if !self.bus.request(&DeleteInbox { user_id: user }, ANSWER).await?.more {
                    let Pending { erasure_id, requested_at: occurred_at, .. } = *pending;
                    // After a restore, another erasure may have the same id.
                    let event_id = format!("users.erased-{user}-{}", occurred_at.unix_micros());
                    let erased = UserErased { event_id, occurred_at, erasure_id, user_id: user };
                    self.bus.store(&erased, &erased.event_id).await?;
                    store_erasures::end_erasure(transaction, user).await?;
                    tracing::info!(erasure_id, %user, "erased a user");
                }
            }
        }
        Ok((Step::Done, wait))
    }

    /// Publishes erased messages as changes.
    async fn publish(
        &self,
        conversation: ConversationId,
        erased: &store_erasures::ErasedMessages,
    ) -> sqlx::Result<()> {
        if erased.message_ids.is_empty() {
            return Ok(());
        }
        metrics::counter!("chat_changes_total", "kind" => "erase").increment(erased.message_ids.len() as u64);
        let members = store::members(&self.pool, conversation, None).await?;
        let conversations = vec![conversation.get(); erased.message_ids.len()];
        let messages = store::messages(&self.pool, &conversations, &erased.message_ids).await?;
        let mut moved = members.markers_of(conversation, &erased.moved);
        let last = erased.message_ids.last().copied();
        let changes = (erased.first_change..).zip(erased.outbox_ids.iter().copied());
        let changes: HashMap<i64, (i64, i64)> = erased.message_ids.iter().copied().zip(changes).collect();
        for message in messages {
            let id = message.message_id.get();
            let Some((number, outbox_id)) = changes.get(&id).copied() else { continue };
            // The markers follow the last message, past which they have moved.
            let markers = if Some(id) == last { std::mem::take(&mut moved) } else { Vec::new() };
            let message = Message { is_read: members.is_read(&message), ..message };
            self.outbox.publish_change(outbox_id, number, message, markers).await;
        }
        Ok(())
    }

    /// Whether notify-service has processed everything that was published before the last messages were erased. Until
    /// then, it may create notifications that name the user, or are the user's own.
    async fn is_consumed(
        &self,
        connection: &mut PgConnection,
        pending: &mut Pending,
    ) -> anyhow::Result<bool> {
        if let Some(outbox_id) = pending.outbox_id
            && !store_erasures::is_published(connection, outbox_id).await?
        {
            return Ok(false);
        }
        let mut is_consumed = true;
        for (name, seq) in
            [(streams::CHAT_STREAM, &mut pending.chat_seq), (streams::EVENTS_STREAM, &mut pending.events_seq)]
        {
            let stream = self.bus.jetstream().get_stream(name).await;
            let stream = stream.with_context(|| format!("read the state of the stream {name}"))?;
            let state = &stream.cached_info().state;
            let upto = *seq.get_or_insert(state.last_sequence);
            // A message leaves the stream once it is processed. A stream that was recreated counts from 1.
            is_consumed &= state.messages == 0 || state.first_sequence > upto || state.last_sequence < upto;
        }
        Ok(is_consumed)
    }

    /// Replaces the user's name in a part of others' notifications: those of any message, and those of an earlier
    /// release that are of the next messages of a conversation after one. Returns the last of these messages; `None` at
    /// the end of the conversation.
    async fn rename(
        &self,
        connection: &mut PgConnection,
        conversation_id: ConversationId,
        user: UserId,
        after: i64,
    ) -> anyhow::Result<(ErasureProgress, Option<i64>)> {
        let (message_ids, upto) =
            store_erasures::messages_of(connection, conversation_id, user, after, i64::from(BATCH)).await?;
        let sender_username = format!("user-{user}");
        let rename = RenameSender { sender_id: user, conversation_id, message_ids, sender_username };
        Ok((self.bus.request(&rename, ANSWER).await?, upto))
    }
}
