//! Users who join conversations: requests that arrive while Postgres answers others are answered together.

use crate::{
    error::failed,
    store::{self, Members, Named},
};
use contract::{
    Refusal,
    chat::{Admitted, JoinReply, JoinRequest},
};
use service::{
    batcher::{Batcher, Batches, Limits, batcher},
    postgres::{self, Dedicated},
};
use sqlx::{PgConnection, PgPool};
use tokio_util::task::TaskTracker;

/// Requests that wait; further ones wait in NATS.
const WAITING: usize = 64;
/// Requests that are answered together.
const REQUESTS: usize = 8;

type Reply = Result<Vec<JoinReply>, Refusal>;

/// The way in. Its task ends once every clone of this is gone and every request is answered.
#[derive(Clone)]
pub struct Joins(Batcher<Vec<JoinRequest>, Reply>);

/// Starts answering, over a connection of its own: one of Postgres' processes that has everything at hand.
pub fn start(pool: &PgPool, tasks: &TaskTracker) -> Joins {
    let (requests, batches) = batcher(Limits::new(WAITING, REQUESTS, "chat_doors_full_total"));
    let options = pool.connect_options().as_ref().clone().options(postgres::PLANS);
    // Only names are written, which are seen again: nobody waits for the disk.
    let connection = Dedicated::new(options.options([("synchronous_commit", "off")]));
    tasks.spawn(run(batches, connection));
    Joins(requests)
}

impl Joins {
    /// Decides for each entry whether the user may be on the conversation, and returns the state to start from.
    ///
    /// # Errors
    /// If Postgres doesn't answer.
    pub async fn admit(&self, entries: Vec<JoinRequest>) -> Reply {
        self.0.call(entries).await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }
}

async fn run(mut batches: Batches<Vec<JoinRequest>, Reply>, mut connection: Dedicated) {
    while let Some(batch) = batches.next().await {
        let entries: Vec<&JoinRequest> = batch.iter().flat_map(|call| &call.request).collect();
        match connection.run(async |connection| admit(connection, &entries).await).await {
            Ok(entered) => {
                let mut entered = entered.into_iter();
                for call in batch {
                    let own = entered.by_ref().take(call.request.len()).collect();
                    call.reply(Ok(own));
                }
            }
            Err(error) => {
                let refusal = failed("admit users to conversations", &error);
                for call in batch {
                    call.reply(Err(refusal.clone()));
                }
            }
        }
    }
}

async fn admit(connection: &mut PgConnection, entries: &[&JoinRequest]) -> sqlx::Result<Vec<JoinReply>> {
    let members = store::members_of_each(&mut *connection, entries).await?;
    let news: Vec<Named<'_>> = entries
        .iter()
        .zip(&members)
        .filter_map(|(entry, members)| {
            let (user_id, username) = (entry.user_id, entry.username.as_deref()?);
            let named_at = entry.named_at.unwrap_or_default();
            members.is_news(user_id, username, named_at).then_some(Named { user_id, username, named_at })
        })
        .collect();
    if !news.is_empty() {
        store::learn_usernames(connection, &news).await?;
    }
    Ok(entries.iter().zip(&members).map(|(entry, members)| entered(entry, members)).collect())
}

fn entered(entry: &JoinRequest, members: &Members) -> JoinReply {
    if !members.holds(entry.user_id) {
        return JoinReply::Refused(Refusal::forbidden());
    }
    let name =
        members.newest_name(entry.user_id, entry.username.as_deref(), entry.named_at.unwrap_or_default());
    JoinReply::Admitted(Admitted {
        head: members.head(),
        markers: members.markers(entry.conversation_id),
        username: name.map_or_else(|| format!("user-{}", entry.user_id), str::to_owned),
        blocks: members.is_other_blocked(),
    })
}
