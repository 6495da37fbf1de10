//! The events that tell backends which reminders are settled.

use crate::store::{SettledRow, telling::Outgoing};
use contract::{ConversationId, Timestamp, UserId, reminders::Settled};
use std::collections::BTreeMap;

/// Maximum number of reminders in one event.
const REMINDERS: usize = 100;

/// The events of reminders that are settled: one for each user, unless there are many.
///
/// # Errors
/// If an event can't be encoded.
pub fn events(rows: Vec<SettledRow>, at: Timestamp) -> serde_json::Result<Vec<Outgoing>> {
    let mut users: BTreeMap<i64, Vec<SettledRow>> = BTreeMap::new();
    for row in rows {
        users.entry(row.user_id).or_default().push(row);
    }
    let mut told = Vec::new();
    for (user, mut rows) in users {
        rows.sort_unstable_by(|one, other| one.event_id.cmp(&other.event_id));
        let (Ok(user_id), Some(first)) = (UserId::new(user), rows.first()) else { continue };
        let is_same = rows.iter().all(|row| row.subject == first.subject);
        let conversation =
            first.subject.as_deref().filter(|_| is_same).and_then(|subject| subject.strip_prefix('c'));
        let conversation_id = conversation.and_then(|id| ConversationId::new(id.parse().ok()?).ok());
        for rows in rows.chunks(REMINDERS) {
            let reminders: Vec<String> = rows.iter().map(|row| row.event_id.clone()).collect();
            let event_id = format!("settled-{}", rows[0].event_id.trim_start_matches("reminder-"));
            let event =
                Settled { event_id: event_id.clone(), occurred_at: at, reminders, user_id, conversation_id };
            told.push(Outgoing::new(&event_id, &event)?.about(user_id));
        }
    }
    Ok(told)
}
