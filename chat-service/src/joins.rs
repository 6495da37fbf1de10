//! Letting users onto conversations: who comes while Postgres is asked about others is asked about together.

use crate::{
    error::failed,
    store::{self, Members, Named},
};
use contract::{
    Refusal,
    chat::{Enter, Entered, Entrance},
};
use service::postgres::{self, Dedicated};
use sqlx::{PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Packs that wait; more wait in NATS.
const WAITING: usize = 64;
/// Packs that are asked about at once.
const PACKS: usize = 8;

/// The way in. Its task ends once every clone of this is gone and everyone is answered.
#[derive(Clone)]
pub struct Joins(mpsc::Sender<Job>);

struct Job {
    entries: Vec<Enter>,
    reply: oneshot::Sender<Result<Vec<Entered>, Refusal>>,
}

/// Starts asking, over a connection of its own: one of Postgres' processes that has everything at hand.
pub fn start(pool: &PgPool, tasks: &TaskTracker) -> Joins {
    let (sender, jobs) = mpsc::channel(WAITING);
    let options = pool.connect_options().as_ref().clone().options(postgres::PLANS);
    // All that is written are names, which are seen again: nobody waits for the disk.
    let connection = Dedicated::new(options.options([("synchronous_commit", "off")]));
    tasks.spawn(run(jobs, connection));
    Joins(sender)
}

impl Joins {
    /// Says of each whether they may be on the conversation, and what there is to know then.
    ///
    /// # Errors
    /// When Postgres doesn't.
    pub async fn admit(&self, entries: Vec<Enter>) -> Result<Vec<Entered>, Refusal> {
        if self.0.capacity() == 0 {
            metrics::counter!("chat_doors_full_total").increment(1);
        }
        let (reply, answer) = oneshot::channel();
        self.0.send(Job { entries, reply }).await.map_err(|_| Refusal::unavailable())?;
        answer.await.map_err(|_| Refusal::unavailable())?
    }
}

async fn run(mut jobs: mpsc::Receiver<Job>, mut connection: Dedicated) {
    let mut taken = Vec::with_capacity(PACKS);
    while jobs.recv_many(&mut taken, PACKS).await > 0 {
        let entries: Vec<&Enter> = taken.iter().flat_map(|job| &job.entries).collect();
        match connection.run(async |connection| let_in(connection, &entries).await).await {
            Ok(entered) => {
                let mut entered = entered.into_iter();
                for Job { entries, reply } in taken.drain(..) {
                    // Whoever asked may have given up.
                    reply.send(Ok(entered.by_ref().take(entries.len()).collect())).ok();
                }
            }
            Err(error) => {
                let refusal = failed("let users in", &error);
                for job in taken.drain(..) {
                    job.reply.send(Err(refusal.clone())).ok();
                }
            }
        }
    }
}

async fn let_in(connection: &mut PgConnection, entries: &[&Enter]) -> sqlx::Result<Vec<Entered>> {
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

fn entered(entry: &Enter, members: &Members) -> Entered {
    if !members.holds(entry.user_id) {
        return Entered::Refused(Refusal::forbidden());
    }
    let name =
        members.newest_name(entry.user_id, entry.username.as_deref(), entry.named_at.unwrap_or_default());
    Entered::Admitted(Entrance {
        head: members.head(),
        markers: members.markers(entry.conversation_id),
        username: name.map_or_else(|| format!("user-{}", entry.user_id), str::to_owned),
        blocks: members.is_other_blocked(),
    })
}
