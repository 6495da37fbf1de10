//! Looks each thing up in Postgres as soon as it is first told: it must be committed by then.

use super::{
    rules::{Fault, Rule},
    world::World,
};
use anyhow::Context;
use sqlx::{Connection, Executor, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How many wait to be looked up; further ones are not, at the end everything is.
pub const WAITING: usize = 64;

/// What a socket was told.
#[derive(Debug, Clone, Copy)]
pub enum Told {
    /// A message: its conversation and id.
    Message(i64, i64),
    /// A notification: its user and id.
    Notification(i64, i64),
}

/// Makes every commit take a moment, as it does on a slow disk: what is told before it then shows.
///
/// # Errors
/// When Postgres does not do so.
pub async fn slow_down(database: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(database).await.context("connect to Postgres")?;
    for setting in ["commit_delay = 5000", "commit_siblings = 0"] {
        connection.execute(sqlx::AssertSqlSafe(format!("alter system set {setting}"))).await?;
    }
    connection.execute("select pg_reload_conf()").await?;
    connection.close().await.context("disconnect from Postgres")
}

/// Looks up what is told, until nobody tells any more.
pub async fn run(world: Arc<World>, database: String, mut told: mpsc::Receiver<Told>) {
    let mut connection = None;
    while let Some(told) = told.recv().await {
        if connection.is_none() {
            connection = PgConnection::connect(&database).await.ok();
        }
        // Without Postgres there is nothing to be seen now.
        let Some(postgres) = &mut connection else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match is_there(postgres, told).await {
            Ok(true) => {}
            Ok(false) => {
                let what = format!("{told:?} was told, and is not committed");
                world.violation(Fault::new(Rule::Lost, what));
            }
            Err(_) => connection = None,
        }
    }
}

async fn is_there(postgres: &mut PgConnection, told: Told) -> sqlx::Result<bool> {
    let (query, key, id) = match told {
        Told::Message(conversation, id) => (
            "select exists (select from chat.messages where conversation_id = $1 and message_id = $2)",
            conversation,
            id,
        ),
        Told::Notification(user, id) => (
            "select exists (select from notify.notifications where user_id = $1 and notification_id = $2)",
            user,
            id,
        ),
    };
    sqlx::query_scalar(query).bind(key).bind(id).fetch_one(postgres).await
}
