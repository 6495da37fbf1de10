//! After the faults, exactly the users with an open socket are present.

use super::rules::{Fault, Rule};
use crate::{Socket, Stack};
use anyhow::anyhow;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, sleep};

/// Time after which it must be so: that of law P4.
const LIMIT: Duration = Duration::from_secs(25);
/// Number of replies in a row that must agree: requests go to any replica.
const REPLIES: usize = 8;

/// Opens sockets of every other user, and returns the users who are wrongly present or absent after some time. Nobody
/// else may have a socket.
///
/// # Errors
/// If the last request failed.
pub async fn wrong(stack: &Stack, users: &[i64]) -> anyhow::Result<BTreeSet<i64>> {
    let mut sockets: Vec<Socket> = Vec::new();
    for user in users.iter().step_by(2) {
        sockets.push(stack.socket("/ws/", *user).await);
    }
    let began = Instant::now();
    let mut agreeing = 0;
    loop {
        let reply = stack.request("presence.who", &json!({"user_ids": users})).await;
        let wrong =
            reply.map(|reply| disagreeing(users, &reply)).map_err(|error| anyhow!("presence.who: {error}"));
        agreeing = if wrong.as_ref().is_ok_and(BTreeSet::is_empty) { agreeing + 1 } else { 0 };
        if agreeing == REPLIES || (agreeing == 0 && began.elapsed() > LIMIT) {
            return wrong;
        }
        if agreeing == 0 {
            sleep(Duration::from_millis(250)).await;
        }
    }
}

/// The users who are present without a socket, or absent with one.
fn disagreeing(users: &[i64], reply: &Value) -> BTreeSet<i64> {
    let items = reply["items"].as_array().cloned().unwrap_or_default();
    let online: BTreeSet<i64> = items
        .iter()
        .filter(|item| item["online"] == true)
        .filter_map(|item| item["user_id"].as_i64())
        .collect();
    let expected: BTreeSet<i64> = users.iter().copied().step_by(2).collect();
    online.symmetric_difference(&expected).copied().collect()
}

/// Collects a fault if there are such users.
pub fn judge(wrong: &BTreeSet<i64>, faults: &mut Vec<Fault>) {
    if !wrong.is_empty() {
        faults.push(Fault::new(Rule::Present, format!("users {wrong:?} are wrongly present or absent")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_must_be_present_exactly_while_they_have_a_socket() {
        let reply = |online: [bool; 3]| {
            let item = |(user, online)| json!({"user_id": user, "online": online});
            json!({"items": (1..).zip(online).map(item).collect::<Vec<_>>()})
        };
        assert_eq!(disagreeing(&[1, 2, 3], &reply([true, false, true])), BTreeSet::new());
        assert_eq!(disagreeing(&[1, 2, 3], &reply([true, true, false])), BTreeSet::from([2, 3]));
        let mut faults = Vec::new();
        judge(&BTreeSet::from([2]), &mut faults);
        judge(&BTreeSet::new(), &mut faults);
        assert_eq!(faults.iter().map(|fault| fault.rule).collect::<Vec<_>>(), [Rule::Present]);
    }
}
