//! Waits until all clients and services have caught up.

use super::{
    final_state::{self, Ends},
    frame::Channel,
    reminders::Wishes,
    rules::{Fault, Rule},
    view::View,
    world::World,
};
use crate::Stack;
use contract::log::Head;
use std::time::{Duration, Instant};

/// Maximum time for that. Most is needed by erasures, which rest for up to 20 s after a slow step.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);

/// Waits until every repeated message is acknowledged, all committed data is published, everybody is reminded, and
/// every client has received everything. Anything that is missing after the timeout is a violation.
///
/// # Errors
/// If Postgres or NATS don't reply.
pub async fn wait(stack: &Stack, world: &World, wishes: Option<Wishes>) -> anyhow::Result<()> {
    let until = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let ends = final_state::ends(stack, wishes).await?;
        let incomplete = incomplete(world, &ends);
        if incomplete.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            incomplete.into_iter().for_each(|fault| world.violation(fault));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn incomplete(world: &World, ends: &Ends) -> Vec<Fault> {
    let mut incomplete = Vec::new();
    let unacknowledged = world.ledger().unacknowledged();
    if unacknowledged > 0 {
        let what = format!("{unacknowledged} messages are still unacknowledged after repeated sends");
        incomplete.push(Fault::new(Rule::Answer, what));
    }
    let unmade = world.ledger().open_changes;
    if unmade > 0 {
        let what = format!("{unmade} edits or deletions are still unacknowledged after repeated requests");
        incomplete.push(Fault::new(Rule::Answer, what));
    }
    for (what, count) in ends.pending.iter().filter(|(_, count)| **count > 0) {
        incomplete.push(Fault::new(Rule::Outbox, format!("{what}: {count} still pending")));
    }
    for ((client, channel), position) in world.positions() {
        let end = match channel {
            Channel::Chat(id) => ends.conversations.get(&id),
            Channel::Inbox => ends.inboxes.get(&position.user),
            Channel::Typing(_) => continue,
        };
        let end = end.copied().unwrap_or_default();
        let last: Option<Head> = position.last;
        if last.is_some_and(|last| last.seq != end.seq) {
            let what = format!(
                "page {client} of user {} received {} up to seq {}, but the last seq is {}",
                position.user,
                channel.name(),
                last.unwrap_or_default().seq,
                end.seq
            );
            incomplete.push(Fault::new(Rule::Behind, what));
        }
    }
    for ((client, conversation), views) in &*world.views() {
        let behind = |view: &View| {
            let change = |seq| ends.changes.get(&(*conversation, seq)).copied().unwrap_or_default();
            view.0.iter().filter(|(seq, shown)| shown.change < change(**seq)).count()
        };
        for (name, view) in [("socket", &views.socket), ("page", &views.page)] {
            let behind = behind(view);
            if behind > 0 {
                let what = format!(
                    "the {name} of client {client} shows {behind} messages of chat/{conversation} as they were before \
                     their last change"
                );
                incomplete.push(Fault::new(Rule::Behind, what));
            }
        }
    }
    incomplete
}
