//! Who wants onto which conversation, on its way to chat-service: who comes at about the same time is asked about together.

use crate::nats::batch::Gather;
use contract::{
    Code, Refusal,
    chat::{Enter, EnterPack, Entered, Entrance},
    limits,
};
use service::{Bus, RequestError};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Those who wait to be asked about; more wait at their sockets.
const WAITING: usize = 32 * limits::PACK_ENTRIES;
/// Packs under way at once.
const UNDER_WAY: usize = 8;
/// Between two packs. Over most networks, coming to a connection takes longer.
const EVERY: Duration = Duration::from_millis(10);
/// How long chat-service may take.
const ANSWER: Duration = limits::SEND_DEADLINE;
/// How long anyone waits altogether.
const DEADLINE: Duration = ANSWER.saturating_add(Duration::from_secs(1));

/// The way to chat-service for those who want in.
pub struct Doors(mpsc::Sender<Job>);

struct Job {
    entry: Enter,
    reply: oneshot::Sender<Result<Entrance, Refusal>>,
}

impl Doors {
    /// Starts asking. It ends with this, once everyone is answered.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Self {
        let (sender, jobs) = mpsc::channel(WAITING);
        tasks.spawn(run(bus, Gather::new(jobs, EVERY, limits::PACK_ENTRIES), tasks.clone()));
        Self(sender)
    }

    /// Asks whether a user may be on a conversation, and what there is to know then.
    ///
    /// # Errors
    /// When the user may not, or there is no answer within some seconds.
    pub async fn enter(&self, entry: Enter) -> Result<Entrance, Refusal> {
        if self.0.capacity() == 0 {
            metrics::counter!("gateway_doors_full_total").increment(1);
        }
        let (reply, answer) = oneshot::channel();
        let entered = async {
            self.0.send(Job { entry, reply }).await.ok()?;
            answer.await.ok()
        };
        timeout(DEADLINE, entered).await.ok().flatten().unwrap_or_else(|| Err(Refusal::unavailable()))
    }
}

async fn run(bus: Bus, mut jobs: Gather<Job>, tasks: TaskTracker) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        let permit = under_way.clone().acquire_owned().await.expect("this semaphore is never closed");
        let Some(mut pack) = jobs.next().await else { return };
        pack.retain(|job| !job.reply.is_closed()); // Clients that have gone.
        let bus = bus.clone();
        tasks.spawn(async move {
            ask(&bus, pack).await;
            drop(permit);
        });
    }
}

async fn ask(bus: &Bus, jobs: Vec<Job>) {
    let (entries, replies): (Vec<Enter>, Vec<_>) =
        jobs.into_iter().map(|Job { entry, reply }| (entry, reply)).unzip();
    let refusal = match bus.request_until(&EnterPack { entries }, ANSWER).await {
        Ok(entered) if entered.len() == replies.len() => {
            for (reply, entered) in replies.into_iter().zip(entered) {
                let entered = match entered {
                    Entered::Admitted(entrance) => Ok(entrance),
                    Entered::Refused(refusal) => Err(refusal),
                };
                reply.send(entered).ok(); // Whoever asked may have gone.
            }
            return;
        }
        Ok(_) => Refusal::new(Code::Internal, "a fault of the server"),
        Err(error) => RequestError::into_refusal(error),
    };
    for reply in replies {
        reply.send(Err(refusal.clone())).ok();
    }
}
