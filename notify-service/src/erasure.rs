//! Erasures of users, on behalf of chat-service.

use crate::{
    inboxes::{Inboxes, StoreError},
    plan::{MessageSummary, message_text},
    store,
};
use contract::{
    UserId,
    erasure::{DeleteInbox, InboxDeleted, RenameSender},
};

/// Maximum number of notifications deleted in one request.
const BATCH: i64 = 500;

/// Replaces the name of a sender in the notifications of messages. Sockets that are open keep the name until they read
/// the notifications anew.
///
/// # Errors
/// If Postgres fails.
pub async fn rename(inboxes: &Inboxes, request: &RenameSender) -> Result<(), StoreError> {
    let users: Vec<i64> = request.user_ids.iter().map(|user| user.get()).collect();
    let messages: Vec<i64> = request.message_ids.iter().map(|message| message.get()).collect();
    let (conversation, name) = (request.conversation_id, request.sender_username.as_str());
    let catalogue = inboxes.catalogue();
    inboxes
        .with_retry(async || {
            let named =
                store::notifications_of_messages(inboxes.pool(), &users, conversation, &messages).await?;
            let text = |named: store::Named| {
                let summary = MessageSummary {
                    conversation,
                    message: named.message_id,
                    seq: None,
                    sender_username: Some(name.to_owned()),
                    kind: named.kind,
                    count: named.count,
                };
                let text = message_text(&catalogue, catalogue.language(named.lang.as_deref()), &summary);
                (named.user_id, named.notification_id, text)
            };
            let texts: Vec<_> = named.into_iter().map(text).collect();
            Ok(store::rename_sender(inboxes.pool(), &texts, name).await?)
        })
        .await
}

/// Deletes a part of a user's inbox: first notifications, at last the inbox itself.
///
/// # Errors
/// If Postgres fails.
pub async fn delete(
    inboxes: &Inboxes,
    DeleteInbox { user_id }: DeleteInbox,
) -> Result<InboxDeleted, StoreError> {
    inboxes.with_retry(async || delete_part(inboxes, user_id).await).await
}

async fn delete_part(inboxes: &Inboxes, user: UserId) -> Result<InboxDeleted, StoreError> {
    let mut tx = inboxes.pool().begin().await?;
    store::lock_inboxes(&mut tx, &[user.get()]).await?;
    let more = store::delete_notifications(&mut tx, user, BATCH).await? == BATCH.unsigned_abs();
    if !more {
        store::delete_inbox(&mut tx, user).await?;
    }
    tx.commit().await?;
    Ok(InboxDeleted { more })
}
