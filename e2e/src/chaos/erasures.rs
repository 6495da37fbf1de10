//! Users who come, write, and are erased while parts of the stack fail. Nobody else is in their conversations: the other
//! checks of a run know nothing of them.

use super::{
    events_out::EventOut,
    ledger::Erased,
    rules::{Fault, Rule},
    world::{Counters, Phase, World},
};
use crate::Stack;
use anyhow::Context;
use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// The first of these users. No other user has such a number.
pub const FIRST: i64 = 1_000_000;
/// Timeout of a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(4);

/// What is left of a user at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Rows with the user's secret.
    pub rows: Vec<String>,
    /// Number of unread messages of the other participant.
    pub unread: i64,
    /// Whether `users.erased` was published.
    pub is_announced: bool,
}

/// Lets users come and erases them.
pub struct Eraser {
    world: Arc<World>,
    rng: Rng,
    client: async_nats::Client,
}

impl Eraser {
    /// Connects to this stack's NATS.
    ///
    /// # Errors
    /// If NATS can't be reached.
    pub async fn new(world: Arc<World>, seed: u64, stack: &Stack) -> anyhow::Result<Self> {
        let client = stack
            .nats_options("operator")
            .retry_on_initial_connect()
            .ping_interval(Duration::from_secs(3))
            .connect(stack.nats_urls("operator"))
            .await?;
        Ok(Self { world, rng: Rng::with_seed(seed ^ 0xe7a5e), client })
    }

    /// Erases one user after the other while clients chat.
    pub async fn run(mut self) {
        let mut user = FIRST;
        while self.world.phase() == Phase::Chatting {
            self.world.ledger().open_changes += 1;
            if self.erase(user).await.is_none() {
                return; // The run is over.
            }
            self.world.ledger().open_changes -= 1;
            user += 2;
            sleep(Duration::from_millis(self.rng.u64(500..3_000))).await;
        }
    }

    async fn erase(&mut self, user: i64) -> Option<()> {
        let (peer, secret) = (user + 1, format!("secret{:016x}", self.rng.u64(..)));
        let name = format!("name {secret}");
        let people = json!([{"user_id": user, "username": name}, {"user_id": peer}]);
        let opened = self.request("chat.conversations.create", &json!({"participants": people})).await?;
        let conversation = &opened["conversation_id"];
        for number in 0..self.rng.usize(1..30) {
            let send = json!({
                "conversation_id": conversation, "sender_id": user, "sender_username": name,
                "message": format!("{number} {secret}"), "client_id": number.to_string(),
            });
            let sent = self.request("chat.messages.send", &send).await?;
            if self.rng.u8(..4) == 0 {
                let text = format!("{number} {secret} again");
                let edit = json!({
                    "conversation_id": conversation, "message_id": sent["message_id"], "message": text,
                });
                self.request("chat.messages.update", &edit).await?;
            }
        }
        let mut erased = Erased { user, secret, erasures: Vec::new() };
        for _ in 0..self.rng.usize(1..=2) {
            let reply = self.request("users.erase", &json!({"user_id": user})).await?;
            erased.erasures.extend(reply["erasure_id"].as_i64());
        }
        self.world.ledger().erased.push(erased);
        Counters::increment(&self.world.counters.erased);
        Some(())
    }

    /// Repeats a request until there is a reply. `None`: the run is over before that, or the request is refused.
    async fn request(&self, subject: &'static str, body: &Value) -> Option<Value> {
        while self.world.phase() != Phase::Over {
            let request = self.client.request(subject, body.to_string().into());
            if let Ok(Ok(reply)) = timeout(REPLY_TIMEOUT, request).await {
                let refusal = reply.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error"));
                match refusal {
                    None => return serde_json::from_slice(&reply.payload).ok(),
                    Some(refusal) if refusal.as_str().starts_with("unavailable") => {}
                    Some(refusal) => {
                        let what = format!("{subject} was refused: {refusal}");
                        self.world.violation(Fault::new(Rule::Refused, what));
                        return None;
                    }
                }
            }
            sleep(Duration::from_millis(300)).await;
        }
        None
    }
}

