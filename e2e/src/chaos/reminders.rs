//! Reminders of what users have not read. At the end, the events for backends are compared with the stored
//! notifications: laws R1 to R6 and R8. Pure, except for [`Wishes::set`] and [`read`].

use super::{
    events_out::EventOut,
    ledger::Ledger,
    rules::{Fault, Rule},
};
use crate::Stack;
use anyhow::Context;
use contract::{
    Timestamp,
    reminders::{Reminder, Settled},
    streams::{REMINDER_SUBJECT, SETTLED_SUBJECT},
};
use serde_json::json;
use sqlx::{PgConnection, Row as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The steps. Their delays are the shortest that are allowed, so that reminders fall due while parts of the stack fail.
pub const STEPS: &str = "push:5s/6s:settle mail:7s/8s:every=10s";
/// Name, shortest delay and minimum time between two reminders of each of these steps.
const DELAYS: [(&str, Duration, Duration); 2] = [
    ("push", Duration::from_secs(5), Duration::ZERO),
    ("mail", Duration::from_secs(7), Duration::from_secs(10)),
];
/// A read carries the time at which its transaction began. Until its commit, a reminder may come first: by so much, as
/// statements and locks have time limits.
const READ_SLACK: Duration = Duration::from_secs(10);

/// The settings of a few users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// The user who wants no mails.
    without_mail: i64,
    /// The user who has quiet hours during the whole run.
    quiet: i64,
    /// A user, and the conversation that this user has muted.
    muted: (i64, i64),
}

impl Wishes {
    /// Sets the preferences of three users.
    ///
    /// # Errors
    /// If there are too few users.
    pub async fn set(
        stack: &Stack,
        users: &[i64],
        conversations: &[(i64, Vec<i64>)],
    ) -> anyhow::Result<Self> {
        let [without_mail, quiet, muting] =
            users.first_chunk::<3>().copied().context("there are too few users")?;
        let (conversation, _) = conversations
            .iter()
            .find(|(_, people)| people.contains(&muting))
            .context("a user has no conversation")?;
        let preferences = json!({"types": {"message_received": {"mail": false}}, "quiet": null});
        stack.call("PUT", "/api/me/preferences", without_mail, Some(preferences)).await.expect(200);
        let hour = Timestamp::now().unix() / 3_600;
        let [from, to] = [hour - 1, hour + 3].map(|hour| format!("{:02}:00", hour % 24));
        let quiet_hours = json!({"from": from, "to": to, "tz": "UTC"});
        let preferences = json!({"types": {}, "quiet": quiet_hours});
        stack.call("PUT", "/api/me/preferences", quiet, Some(preferences)).await.expect(200);
        let mine = format!("/api/conversations/{conversation}/mine");
        stack.call("PUT", &mine, muting, Some(json!({"muted_until": "forever"}))).await.expect(204);
        Ok(Self { without_mail, quiet, muted: (muting, *conversation) })
    }

    /// Whether a user wants reminders of a conversation by this step.
    fn has(self, user: i64, conversation: i64, step: &str) -> bool {
        user != self.quiet
            && (user, conversation) != self.muted
            && !(user == self.without_mail && step == "mail")
    }
}

/// A stored notification of a conversation. Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadRow {
    user: i64,
    id: i64,
    conversation: i64,
    since: i64,
    read_at: Option<i64>,
}

/// Reads all notifications of conversations that may have caused a reminder.
///
/// # Errors
/// If Postgres doesn't reply.
pub async fn read(database: &mut PgConnection) -> anyhow::Result<Vec<UnreadRow>> {
    let rows = sqlx::query(
        "select user_id, notification_id, conversation_id, (extract(epoch from since) * 1000000)::bigint,
            (extract(epoch from read_at) * 1000000)::bigint
         from notify.notifications where conversation_id is not null and since is not null and user_id < $1",
    );
    let row = |row: &sqlx::postgres::PgRow| {
        sqlx::Result::Ok(UnreadRow {
            user: row.try_get(0)?,
            id: row.try_get(1)?,
            conversation: row.try_get(2)?,
            since: row.try_get(3)?,
            read_at: row.try_get(4)?,
        })
    };
    let rows = rows.bind(super::erasures::FIRST).fetch_all(database).await?;
    Ok(rows.iter().map(row).collect::<sqlx::Result<_>>()?)
}

