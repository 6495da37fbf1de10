//! Users' preferences: which reminders they want, and their quiet hours.

use crate::{
    catalogue::Catalogue,
    inboxes::{Inboxes, StoreError},
    quiet::{Quiet, minute, time_of_day},
    steps::{self, Steps},
    store::{self, QuietRow},
};
use contract::{
    UserId,
    limits::{EVENT_TYPE_BYTES, PREFERENCES_MAX},
    preferences::{Preferences, QuietHours, SetPreferences, SettingChanges, Settings},
};
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The type that stands for all types without a setting of their own.
pub const ALL_TYPES: &str = "*";

/// The reason why preferences were not changed.
#[derive(Debug, thiserror::Error)]
pub enum PreferencesError {
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Storing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PreferencesError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Reads a user's preferences.
///
/// # Errors
/// If Postgres fails.
pub async fn get(inboxes: &Inboxes, user: UserId) -> Result<Preferences, StoreError> {
    inboxes
        .with_retry(async || {
            let mut connection = inboxes.pool().acquire().await?;
            Ok(read(&mut connection, &inboxes.catalogue(), inboxes.steps(), user).await?)
        })
        .await
}

/// Changes a user's preferences, and returns all of them. What waits for a reminder is decided again.
///
/// # Errors
/// If the request is invalid or Postgres fails.
pub async fn set(inboxes: &Inboxes, request: &SetPreferences) -> Result<Preferences, PreferencesError> {
    check(&request.changes.types)?;
    let quiet = match &request.changes.quiet {
        Some(Some(hours)) => Some(Some(quiet_row(request.user_id, hours)?)),
        Some(None) => Some(None),
        None => request.replace.then_some(None),
    };
    let stored = inboxes
        .with_retry(async || {
            let user = request.user_id;
            let mut tx = inboxes.pool().begin().await?;
            store::add_inboxes(&mut *tx, &[user.get()]).await?;
            store::lock_inboxes(&mut tx, &[user.get()]).await?;
            store_settings(&mut tx, request).await?;
            match &quiet {
                Some(Some(hours)) => store::save_quiet(&mut tx, hours).await?,
                Some(None) => store::delete_quiet(&mut tx, user).await?,
                None => {}
            }
            let settings = store::settings(&mut tx, &[user.get()], None).await?;
            if settings.len() > PREFERENCES_MAX {
                return Ok(None);
            }
            store::decide_again(&mut tx, user.get()).await?;
            let preferences = read(&mut tx, &inboxes.catalogue(), inboxes.steps(), user).await?;
            tx.commit().await?;
            Ok(Some(preferences))
        })
        .await?;
    stored.ok_or_else(|| PreferencesError::Invalid(format!("a user may have {PREFERENCES_MAX} settings")))
}

async fn store_settings(tx: &mut PgConnection, request: &SetPreferences) -> Result<(), StoreError> {
    let (user, types) = (request.user_id, &request.changes.types);
    if request.replace {
        store::delete_settings(tx, user, None).await?;
    }
    let removed: Vec<&str> =
        types.iter().filter(|(_, channels)| channels.is_none()).map(|(kind, _)| kind.as_str()).collect();
    let (mut gone, mut saved) = (Vec::new(), Vec::new());
    for (kind, channels) in types.iter().filter_map(|(kind, channels)| Some((kind, channels.as_ref()?))) {
        for (channel, enabled) in channels {
            match enabled {
                Some(enabled) => saved.push((kind.as_str(), channel.as_str(), *enabled)),
                None => gone.push((kind.as_str(), channel.as_str())),
            }
        }
    }
    if !removed.is_empty() {
        store::delete_settings(tx, user, Some(&removed)).await?;
    }
    if !gone.is_empty() {
        store::delete_single_settings(tx, user, &gone).await?;
    }
    if !saved.is_empty() {
        store::save_settings(tx, user, &saved).await?;
    }
    Ok(())
}

/// Checks names and their number. Types and channels need not exist: they may come or come back.
fn check(types: &SettingChanges) -> Result<(), PreferencesError> {
    let invalid = |detail: String| Err(PreferencesError::Invalid(detail));
    let count: usize = types.values().map(|channels| channels.as_ref().map_or(1, BTreeMap::len)).sum();
    if count > PREFERENCES_MAX {
        return invalid(format!("at most {PREFERENCES_MAX} settings"));
    }
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_type = |name: &str| {
        name == ALL_TYPES || (1..=EVENT_TYPE_BYTES).contains(&name.len()) && name.bytes().all(is_inner)
    };
    for (kind, channels) in types {
        if !is_type(kind) {
            return invalid("a type is such as listing_published, or *".to_owned());
        }
        if channels.iter().flat_map(BTreeMap::keys).any(|channel| !steps::is_name(channel)) {
            return invalid("a channel is such as mail: a letter and up to 15 of a-z, 0-9 and _".to_owned());
        }
    }
    Ok(())
}

fn quiet_row(user: UserId, hours: &QuietHours) -> Result<QuietRow, PreferencesError> {
    let times = minute(&hours.from).zip(minute(&hours.to)).filter(|(from, to)| from != to);
    let Some((from_minute, to_minute)) = times else {
        let detail = "\"from\" and \"to\" of quiet hours are different times such as 22:00";
        return Err(PreferencesError::Invalid(detail.to_owned()));
    };
    if Quiet::new(from_minute, to_minute, &hours.tz).is_none() {
        let detail = "\"tz\" must be a time zone of the IANA list, such as Europe/Paris";
        return Err(PreferencesError::Invalid(detail.to_owned()));
    }
    Ok(QuietRow { user_id: user.get(), from_minute, to_minute, tz: hours.tz.clone() })
}

async fn read(
    db: &mut PgConnection,
    catalogue: &Catalogue,
    steps: &Steps,
    user: UserId,
) -> sqlx::Result<Preferences> {
    let mut types = Settings::new();
    for setting in store::settings(db, &[user.get()], None).await? {
        types.entry(setting.r#type).or_default().insert(setting.channel, setting.enabled);
    }
    let quiet = store::quiet(db, &[user.get()]).await?.pop().map(|row| QuietHours {
        from: time_of_day(row.from_minute),
        to: time_of_day(row.to_minute),
        tz: row.tz,
    });
    let mut defaults = Settings::new();
    for (id, policy) in catalogue.policies().filter(|(_, policy)| policy.has_default()) {
        let channels: BTreeMap<String, bool> = steps
            .iter()
            .filter(|step| policy.reminds(id, &step.name))
            .map(|step| (step.name.clone(), policy.is_on(&step.name)))
            .collect();
        if !channels.is_empty() {
            defaults.insert(id.to_owned(), channels);
        }
    }
    let mandatory =
        catalogue.policies().filter(|(_, policy)| policy.mandatory).map(|(id, _)| id.to_owned()).collect();
    Ok(Preferences { types, quiet, defaults, mandatory })
}
