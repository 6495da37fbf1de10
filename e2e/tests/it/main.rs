//! Black-box tests of the whole stack.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accounts;
mod admission;
mod backend;
mod backup;
mod changes;
mod chat;
mod collector;
mod crowds;
mod deadlines;
mod documents;
mod erasure;
mod events_out;
mod health;
mod hostile;
mod hostile_clients;
mod http;
mod inbox;
mod kinds;
mod limits;
mod listing;
mod logs;
mod metrics;
mod mine;
mod notifications;
mod postgres;
mod preferences;
mod presence;
mod probing;
mod raw;
mod reminders;
mod requests;
mod resilience;
mod retention;
mod revocations;
mod rules;
mod safety;
mod scale;
mod secrets;
mod subscriptions;
mod tokens;
mod traces;
mod typing;
mod versions;
mod webhooks;

use e2e::{Stack, eventually};
use serde_json::Value;

async fn unread(stack: &Stack, user: i64) -> Vec<Value> {
    stack.get("/api/notifications?unread=true", user).await["items"].as_array().unwrap().clone()
}

/// Waits until a user has `count` unread notifications, one of which stands for `messages` messages. Earlier, the same
/// number of notifications can stand for fewer messages.
async fn wait_for_unread(stack: &Stack, user: i64, count: usize, messages: i64) {
    let is_complete = async || {
        let unread = unread(stack, user).await;
        let is_counted = unread.iter().any(|notification| notification["data"]["count"] == messages);
        unread.len() == count && is_counted
    };
    eventually("the notifications", is_complete).await;
}