/// Number of reminders that are due or will be, of everything that is unread.
///
/// # Errors
/// If Postgres doesn't reply.
pub async fn pending(database: &mut PgConnection, wishes: Wishes) -> anyhow::Result<u64> {
    let steps = DELAYS.map(|(step, ..)| step);
    let rows: Vec<(i64, i64, String)> = sqlx::query_as(
        "select user_id, conversation_id, step from notify.notifications n, unnest($1::text[]) as step
         where read_at is null and conversation_id is not null and since is not null and user_id < $2
             and not exists (select from notify.reminded r where r.user_id = n.user_id and r.step = step.step
                             and r.subject = 'c' || n.conversation_id and told_at is not null)",
    )
    .bind(steps.as_slice())
    .bind(super::erasures::FIRST)
    .fetch_all(database)
    .await?;
    let due = rows.iter().filter(|(user, conversation, step)| wishes.has(*user, *conversation, step));
    Ok(due.count() as u64)
}

/// Collects all faults of reminders.
pub fn judge(
    events: &[EventOut],
    rows: &[UnreadRow],
    wishes: Wishes,
    ledger: &Ledger,
    faults: &mut Vec<Fault>,
) {
    let mut report = |what: String, event: &EventOut| {
        faults.push(Fault::new(Rule::Reminded, what).with([event.body.clone()]));
    };
    let by_id: BTreeMap<(i64, i64), &UnreadRow> = rows.iter().map(|row| ((row.user, row.id), row)).collect();
    // An event may be published again, with the same id.
    let mut bodies: BTreeMap<&str, &str> = BTreeMap::new();
    let mut reminded: BTreeSet<(String, i64, i64, i64)> = BTreeSet::new();
    let mut times: BTreeMap<(&str, i64), BTreeSet<i64>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.subject == REMINDER_SUBJECT) {
        let Ok(reminder) = serde_json::from_str::<Reminder>(&event.body) else {
            report("a reminder can't be read".to_owned(), event);
            continue;
        };
        if let Some(before) = bodies.insert(&event.id, &event.body) {
            if before != event.body {
                report(format!("{} was published with two bodies", event.id), event);
            }
            continue;
        }
        let (user, at) = (reminder.user_id.get(), reminder.occurred_at.unix_micros());
        if user >= super::erasures::FIRST {
            continue; // Their notifications may be gone.
        }
        let Some((step, delay, _)) = DELAYS.into_iter().find(|(step, ..)| *step == reminder.step) else {
            report(format!("{} has an unknown step", event.id), event);
            continue;
        };
        times.entry((step, user)).or_default().insert(at);
        if let Some(sent) = ledger.sends.values().find(|sent| event.body.contains(&sent.content)) {
            report(format!("{} has the text {}", event.id, sent.content), event);
        }
        for item in &reminder.items {
            let (id, since) = (item.notification_id.get(), item.since.unix_micros());
            let Some(row) = by_id.get(&(user, id)) else {
                report(format!("{} has notification {id}, which is not stored", event.id), event);
                continue;
            };
            // A read up to an earlier message begins another episode of the same notification.
            if row.since < since || at < since + micros(delay) {
                report(format!("{} has notification {id} too early: {row:?}", event.id), event);
            }
            if row.read_at.is_some_and(|read_at| at > read_at + micros(READ_SLACK)) {
                report(format!("{} has notification {id}, which was read: {row:?}", event.id), event);
            }
            if !wishes.has(user, row.conversation, step) {
                report(format!("{} is against the user's settings", event.id), event);
            }
            if !reminded.insert((step.to_owned(), user, row.conversation, since)) {
                report(format!("{} is the second one of an episode: {row:?}", event.id), event);
            }
        }
    }
    // They are published in any order.
    for ((step, user), times) in times {
        let every = DELAYS.iter().find(|(name, ..)| *name == step).map_or(0, |(.., every)| micros(*every));
        if times.iter().zip(times.iter().skip(1)).any(|(before, at)| at - before < every) {
            let what =
                format!("two reminders by {step} of user {user} follow each other too soon: {times:?}");
            faults.push(Fault::new(Rule::Reminded, what));
        }
    }
    settled(events, rows, faults);
    for row in rows.iter().filter(|row| row.read_at.is_none()) {
        for (step, ..) in DELAYS {
            let is_reminded = reminded.contains(&(step.to_owned(), row.user, row.conversation, row.since));
            if !is_reminded && wishes.has(row.user, row.conversation, step) {
                faults.push(Fault::new(Rule::Reminded, format!("no {step} was sent of {row:?}")));
            }
        }
    }
}

