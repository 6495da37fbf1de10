//! The demo conversation.

use std::time::Duration;

use anyhow::{Context, bail};
use contract::{
    ConversationId, Request, UserId,
    chat::{CreateConversation, Invitee},
};

/// The two people of the demo: who they are to the backend, and what they are called.
pub const PEOPLE: [(i64, &str); 2] = [(1, "alice"), (2, "bruno")];

/// Makes the demo conversation, as a marketplace's backend would. The same people and listing again are the same
/// conversation.
pub async fn conversation(nats: &str) -> anyhow::Result<ConversationId> {
    let invite = |(user, name): (i64, &str)| -> anyhow::Result<Invitee> {
        Ok(Invitee { user_id: UserId::new(user)?, username: Some(name.to_owned()) })
    };
    let wish = CreateConversation {
        participants: PEOPLE.into_iter().map(invite).collect::<anyhow::Result<_>>()?,
        listing_id: Some(1),
        title: Some("Vélo de ville, 120 €".to_owned()),
    };
    let client = async_nats::connect(nats).await.context("connect to NATS")?;
    let asked = client.request(CreateConversation::SUBJECT, serde_json::to_vec(&wish)?.into());
    let answer = tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .context("chat-service does not answer")?
        .context("ask chat-service for the demo conversation")?;
    if let Some(error) = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
        bail!("chat-service refuses the demo conversation: {error}");
    }
    #[derive(serde::Deserialize)]
    struct Made {
        conversation_id: ConversationId,
    }
    let made: Made = serde_json::from_slice(&answer.payload).context("read chat-service's answer")?;
    Ok(made.conversation_id)
}
