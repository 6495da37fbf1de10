//! Events for backends that are perhaps not in the stream `EVENTS_OUT` yet.

use contract::{Event, UserId};
use service::postgres;
use sqlx::{FromRow, PgConnection, PgExecutor};

/// An event for backends, to be published on `EVENTS_OUT`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Outgoing {
    /// The same each time that the event is published; also its `Nats-Msg-Id`.
    pub event_id: String,
    /// Subject on which it is published: one of [`crate::outbox::SUBJECTS`].
    pub subject: String,
    /// JSON.
    pub body: String,
    /// The user whom it concerns, if it is only one: the row goes with the user.
    pub user_id: Option<i64>,
}

impl Outgoing {
    /// The event with this id.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn new<E: Event>(event_id: &str, event: &E) -> serde_json::Result<Self> {
        let body = serde_json::to_string(event)?;
        Ok(Self { event_id: event_id.to_owned(), subject: event.subject(), body, user_id: None })
    }

    /// The same event, which concerns this user.
    pub fn about(self, user: UserId) -> Self {
        Self { user_id: Some(user.get()), ..self }
    }
}

/// Adds events, to be published in this order. Those whose id is already there stay as they are.
pub async fn add(db: impl PgExecutor<'_>, events: &[Outgoing]) -> sqlx::Result<()> {
    let column = |value: fn(&Outgoing) -> &str| events.iter().map(value).collect::<Vec<&str>>();
    postgres::query(
        "insert into telling (event_id, subject, body, user_id)
        select event_id, subject, body, user_id
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) with ordinality
            as new (event_id, subject, body, user_id, ord)
        order by ord on conflict do nothing",
    )
    .bind(column(|event| &event.event_id))
    .bind(column(|event| &event.subject))
    .bind(column(|event| &event.body))
    .bind(events.iter().map(|event| event.user_id).collect::<Vec<_>>())
    .execute(db)
    .await
    .map(drop)
}

/// Locks up to `limit` of the oldest events of a subject that no other replica is publishing.
pub async fn lock_oldest(db: &mut PgConnection, subject: &str, limit: i64) -> sqlx::Result<Vec<Outgoing>> {
    postgres::query_as(
        "select event_id, subject, body, user_id from telling where subject = $1
        order by place limit $2 for update skip locked",
    )
    .bind(subject)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Removes published events.
pub async fn remove(db: impl PgExecutor<'_>, event_ids: &[&str]) -> sqlx::Result<()> {
    let query = "delete from telling where event_id = any($1)";
    postgres::query(query).bind(event_ids).execute(db).await.map(drop)
}

/// Those of these subjects that have events.
pub async fn waiting(db: impl PgExecutor<'_>, subjects: &[&str]) -> sqlx::Result<Vec<String>> {
    let query = "select subject from unnest($1::text[]) as known (subject)
        where exists (select from telling where telling.subject = known.subject)";
    postgres::query_scalar(query).bind(subjects).fetch_all(db).await
}

/// The events of a subject that wait.
#[derive(Debug, FromRow)]
pub struct Backlog {
    pub subject: String,
    /// Their number, counted up to a limit.
    pub count: i64,
    /// Age of the oldest one, in seconds.
    pub age: f64,
}

/// What waits of each of these subjects, counted up to `limit`, without those of which nothing waits.
pub async fn backlogs(db: impl PgExecutor<'_>, subjects: &[&str], limit: i64) -> sqlx::Result<Vec<Backlog>> {
    postgres::query_as(
        "select subject, (
            select count(*) from (select from telling where telling.subject = known.subject limit $2) as counted
        ) as count, extract(epoch from clock_timestamp() - oldest.created_at)::float8 as age
        from unnest($1::text[]) as known (subject) cross join lateral (
            select created_at from telling where telling.subject = known.subject order by place limit 1
        ) as oldest",
    )
    .bind(subjects)
    .bind(limit)
    .fetch_all(db)
    .await
}
