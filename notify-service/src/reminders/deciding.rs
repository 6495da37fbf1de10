//! Decides about what a sweep has found, and makes the reminders.

use super::{Outcome, Reminders};
use crate::{
    catalogue::{Catalogue, fluent_id},
    decision::{Circumstances, Decision, Unread, decide, issued_since},
    inboxes::StoreError,
    plan::Inbox,
    preferences::ALL_TYPES,
    quiet::Quiet,
    steps::Step,
    store::{
        self, Decided, DueTypes, ItemRow, Many, Scope, UnreadRow,
        telling::{self, Outgoing},
    },
};
use contract::{
    NotificationId, UserId,
    limits::{REMINDER_DATA_BYTES, REMINDER_ITEMS},
    reminders::{Reminder, ReminderItem, UnreadCounts},
};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;

/// Maximum number of notifications of one user that become part of a reminder, besides those about which the sweep
/// decides one by one. A user with more gets another reminder.
const MANY: i64 = 50_000;
/// Minimum number of these that a statement saves. Statements have a time limit, and each has a cost of its own.
const MANY_PART: i64 = 500;

/// What is to be reminded of.
#[derive(Default)]
struct Due<'a> {
    /// What was decided one by one.
    rows: Vec<&'a UnreadRow>,
    /// Whether there is more.
    has_more: bool,
}

/// What a sweep knows about the users that it has found.
struct Known {
    inboxes: HashMap<UserId, Inbox>,
    settings: HashMap<i64, HashMap<String, bool>>,
    quiet: HashMap<i64, Quiet>,
    last_told: HashMap<i64, OffsetDateTime>,
}

impl<P: Fn(UserId) -> bool> Reminders<P> {
    /// Decides about everything that these users have not read, and stores the decisions and the reminders. Of a user
    /// with more than `limit` such things, it decides about so many, and about all others that the same reminder
    /// contains.
    pub(super) async fn decide_all(
        &self,
        tx: &mut PgConnection,
        catalogue: &Catalogue,
        (step, scope): (&Step, Scope<'_>),
        users: &[i64],
        (now, limit): (OffsetDateTime, i64),
    ) -> Result<Outcome, StoreError> {
        let inboxes = store::lock_inboxes(tx, users).await?;
        // Read after the locks: nothing of it can be read, and no preference changed, before the commit.
        let rows = store::unread(tx, scope, users, (now, limit)).await?;
        let known = Known::read(tx, step, users, inboxes).await?;
        let mut numbers: HashMap<i64, i64> = HashMap::new();
        for row in &rows {
            *numbers.entry(row.user_id).or_default() += 1;
        }
        let mut outcome = Outcome::default();
        let mut due: BTreeMap<i64, Due<'_>> = BTreeMap::new();
        let mut decided = Vec::with_capacity(rows.len());
        for row in &rows {
            let Ok(user) = UserId::new(row.user_id) else { continue };
            let circumstances = self.circumstances(&known, user, now);
            let (decision, mut is_new) =
                (decide(step, known.unread(catalogue, step, row), circumstances), true);
            match decision {
                Decision::Issue(at) => {
                    due.entry(row.user_id).or_default().rows.push(row);
                    // When a user left is not known here.
                    if !row.while_present {
                        let late = now - row.due_at.map_or(at, |again| again.max(at));
                        outcome.late.push(late.as_seconds_f64().max(0.0));
                    }
                }
                Decision::Postpone { due, while_present } => {
                    outcome.postponed += u64::from(row.due_at.is_none());
                    is_new = row.due_at != Some(due) || row.while_present != while_present;
                    if is_new {
                        decided.push(Decided {
                            unread: row,
                            again: Some((due, while_present)),
                            event_id: None,
                        });
                    }
                }
                Decision::Drop => {
                    outcome.dropped += 1;
                    decided.push(Decided { unread: row, again: None, event_id: None });
                }
            }
            // The last row is the one that is looked at last, so if that is as before, the others are.
            if is_new && numbers.get(&row.user_id).is_some_and(|number| *number >= limit) {
                outcome.unfinished.insert(row.user_id);
            } else {
                outcome.unfinished.remove(&row.user_id);
            }
        }
        for (user, due) in &mut due {
            due.has_more = outcome.unfinished.contains(user);
        }
        let told = self.issue(tx, (step, scope), (&known, catalogue), &due, now).await?;
        outcome.issued = told.len();
        for (due, told) in due.values().zip(&told) {
            decided.extend(due.rows.iter().map(|row| Decided {
                unread: row,
                again: None,
                event_id: Some(&told.event_id),
            }));
        }
        if !decided.is_empty() {
            store::save_decisions(tx, &step.name, &decided, now).await?;
        }
        for ((user, _), told) in due.iter().zip(&told).filter(|((_, due), _)| due.has_more) {
            let types = self.due_types(&known, catalogue, (step, scope), *user, now);
            let many = Many { step: &step.name, user: *user, types: &types };
            let (mut before, part) = (i64::MAX, limit.max(MANY_PART));
            for _ in 0..MANY / part {
                let saved = store::save_many(tx, &many, &told.event_id, now, (before, part)).await?;
                let Some(last) = saved else { break };
                before = last;
            }
        }
        Ok(outcome)
    }

    fn circumstances(&self, known: &Known, user: UserId, now: OffsetDateTime) -> Circumstances {
        Circumstances {
            now,
            present: (self.is_present)(user),
            quiet_until: known.quiet.get(&user.get()).and_then(|quiet| quiet.until(now)),
            last: known.last_told.get(&user.get()).copied(),
        }
    }

    /// Of which types a user is reminded now: those with a setting of the user by their own names, as in events, and all
    /// others by their ids in the catalogue.
    fn due_types<'a>(
        &'a self,
        known: &'a Known,
        catalogue: &Catalogue,
        (step, scope): (&Step, Scope<'a>),
        user: i64,
        now: OffsetDateTime,
    ) -> DueTypes<'a> {
        let Ok(id) = UserId::new(user) else { return DueTypes::default() };
        let circumstances = self.circumstances(known, id, now);
        let since = |(wanted, mandatory): (bool, bool)| {
            issued_since(step, mandatory, circumstances).filter(|_| wanted || mandatory)
        };
        let reminds = |kind: &str| scope.types.iter().any(|id| *id == *fluent_id(kind));
        let set = known.settings.get(&user).into_iter().flatten();
        let set = set.filter(|(kind, _)| reminds(kind.as_str())).map(|(kind, _)| {
            let since = since(known.wish(catalogue, step, user, kind));
            (kind.as_str(), since)
        });
        let others = scope.types.iter().filter_map(|id| {
            let since = since(known.wish_without_setting(catalogue, step, user, id))?;
            Some((id.as_str(), since))
        });
        DueTypes { set: set.collect(), others: others.collect() }
    }

