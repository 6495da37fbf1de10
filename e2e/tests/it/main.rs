//! The stack, as its users see it.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod accounts;
mod admission;
mod backup;
mod chat;
mod collector;
mod crowds;
mod deadlines;
mod documents;
mod health;
mod hostile;
mod hostile_clients;
mod http;
mod inbox;
mod limits;
mod logs;
mod metrics;
mod notifications;
mod postgres;
mod probing;
mod raw;
mod requests;
mod resilience;
mod revocations;
mod rules;
mod safety;
mod scale;
mod subscriptions;
mod tokens;
mod traces;
mod typing;

use e2e::{Stack, eventually};
use serde_json::Value;

async fn unread(stack: &Stack, user: i64) -> Vec<Value> {
    stack.get("/api/notifications?unread=true", user).await["items"].as_array().unwrap().clone()
}

/// Waits until a user has so much unread, of which one stands for so many messages: until it does, there may be as much
/// unread, which stands for less.
async fn is_notified(stack: &Stack, user: i64, count: usize, messages: i64) {
    let told = async || {
        let unread = unread(stack, user).await;
        let stands = unread.iter().any(|shown| shown["data"]["count"] == messages);
        (unread.len() == count && stands).then_some(())
    };
    eventually("the notifications", told).await;
}