/// Checks that a push is settled if, and only if, everything in it has been read.
fn settled(events: &[EventOut], rows: &[UnreadRow], faults: &mut Vec<Fault>) {
    let of = |subject: &'static str| events.iter().filter(move |event| event.subject == subject);
    let settled: BTreeSet<String> = of(SETTLED_SUBJECT)
        .filter_map(|event| serde_json::from_str::<Settled>(&event.body).ok())
        .flat_map(|event| event.reminders)
        .collect();
    let unread: BTreeSet<(i64, i64)> =
        rows.iter().filter(|row| row.read_at.is_none()).map(|row| (row.user, row.since)).collect();
    let reminders = of(REMINDER_SUBJECT).filter_map(|event| serde_json::from_str(&event.body).ok());
    let mut pushes = BTreeSet::new();
    for push in reminders.filter(|reminder: &Reminder| reminder.step == "push") {
        let user = push.user_id.get();
        let is_over = push.items.iter().all(|item| !unread.contains(&(user, item.since.unix_micros())));
        if user < super::erasures::FIRST && is_over != settled.contains(&push.event_id) {
            let what =
                format!("{}: everything in it is read: {is_over}; settled: {}", push.event_id, !is_over);
            faults.push(Fault::new(Rule::Reminded, what));
        }
        pushes.insert(push.event_id);
    }
    for id in settled.difference(&pushes) {
        faults
            .push(Fault::new(Rule::Reminded, format!("{id} is settled, but is no push that was published")));
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SECOND: i64 = 1_000_000;

    fn event(step: &str, user: i64, id: i64, times: [i64; 2]) -> EventOut {
        let [since, at] = times.map(|seconds| Timestamp::from_unix(seconds).unwrap());
        let body = json!({
            "event_id": format!("reminder-{step}-{user}-{id}"), "occurred_at": at, "step": step, "user_id": user,
            "lang": "fr", "present": false, "more": 0, "unread": {"notifications": 1},
            "items": [{"type": "message_received", "notification_id": id, "title": "", "message": "", "since": since}],
        });
        EventOut {
            subject: REMINDER_SUBJECT.to_owned(),
            id: format!("reminder-{step}-{user}-{id}"),
            body: body.to_string(),
        }
    }

    fn settled(reminder: &str) -> EventOut {
        let body = json!({
            "event_id": "settled", "occurred_at": Timestamp::now(), "reminders": [reminder], "user_id": 4,
        });
        EventOut { subject: SETTLED_SUBJECT.to_owned(), id: "settled".to_owned(), body: body.to_string() }
    }

    fn row(user: i64, id: i64, conversation: i64) -> UnreadRow {
        UnreadRow { user, id, conversation, since: 100 * SECOND, read_at: None }
    }

    fn judged(events: &[EventOut], rows: &[UnreadRow]) -> Vec<String> {
        let wishes = Wishes { without_mail: 1, quiet: 2, muted: (3, 30) };
        let mut ledger = Ledger::default();
        ledger.sends("1.1 bonjour.", 30, 1, None);
        let mut faults = Vec::new();
        judge(events, rows, wishes, &ledger, &mut faults);
        faults.into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn reminders_that_keep_the_laws_have_no_fault() {
        let rows = [row(1, 7, 30), row(2, 8, 30), row(3, 9, 30), row(4, 10, 30)];
        let events = [
            event("push", 1, 7, [100, 105]),
            event("push", 4, 10, [100, 106]),
            event("push", 4, 10, [100, 106]), // published again
            event("mail", 4, 10, [100, 108]),
        ];
        assert_eq!(judged(&events, &rows), [] as [&str; 0]);
        let read = UnreadRow { read_at: Some(110 * SECOND), ..row(4, 10, 30) };
        let events = [event("push", 4, 10, [100, 106]), settled("reminder-push-4-10")];
        assert_eq!(judged(&events, &[read]), [] as [&str; 0]);
        // The user has read an earlier message in between.
        let events = [
            event("push", 4, 10, [90, 96]),
            settled("reminder-push-4-10"),
            event("push", 4, 11, [100, 106]),
            event("mail", 4, 11, [100, 108]),
        ];
        assert_eq!(judged(&events, &[row(4, 10, 30), row(4, 11, 30)]), [] as [&str; 0]);
    }

    #[test]
    fn each_fault_of_a_reminder_is_found() {
        let unread = [row(4, 10, 30)];
        let read = [UnreadRow { read_at: Some(101 * SECOND), ..row(4, 10, 30) }];
        let has = |events: &[EventOut], rows: &[UnreadRow], expected: &str| {
            let found = judged(events, rows);
            assert!(found.iter().any(|what| what.contains(expected)), "{expected}: {found:?}");
        };
        has(&[], &unread, "no push was sent");
        has(&[event("push", 4, 10, [100, 106])], &unread, "no mail was sent");
        has(&[event("push", 4, 10, [100, 104])], &unread, "too early");
        has(&[event("push", 4, 10, [101, 107])], &unread, "too early");
        has(&[event("push", 4, 10, [100, 112])], &read, "which was read");
        has(&[event("push", 4, 10, [100, 106])], &read, "everything in it is read: true");
        let early = [event("push", 4, 10, [100, 106]), settled("reminder-push-4-10")];
        has(&early, &unread, "everything in it is read: false");
        has(&[settled("reminder-mail-4-10")], &unread, "is no push");
        has(&[event("push", 4, 11, [100, 106])], &unread, "which is not stored");
        has(&[event("sms", 4, 10, [100, 106])], &unread, "unknown step");
        for (user, step) in [(1, "mail"), (2, "push"), (2, "mail"), (3, "push")] {
            has(&[event(step, user, 7, [100, 110])], &[row(user, 7, 30)], "against the user's settings");
        }
        let twice = [event("push", 4, 10, [100, 106]), event("push", 4, 11, [100, 120])];
        has(&twice, &[row(4, 10, 30), row(4, 11, 30)], "the second one of an episode");
        let soon = [event("mail", 4, 10, [100, 110]), event("mail", 4, 11, [100, 119])];
        has(&soon, &[row(4, 10, 30), row(4, 11, 31)], "too soon");
        has(&[event("push", 4, 10, [100, 106]), event("push", 4, 10, [100, 107])], &unread, "two bodies");
        let mut body: Value = serde_json::from_str(&event("push", 4, 10, [100, 106]).body).unwrap();
        body["items"][0]["message"] = "1.1 bonjour.".into();
        let with_text = EventOut { body: body.to_string(), ..event("push", 4, 10, [100, 106]) };
        has(&[with_text], &unread, "has the text");
    }
}
