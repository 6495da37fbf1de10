//! Joins of conversations: requests that arrive while a query runs are combined into the next query.

use crate::store::{self, DisplayName, Members};
use contract::{
    Refusal,
    chat::{Admitted, JoinReply, JoinRequest},
};
use service::{
    batcher::{Batcher, Batches, Limits, batcher},
    postgres::{self, Dedicated, Pool},
};
use sqlx::PgConnection;
use tokio_util::task::TaskTracker;

/// Capacity of the queue of requests; further ones wait in NATS.
const WAITING: usize = 64;
/// Maximum number of requests in one query.
const BATCH: usize = 8;

type Replies = Result<Vec<JoinReply>, Refusal>;

/// Handle of the task that answers joins. The task ends once every clone is dropped and every request is answered.
#[derive(Clone)]
pub struct Joins(Batcher<Vec<JoinRequest>, Replies>);

/// Starts the task, with its own connection: a Postgres process that serves only these queries keeps its caches warm.
pub fn start(pool: &Pool, tasks: &TaskTracker) -> Joins {
    let (requests, batches) = batcher(Limits::new(WAITING, BATCH, "chat_joins_full_total"));
    // The only writes are usernames, which arrive again with the next join: a commit need not wait for the disk.
    let settings = [&postgres::PLANS[..], &[("synchronous_commit", "off")]].concat();
    let options = pool.connect_options().as_ref().clone();
    let connection = Dedicated::new(postgres::with_settings(options, &settings));
    tasks.spawn(run(batches, connection));
    Joins(requests)
}

impl Joins {
    /// Returns for each entry the state to start from, or a refusal if the user is not a participant.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn admit(&self, entries: Vec<JoinRequest>) -> Replies {
        self.0.call(entries).await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }
}

async fn run(mut batches: Batches<Vec<JoinRequest>, Replies>, mut connection: Dedicated) {
    while let Some(batch) = batches.next().await {
        let entries: Vec<&JoinRequest> = batch.iter().flat_map(|call| &call.request).collect();
        match connection.run(async |connection| admit(connection, &entries).await).await {
            Ok(replies) => {
                let mut replies = replies.into_iter();
                for call in batch {
                    let own = replies.by_ref().take(call.request.len()).collect();
                    call.reply(Ok(own));
                }
            }
            Err(error) => {
                let refusal = postgres::refusal("admit users to conversations", &error);
                for call in batch {
                    call.reply(Err(refusal.clone()));
                }
            }
        }
    }
}

async fn admit(connection: &mut PgConnection, entries: &[&JoinRequest]) -> sqlx::Result<Vec<JoinReply>> {
    let members = store::members_of_each(&mut *connection, entries).await?;
    let names: Vec<DisplayName<'_>> = entries
        .iter()
        .zip(&members)
        .filter_map(|(entry, members)| {
            let (user_id, username) = (entry.user_id, entry.username.as_deref()?);
            let named_at = entry.named_at.unwrap_or_default();
            members.is_newer_name(user_id, username, named_at).then_some(DisplayName {
                user_id,
                username,
                named_at,
            })
        })
        .collect();
    if !names.is_empty() {
        store::save_usernames(&mut *connection, &names).await?;
    }
    let mut replies = Vec::with_capacity(entries.len());
    for (entry, members) in entries.iter().zip(&members) {
        let mut reply = join_reply(entry, members);
        if let (true, JoinReply::Admitted(admitted)) = (entry.with_people, &mut reply) {
            admitted.people = members.users().filter(|user| *user != entry.user_id).collect();
        }
        replies.push(reply);
    }
    Ok(replies)
}

fn join_reply(entry: &JoinRequest, members: &Members) -> JoinReply {
    if !members.contains(entry.user_id) {
        return JoinReply::Refused(Refusal::forbidden());
    }
    let name =
        members.newest_name(entry.user_id, entry.username.as_deref(), entry.named_at.unwrap_or_default());
    JoinReply::Admitted(Admitted {
        head: members.head(),
        markers: members.markers(entry.conversation_id),
        username: name.map_or_else(|| format!("user-{}", entry.user_id), str::to_owned),
        blocks: members.is_other_blocked(),
        changes: members.changes(),
        people: Vec::new(),
    })
}
