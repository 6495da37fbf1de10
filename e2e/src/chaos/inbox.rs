//! Checks of the inboxes at the end. Pure: no I/O and no clock.

use super::{
    ledger::{Deliveries, Ledger, Promise},
    rules::{Fault, Rule},
    stored::{FinalState, InboxRow, NoticeRow, is_item},
};
use std::collections::{BTreeMap, HashMap};

/// Collects all faults of inboxes.
pub fn judge(ledger: &Ledger, deliveries: &Deliveries, state: &FinalState, faults: &mut Vec<Fault>) {
    numbering(state, faults);
    events(ledger, state, faults);
    deadletters(ledger, state, faults);
    conversations(state, faults);
    check_deliveries(deliveries, state, faults);
    reads(ledger, state, faults);
    seen(ledger, state, faults);
}

/// Checks that `seq` counts from 1 without a gap, that ids grow with it, and that all unread counts agree.
fn numbering(state: &FinalState, faults: &mut Vec<Fault>) {
    let mut inboxes: BTreeMap<i64, Vec<&NoticeRow>> = BTreeMap::new();
    for row in &state.notifications {
        inboxes.entry(row.user).or_default().push(row);
    }
    for (user, rows) in &inboxes {
        for (index, row) in rows.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| rows[before]);
            let (seq, id) = before.map_or((0, 0), |before| (before.seq, before.id));
            if row.seq != seq + 1 || row.id <= id {
                let what =
                    format!("user {user}'s inbox: seq {} (id {}) after seq {seq} (id {id})", row.seq, row.id);
                faults.push(Fault::new(Rule::Gap, what));
            }
        }
    }
    for (user, InboxRow { last_seq, unread_count, .. }) in &state.inboxes {
        let rows = inboxes.get(user).map_or(&[][..], Vec::as_slice);
        let last = rows.last().map_or(0, |row| row.seq);
        let unread = rows.iter().filter(|row| !row.is_read).count();
        let unread = i64::try_from(unread).unwrap_or(i64::MAX);
        let from_api = state.counts.get(user).map_or(unread, |counts| counts.notifications);
        if *last_seq != last || *unread_count != unread || from_api != unread {
            let what = format!(
                "user {user}'s inbox ends at seq {last} with {unread} unread; its row has \
                 seq {last_seq} and {unread_count}, the API has {from_api}"
            );
            faults.push(Fault::new(Rule::Unread, what));
        }
    }
}

fn events(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    let mut found: HashMap<(&str, i64), usize> = HashMap::new();
    for row in &state.notifications {
        if let Some(event) = &row.event {
            *found.entry((event, row.user)).or_default() += 1;
            let expected = ledger.events.get(event).is_some_and(|event| event.users.contains(&row.user));
            if !expected {
                faults.push(Fault::new(Rule::Event, "a notification without an event").with([row.show()]));
            }
        }
    }
    for (event, published) in &ledger.events {
        if published.promise == Promise::DeadLetter {
            continue;
        }
        for user in &published.users {
            let times = found.get(&(event, *user)).copied().unwrap_or(0);
            let due = published.acked && published.promise == Promise::Once;
            if times == 0 && due {
                let what = format!("event {event} was acknowledged, but user {user} was not notified");
                faults.push(Fault::new(Rule::Lost, what).with([format!("{published:?}")]));
            }
            if times > 1 {
                let what = format!("event {event} notified user {user} {times} times");
                let rows = state.notifications.iter().filter(|row| row.event.as_ref() == Some(event));
                faults.push(Fault::new(Rule::Twice, what).with(rows.map(NoticeRow::show)));
            }
        }
    }
}

fn deadletters(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    for (event, published) in ledger.events.iter().filter(|(_, event)| event.promise == Promise::DeadLetter) {
        let name = format!("\"{event}\"");
        let times = state.deadletters.iter().filter(|body| body.contains(&name)).count();
        if published.acked && times != 1 {
            let what = format!("event {event} is unusable, but has {times} dead letters");
            faults.push(Fault::new(Rule::Event, what));
        }
    }
    for body in &state.deadletters {
        let ours = ledger.events.iter().any(|(event, published)| {
            published.promise == Promise::DeadLetter && body.contains(&format!("\"{event}\""))
        });
        if !ours {
            faults.push(Fault::new(Rule::Event, "a dead letter of a valid event").with([body.clone()]));
        }
    }
}

