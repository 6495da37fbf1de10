//! Publishes the changes of users' presence to the gateways with sockets that watch them.
//!
//! Every replica publishes every change. A gateway ignores repeats, and NATS drops changes of users whom nobody
//! watches.

use contract::{
    Timestamp,
    presence::{UserNews, UserNewsKind, rounded},
};
use service::{
    Bus, Presence,
    presence::{self, leases::Change},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts to follow the gateways and to publish, until the token is cancelled.
///
/// # Errors
/// If the NATS client is closed.
pub async fn start(bus: &Bus, tasks: &TaskTracker, stop: CancellationToken) -> anyhow::Result<()> {
    let presence = Presence::follow(bus, tasks, stop.clone()).await?;
    let (bus, mut changes) = (bus.clone(), presence.changes());
    tasks.spawn(async move {
        loop {
            let news = tokio::select! {
                news = changes.next() => news,
                () = stop.cancelled() => return,
            };
            match news {
                Some(presence::Update::Changes(changes)) => publish(&bus, &changes).await,
                // Gateways read the states of watched users regularly.
                Some(presence::Update::Missed) => {}
                None => return,
            }
        }
    });
    Ok(())
}

async fn publish(bus: &Bus, changes: &[Change]) {
    let last_seen = rounded(Timestamp::now());
    for Change { user_id, is_present: online } in changes.iter().copied() {
        // While NATS is disconnected, a change would be published too late.
        let published = if bus.is_connected() {
            let kind = UserNewsKind::State { online, last_seen: (!online).then_some(last_seen) };
            bus.publish(&UserNews { user_id, kind }).await
        } else {
            Err(anyhow::anyhow!("NATS is disconnected"))
        };
        match published {
            Ok(()) => metrics::counter!("presence_published_total").increment(1),
            Err(error) => {
                metrics::counter!("presence_unpublished_total").increment(1);
                tracing::debug!(
                    error = format!("{error:#}"),
                    "publish a change of presence; gateways read it later"
                );
            }
        }
    }
}