/// Number of erasures that are not done.
///
/// # Errors
/// If Postgres doesn't reply.
pub async fn pending(database: &mut PgConnection) -> anyhow::Result<u64> {
    let pending: i64 = sqlx::query_scalar("select count(*) from chat.erasures where done_at is null")
        .fetch_one(database)
        .await?;
    Ok(pending.unsigned_abs())
}

/// Reads what is left of each erased user. `events` are all that were published for backends.
///
/// # Errors
/// If Postgres doesn't reply, or an event can't be read.
pub async fn left(
    stack: &Stack,
    erased: &[Erased],
    events: &[EventOut],
) -> anyhow::Result<Vec<(Erased, Left)>> {
    let mut database = PgConnection::connect(&stack.database.url()).await.context("connect to Postgres")?;
    let rows: Vec<String> = sqlx::query_scalar(
        "select t::text from chat.messages t where sender_id >= $1
         union all select t::text from chat.versions t
         union all select t::text from chat.users t where user_id >= $1
         union all select t::text from notify.notifications t where user_id >= $1",
    )
    .bind(FIRST)
    .fetch_all(&mut database)
    .await?;
    let announced = announced(events)?;
    let mut found = Vec::new();
    for one in erased {
        let unread: i64 = sqlx::query_scalar(
            "select coalesce(sum(c.last_seq - p.read_seq), 0)::bigint
             from chat.participants p join chat.conversations c using (conversation_id) where p.user_id = $1",
        )
        .bind(one.user + 1)
        .fetch_one(&mut database)
        .await?;
        let rows = rows.iter().filter(|row| row.contains(&one.secret)).cloned().collect();
        found.push((one.clone(), Left { rows, unread, is_announced: announced.contains(&one.user) }));
    }
    Ok(found)
}

/// The users of all `users.erased`.
fn announced(events: &[EventOut]) -> anyhow::Result<HashSet<i64>> {
    let erased = events.iter().filter(|event| event.subject == contract::streams::ERASED_SUBJECT);
    let users = erased.map(|event| {
        let event: contract::erasure::UserErased = serde_json::from_str(&event.body)?;
        Ok(event.user_id.get())
    });
    users.collect()
}

/// Collects all faults of erasures.
pub fn judge(left: &[(Erased, Left)], faults: &mut Vec<Fault>) {
    for (Erased { user, erasures, .. }, Left { rows, unread, is_announced }) in left {
        if !rows.is_empty() {
            let what = format!("user {user} is erased, and {} rows have the name or a text", rows.len());
            faults.push(Fault::new(Rule::Erased, what).with(rows.iter().take(3).cloned()));
        }
        if *unread != 0 {
            let what = format!("{unread} erased messages of user {user} count as unread");
            faults.push(Fault::new(Rule::Unread, what));
        }
        if !is_announced {
            faults.push(Fault::new(
                Rule::Erased,
                format!("the end of the erasure of user {user} was not published"),
            ));
        }
        if erasures.windows(2).any(|pair| pair[0] != pair[1]) {
            let what = format!("the erasures of user {user} have several ids: {erasures:?}");
            faults.push(Fault::new(Rule::Erased, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_an_erasure_is_found() {
        let erased = Erased { user: FIRST, secret: "s".into(), erasures: vec![1, 1] };
        let clean = Left { is_announced: true, ..Left::default() };
        let found = |erased: &Erased, left: Left| {
            let mut faults = Vec::new();
            judge(&[(erased.clone(), left)], &mut faults);
            faults.into_iter().map(|fault| fault.rule).collect::<Vec<_>>()
        };
        assert_eq!(found(&erased, clean.clone()), []);
        assert_eq!(found(&erased, Left { rows: vec!["(1,s)".into()], ..clean.clone() }), [Rule::Erased]);
        assert_eq!(found(&erased, Left { unread: 1, ..clean.clone() }), [Rule::Unread]);
        assert_eq!(found(&erased, Left::default()), [Rule::Erased]);
        assert_eq!(found(&Erased { erasures: vec![1, 2], ..erased }, clean), [Rule::Erased]);
    }
}
