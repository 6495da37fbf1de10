//! Erasures of users, on behalf of chat-service.

use crate::{
    inboxes::{Inboxes, StoreError},
    plan::{MessageSummary, message_text},
    store,
};
use contract::{
    ConversationId, UserId,
    erasure::{DeleteInbox, ErasureProgress, RenameSender},
};

/// Maximum number of notifications changed or deleted in one request.
const BATCH: i64 = 500;

/// Replaces the name of a sender in a part of the notifications of others. Sockets that are open keep the name until
/// they read the notifications anew.
///
/// # Errors
/// If Postgres fails.
pub async fn rename(inboxes: &Inboxes, request: &RenameSender) -> Result<ErasureProgress, StoreError> {
    inboxes.with_retry(async || rename_part(inboxes, request).await).await
}

async fn rename_part(inboxes: &Inboxes, request: &RenameSender) -> Result<ErasureProgress, StoreError> {
    let RenameSender { sender_id, conversation_id, ref message_ids, ref sender_username } = *request;
    let messages: Vec<i64> = message_ids.iter().map(|message| message.get()).collect();
    let sender = store::Sender {
        user: sender_id,
        username: sender_username,
        conversation: conversation_id,
        messages: &messages,
    };
    let mut tx = inboxes.pool().begin().await?;
    let found = store::named_notifications(&mut tx, sender, None, BATCH).await?;
    let mut users: Vec<i64> = found.iter().map(|named| named.user_id).collect();
    users.sort_unstable();
    users.dedup();
    store::lock_inboxes(&mut tx, &users).await?;
    // Read again: until the lock, a message could supersede a notification with another one that has the name.
    let found = store::named_notifications(&mut tx, sender, Some(&users), BATCH).await?;
    let catalogue = inboxes.catalogue();
    let mut texts = Vec::with_capacity(found.len());
    for named in found {
        let summary = MessageSummary {
            conversation: ConversationId::new(named.conversation_id)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            message: named.message_id,
            seq: None,
            sender: None,
            sender_username: Some(sender_username.clone()),
            kind: named.kind,
            count: named.count,
            muted: false, // The text does not depend on it.
        };
        let text = message_text(&catalogue, catalogue.language(named.lang.as_deref()), &summary);
        texts.push((named.user_id, named.notification_id, text));
    }
    store::rename_sender(&mut tx, &texts, sender_username).await?;
    tx.commit().await?;
    Ok(ErasureProgress { more: !texts.is_empty() })
}

/// Deletes a part of a user's inbox: first notifications, at last the inbox itself.
///
/// # Errors
/// If Postgres fails.
pub async fn delete(
    inboxes: &Inboxes,
    DeleteInbox { user_id }: DeleteInbox,
) -> Result<ErasureProgress, StoreError> {
    inboxes.with_retry(async || delete_part(inboxes, user_id).await).await
}

async fn delete_part(inboxes: &Inboxes, user: UserId) -> Result<ErasureProgress, StoreError> {
    let mut tx = inboxes.pool().begin().await?;
    store::lock_inboxes(&mut tx, &[user.get()]).await?;
    let more = store::delete_notifications(&mut tx, user, BATCH).await? == BATCH.unsigned_abs();
    if !more {
        store::delete_inbox(&mut tx, user).await?;
    }
    tx.commit().await?;
    Ok(ErasureProgress { more })
}