    /// Makes one reminder for each user, in ascending order, and stores them.
    async fn issue(
        &self,
        tx: &mut PgConnection,
        (step, scope): (&Step, Scope<'_>),
        (known, catalogue): (&Known, &Catalogue),
        due: &BTreeMap<i64, Due<'_>>,
        now: OffsetDateTime,
    ) -> Result<Vec<Outgoing>, StoreError> {
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let newest = |rows: &[&UnreadRow]| {
            let mut ids: Vec<i64> = rows.iter().map(|row| row.notification_id).collect();
            ids.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
            ids.truncate(REMINDER_ITEMS);
            ids
        };
        let (mut shown, mut numbers): (Vec<(i64, i64)>, HashMap<i64, usize>) = Default::default();
        for (user, Due { rows, has_more }) in due {
            let (mut ids, mut number) = (newest(rows), rows.len());
            if *has_more {
                let types = self.due_types(known, catalogue, (step, scope), *user, now);
                let many = Many { step: &step.name, user: *user, types: &types };
                let all = store::newest_of_many(tx, &many, now, REMINDER_ITEMS as i64).await?;
                number = all.first().and_then(|(_, all)| usize::try_from(*all).ok()).unwrap_or(number);
                ids = all.into_iter().map(|(id, _)| id).collect();
            }
            shown.extend(ids.into_iter().map(|id| (*user, id)));
            numbers.insert(*user, number);
        }
        let (users, ids): (Vec<i64>, Vec<i64>) = shown.into_iter().unzip();
        let bytes = i32::try_from(REMINDER_DATA_BYTES).unwrap_or(i32::MAX);
        let mut items: HashMap<i64, Vec<ItemRow>> = HashMap::new();
        for item in store::items(tx, &users, &ids, bytes).await? {
            items.entry(item.user_id).or_default().push(item);
        }
        let users: Vec<i64> = due.keys().copied().collect();
        let seen = store::last_seen(tx, &users, self.inboxes.hides_by_default()).await?;
        let mut told = Vec::with_capacity(users.len());
        for user in due.keys() {
            let user_id = UserId::new(*user).map_err(|error| sqlx::Error::Decode(error.into()))?;
            let inbox = known.inboxes.get(&user_id).cloned().unwrap_or_default();
            let mut items = items.remove(user).unwrap_or_default();
            items.sort_unstable_by_key(|item| std::cmp::Reverse(item.notification_id));
            let newest = items.first().map(|item| item.notification_id).unwrap_or_default();
            let event_id = format!("reminder-{}-{user}-{newest}", step.name);
            let shown = seen.get(user).copied();
            let event = Reminder {
                event_id: event_id.clone(),
                occurred_at: now.into(),
                step: step.name.clone(),
                user_id,
                lang: catalogue.language(inbox.lang.as_deref()).to_owned(),
                present: shown.is_some() && (self.is_present)(user_id),
                last_seen: shown.flatten().map(Into::into),
                more: i64::try_from(numbers[user].saturating_sub(items.len())).unwrap_or(i64::MAX),
                items: items.into_iter().map(item).collect::<sqlx::Result<_>>()?,
                unread: UnreadCounts { notifications: inbox.unread_count },
            };
            let encoded = Outgoing::new(&event_id, &event);
            told.push(encoded.map_err(|error| sqlx::Error::Encode(error.into()))?.about(user_id));
        }
        telling::add(&mut *tx, &told).await?;
        if !step.every.is_zero() {
            store::save_told(tx, &step.name, &users, now).await?;
        }
        Ok(told)
    }
}

fn item(row: ItemRow) -> sqlx::Result<ReminderItem> {
    let decode = |error| sqlx::Error::Decode(error);
    Ok(ReminderItem {
        kind: row.r#type,
        notification_id: NotificationId::new(row.notification_id).map_err(|error| decode(error.into()))?,
        title: row.title,
        message: row.message,
        data: row.data.map(RawValue::from_string).transpose().map_err(|error| decode(error.into()))?,
        since: row.since.into(),
    })
}

impl Known {
    async fn read(
        tx: &mut PgConnection,
        step: &Step,
        users: &[i64],
        inboxes: HashMap<UserId, Inbox>,
    ) -> Result<Self, StoreError> {
        let mut settings: HashMap<i64, HashMap<String, bool>> = HashMap::new();
        for setting in store::settings(tx, users, Some(&step.name)).await? {
            let of_user = settings.entry(setting.user_id).or_default();
            of_user.insert(setting.r#type, setting.enabled);
        }
        let quiet = store::quiet(tx, users).await?.into_iter().filter_map(|row| {
            // A zone that a later release does not know any longer is no reason not to remind.
            Some((row.user_id, Quiet::new(row.from_minute, row.to_minute, &row.tz)?))
        });
        let quiet = quiet.collect();
        let last_told = if step.every.is_zero() {
            HashMap::new()
        } else {
            store::last_told(tx, &step.name, users).await?
        };
        Ok(Self { inboxes, settings, quiet, last_told })
    }

    /// Whether a user wants reminders of a type, by its name in events, and whether that makes no difference.
    fn wish(&self, catalogue: &Catalogue, step: &Step, user: i64, kind: &str) -> (bool, bool) {
        let setting = self.settings.get(&user).and_then(|settings| settings.get(kind)).copied();
        let (wanted, mandatory) = self.wish_without_setting(catalogue, step, user, kind);
        (setting.unwrap_or(wanted), mandatory)
    }

    /// The same of a type without a setting of the user.
    fn wish_without_setting(
        &self,
        catalogue: &Catalogue,
        step: &Step,
        user: i64,
        kind: &str,
    ) -> (bool, bool) {
        let policy = catalogue.policy(kind);
        let of_all = self.settings.get(&user).and_then(|settings| settings.get(ALL_TYPES)).copied();
        (of_all.unwrap_or_else(|| policy.is_on(&step.name)), policy.mandatory)
    }

    fn unread(&self, catalogue: &Catalogue, step: &Step, row: &UnreadRow) -> Unread {
        let (wanted, mandatory) = self.wish(catalogue, step, row.user_id, &row.r#type);
        let (muted, muted_until) = (row.muted, row.muted_until);
        Unread { since: row.since, wanted, mandatory, muted, muted_until }
    }
}