/// Checks that each conversation has at most one unread `message_received`, and only if a message is unread. If a
/// message is unread, a notification must exist for the last one, even if the user has read that notification since.
fn conversations(state: &FinalState, faults: &mut Vec<Fault>) {
    let mut covering: HashMap<(i64, i64), Vec<&NoticeRow>> = HashMap::new();
    for row in &state.notifications {
        if let Some((conversation, ..)) = row.stands_for {
            covering.entry((conversation, row.user)).or_default().push(row);
        }
    }
    for ((conversation, user), (seq, marker)) in &state.markers {
        let Some(head) = state.heads.get(conversation) else { continue };
        let all = covering.get(&(*conversation, *user)).map_or(&[][..], Vec::as_slice);
        let of_last = |row: &NoticeRow| row.stands_for.is_some_and(|(_, message, _)| message == head.id);
        let unread = head.seq - seq;
        let notified = unread == 0 || all.iter().any(|row| of_last(row));
        let unread_rows: Vec<_> = all.iter().filter(|row| !row.is_read).collect();
        let is_right = match unread_rows[..] {
            [] => true,
            [row] => row.stands_for.is_some_and(|(_, message, _)| message > *marker),
            _ => false,
        };
        if !is_right || !notified {
            let what = format!(
                "user {user} has {unread} unread in conversation {conversation} (up to message {}); \
                 it has {} unread notifications",
                head.id,
                unread_rows.len()
            );
            faults.push(Fault::new(Rule::Event, what).with(all.iter().rev().take(4).map(|row| row.show())));
        }
    }
}

fn check_deliveries(deliveries: &Deliveries, state: &FinalState, faults: &mut Vec<Fault>) {
    for (user, items) in &state.pages {
        let items: HashMap<i64, _> = items.iter().map(|item| (item.seq, item)).collect();
        let delivered = deliveries.notifications.range((*user, 0)..=(*user, i64::MAX));
        for ((_, seq), delivered) in
            delivered.filter(|((_, seq), delivered)| !is_item(delivered, items.get(seq)))
        {
            let what = format!("user {user}'s delivered notification seq {seq} differs from the stored one");
            let evidence = [format!("{delivered:?}"), format!("{:?}", items.get(seq))];
            faults.push(Fault::new(Rule::Same, what).with(evidence));
        }
        let rows = state.notifications.iter().filter(|row| row.user == *user).count();
        if rows != items.len() {
            let what = format!("user {user}'s pages have {} notifications, the inbox {rows}", items.len());
            faults.push(Fault::new(Rule::Same, what));
        }
    }
}

fn reads(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    let rows: HashMap<(i64, i64), &NoticeRow> =
        state.notifications.iter().map(|row| ((row.user, row.id), row)).collect();
    for (user, ids) in &ledger.inbox_reads {
        for row in ids.iter().filter_map(|id| rows.get(&(*user, *id))).filter(|row| !row.is_read) {
            let what = format!("user {user} has read notification {}, but it is unread", row.id);
            faults.push(Fault::new(Rule::Marker, what).with([row.show()]));
        }
    }
}

/// Checks that what users have seen was kept, and that all after it that is unread counts as unseen.
fn seen(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    for (user, inbox) in &state.inboxes {
        let acknowledged = ledger.inbox_seen.get(user).copied().unwrap_or_default();
        let rows = state.notifications.iter().filter(|row| row.user == *user && !row.is_read);
        let unseen = rows.filter(|row| inbox.seen_id > 0 && row.id > inbox.seen_id).count();
        if inbox.seen_id < acknowledged || inbox.unseen_count != i64::try_from(unseen).unwrap_or(i64::MAX) {
            let what = format!("user {user} has seen {acknowledged}, {unseen} are unseen; stored: {inbox:?}");
            faults.push(Fault::new(Rule::Unread, what));
        }
    }
}
