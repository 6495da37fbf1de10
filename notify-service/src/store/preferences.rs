//! The queries of users' preferences.

use contract::UserId;
use service::postgres;
use sqlx::{FromRow, PgConnection};

/// A user's setting.
#[derive(Debug, FromRow)]
pub struct Setting {
    pub user_id: i64,
    pub r#type: String,
    pub channel: String,
    pub enabled: bool,
}

/// Quiet hours of a user.
#[derive(Debug, FromRow)]
pub struct QuietRow {
    pub user_id: i64,
    pub from_minute: i16,
    pub to_minute: i16,
    pub tz: String,
}

/// The settings of users; with `channel`, only those of it.
pub async fn settings(
    db: &mut PgConnection,
    users: &[i64],
    channel: Option<&str>,
) -> sqlx::Result<Vec<Setting>> {
    let query = "select user_id, type, channel, enabled from preferences
        where user_id = any($1) and ($2::text is null or channel = $2)";
    postgres::query_as(query).bind(users).bind(channel).fetch_all(db).await
}

/// The quiet hours of users.
pub async fn quiet(db: &mut PgConnection, users: &[i64]) -> sqlx::Result<Vec<QuietRow>> {
    let query = "select user_id, from_minute, to_minute, tz from quiet where user_id = any($1)";
    postgres::query_as(query).bind(users).fetch_all(db).await
}

/// Deletes all settings of a user, or those of some types.
pub async fn delete_settings(
    db: &mut PgConnection,
    user: UserId,
    types: Option<&[&str]>,
) -> sqlx::Result<()> {
    let query = "delete from preferences where user_id = $1 and ($2::text[] is null or type = any($2))";
    postgres::query(query).bind(user.get()).bind(types).execute(db).await.map(drop)
}

/// Deletes single settings of a user: type and channel.
pub async fn delete_single_settings(
    db: &mut PgConnection,
    user: UserId,
    settings: &[(&str, &str)],
) -> sqlx::Result<()> {
    let (types, channels): (Vec<&str>, Vec<&str>) = settings.iter().copied().unzip();
    let query = "delete from preferences using unnest($2::text[], $3::text[]) as gone (type, channel)
        where user_id = $1 and preferences.type = gone.type and preferences.channel = gone.channel";
    postgres::query(query).bind(user.get()).bind(types).bind(channels).execute(db).await.map(drop)
}

/// Saves settings of a user: type, channel, and whether it is on.
pub async fn save_settings(
    db: &mut PgConnection,
    user: UserId,
    settings: &[(&str, &str, bool)],
) -> sqlx::Result<()> {
    let types: Vec<&str> = settings.iter().map(|(kind, ..)| *kind).collect();
    let channels: Vec<&str> = settings.iter().map(|(_, channel, _)| *channel).collect();
    let enabled: Vec<bool> = settings.iter().map(|(.., enabled)| *enabled).collect();
    postgres::query(
        "insert into preferences select $1, * from unnest($2::text[], $3::text[], $4::bool[])
        on conflict (user_id, type, channel) do update set enabled = excluded.enabled",
    )
    .bind(user.get())
    .bind(types)
    .bind(channels)
    .bind(enabled)
    .execute(db)
    .await
    .map(drop)
}

/// Saves the quiet hours of a user.
pub async fn save_quiet(db: &mut PgConnection, quiet: &QuietRow) -> sqlx::Result<()> {
    postgres::query(
        "insert into quiet values ($1, $2, $3, $4) on conflict (user_id) do update
        set from_minute = excluded.from_minute, to_minute = excluded.to_minute, tz = excluded.tz",
    )
    .bind(quiet.user_id)
    .bind(quiet.from_minute)
    .bind(quiet.to_minute)
    .bind(&quiet.tz)
    .execute(db)
    .await
    .map(drop)
}

/// Deletes the quiet hours of a user.
pub async fn delete_quiet(db: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    postgres::query("delete from quiet where user_id = $1").bind(user.get()).execute(db).await.map(drop)
}
