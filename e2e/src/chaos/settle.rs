//! Waits until everyone has caught up.

use super::{
    frame::Channel,
    rules::{Fault, Rule},
    truth::{self, Ends},
    world::World,
};
use crate::Stack;
use contract::log::Head;
use std::time::{Duration, Instant};

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until every message that is sent again until it is acknowledged is so, all that was committed is told, and
/// every client has been told everything. What is not so after a while is a violation.
///
/// # Errors
/// When Postgres or NATS don't answer.
pub async fn wait(stack: &Stack, world: &World) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let ends = truth::ends(stack).await?;
        let lacks = lacks(world, &ends);
        if lacks.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            lacks.into_iter().for_each(|fault| world.violation(fault));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn lacks(world: &World, ends: &Ends) -> Vec<Fault> {
    let mut lacks = Vec::new();
    let unacknowledged = world.ledger().unacknowledged();
    if unacknowledged > 0 {
        let what = format!("{unacknowledged} messages are sent again and again, and not acknowledged");
        lacks.push(Fault::new(Rule::Answer, what));
    }
    for (what, count) in ends.under_way.iter().filter(|(_, count)| **count > 0) {
        lacks.push(Fault::new(Rule::Outbox, format!("{what}: {count} are still under way")));
    }
    for ((client, channel), standing) in world.standings() {
        let end = match channel {
            Channel::Chat(id) => ends.conversations.get(&id),
            Channel::Inbox => ends.inboxes.get(&standing.user),
            Channel::Typing(_) => continue,
        };
        let end = end.copied().unwrap_or_default();
        let told: Option<Head> = standing.told;
        if told.is_some_and(|told| told.seq != end.seq) {
            let what = format!(
                "page {client} of user {} was told of {} up to seq {}, which ends at {}",
                standing.user,
                channel.name(),
                told.unwrap_or_default().seq,
                end.seq
            );
            lacks.push(Fault::new(Rule::Behind, what));
        }
    }
    lacks
}
