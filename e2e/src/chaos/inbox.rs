//! The inboxes at the end. Pure: no I/O and no clock.

use super::{
    judge::{NoticeRow, Truth, is_item},
    ledger::{Board, Ledger, Promise},
    rules::{Fault, Rule},
};
use std::collections::{BTreeMap, HashMap};

/// Everything that is wrong about inboxes.
pub fn judge(ledger: &Ledger, board: &Board, truth: &Truth, faults: &mut Vec<Fault>) {
    numbering(truth, faults);
    events(ledger, truth, faults);
    deadletters(ledger, truth, faults);
    conversations(truth, faults);
    told(board, truth, faults);
    reads(ledger, truth, faults);
}

/// `seq` counts from 1 without a hole, and ids grow with it; the unread are as many as the inbox and the API say.
fn numbering(truth: &Truth, faults: &mut Vec<Fault>) {
    let mut inboxes: BTreeMap<i64, Vec<&NoticeRow>> = BTreeMap::new();
    for row in &truth.notifications {
        inboxes.entry(row.user).or_default().push(row);
    }
    for (user, rows) in &inboxes {
        for (index, row) in rows.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| rows[before]);
            let (seq, id) = before.map_or((0, 0), |before| (before.seq, before.id));
            if row.seq != seq + 1 || row.id <= id {
                let what =
                    format!("user {user}'s inbox: seq {} (id {}) after seq {seq} (id {id})", row.seq, row.id);
                faults.push(Fault::new(Rule::Hole, what));
            }
        }
    }
    for (user, (last_seq, unread_count)) in &truth.inboxes {
        let rows = inboxes.get(user).map_or(&[][..], Vec::as_slice);
        let last = rows.last().map_or(0, |row| row.seq);
        let unread = rows.iter().filter(|row| !row.is_read).count();
        let unread = i64::try_from(unread).unwrap_or(i64::MAX);
        let said = truth.counts.get(user).map_or(unread, |counts| counts.notifications);
        if *last_seq != last || *unread_count != unread || said != unread {
            let what = format!(
                "user {user}'s inbox ends at seq {last} with {unread} unread; its row says seq {last_seq} and {unread_count}, the API {said}"
            );
            faults.push(Fault::new(Rule::Unread, what));
        }
    }
}

fn events(ledger: &Ledger, truth: &Truth, faults: &mut Vec<Fault>) {
    let mut made: HashMap<(&str, i64), usize> = HashMap::new();
    for row in &truth.notifications {
        if let Some(event) = &row.event {
            *made.entry((event, row.user)).or_default() += 1;
            let expected = ledger.events.get(event).is_some_and(|event| event.users.contains(&row.user));
            if !expected {
                faults.push(Fault::new(Rule::Event, "a notification of no event").with([row.show()]));
            }
        }
    }
    for (event, published) in &ledger.events {
        if published.promise == Promise::DeadLetter {
            continue;
        }
        for user in &published.users {
            let times = made.get(&(event, *user)).copied().unwrap_or(0);
            let due = published.acked && published.promise == Promise::Once;
            if times == 0 && due {
                let what = format!("event {event} was acknowledged, and user {user} not notified");
                faults.push(Fault::new(Rule::Lost, what).with([format!("{published:?}")]));
            }
            if times > 1 {
                let what = format!("event {event} notified user {user} {times} times");
                let rows = truth.notifications.iter().filter(|row| row.event.as_ref() == Some(event));
                faults.push(Fault::new(Rule::Twice, what).with(rows.map(NoticeRow::show)));
            }
        }
    }
}

fn deadletters(ledger: &Ledger, truth: &Truth, faults: &mut Vec<Fault>) {
    for (event, published) in ledger.events.iter().filter(|(_, event)| event.promise == Promise::DeadLetter) {
        let name = format!("\"{event}\"");
        let times = truth.deadletters.iter().filter(|body| body.contains(&name)).count();
        if published.acked && times != 1 {
            let what = format!("event {event} can't be used, and there are {times} dead letters of it");
            faults.push(Fault::new(Rule::Event, what));
        }
    }
    for body in &truth.deadletters {
        let ours = ledger.events.iter().any(|(event, published)| {
            published.promise == Promise::DeadLetter && body.contains(&format!("\"{event}\""))
        });
        if !ours {
            faults.push(Fault::new(Rule::Event, "a dead letter of a good event").with([body.clone()]));
        }
    }
}

/// At most one unread `message_received` stands for a conversation, and for something unread; where something is unread,
/// its last message was notified of, even if the user has read that notification since.
fn conversations(truth: &Truth, faults: &mut Vec<Fault>) {
    let mut standing: HashMap<(i64, i64), Vec<&NoticeRow>> = HashMap::new();
    for row in &truth.notifications {
        if let Some((conversation, ..)) = row.stands_for {
            standing.entry((conversation, row.user)).or_default().push(row);
        }
    }
    for ((conversation, user), (seq, marker)) in &truth.markers {
        let Some(head) = truth.heads.get(conversation) else { continue };
        let all = standing.get(&(*conversation, *user)).map_or(&[][..], Vec::as_slice);
        let of_last = |row: &NoticeRow| row.stands_for.is_some_and(|(_, message, _)| message == head.id);
        let unread = head.seq - seq;
        let notified = unread == 0 || all.iter().any(|row| of_last(row));
        let standing: Vec<_> = all.iter().filter(|row| !row.is_read).collect();
        let right = match standing[..] {
            [] => true,
            [row] => row.stands_for.is_some_and(|(_, message, _)| message > *marker),
            _ => false,
        };
        if !right || !notified {
            let what = format!(
                "user {user} has {unread} unread in conversation {conversation} (up to message {}); {} unread notifications stand for it",
                head.id,
                standing.len()
            );
            faults.push(Fault::new(Rule::Event, what).with(all.iter().rev().take(4).map(|row| row.show())));
        }
    }
}

fn told(board: &Board, truth: &Truth, faults: &mut Vec<Fault>) {
    for (user, items) in &truth.pages {
        let items: HashMap<i64, _> = items.iter().map(|item| (item.seq, item)).collect();
        let told = board.notifications.range((*user, 0)..=(*user, i64::MAX));
        for ((_, seq), told) in told.filter(|((_, seq), told)| !is_item(told, items.get(seq))) {
            let what = format!("user {user}'s notification seq {seq} was told and is not so");
            let evidence = [format!("{told:?}"), format!("{:?}", items.get(seq))];
            faults.push(Fault::new(Rule::Same, what).with(evidence));
        }
        let rows = truth.notifications.iter().filter(|row| row.user == *user).count();
        if rows != items.len() {
            let what = format!("user {user}'s pages have {} notifications, the inbox {rows}", items.len());
            faults.push(Fault::new(Rule::Same, what));
        }
    }
}

fn reads(ledger: &Ledger, truth: &Truth, faults: &mut Vec<Fault>) {
    let rows: HashMap<(i64, i64), &NoticeRow> =
        truth.notifications.iter().map(|row| ((row.user, row.id), row)).collect();
    for (user, ids) in &ledger.inbox_reads {
        for row in ids.iter().filter_map(|id| rows.get(&(*user, *id))).filter(|row| !row.is_read) {
            let what = format!("user {user} has read notification {}, and it is unread", row.id);
            faults.push(Fault::new(Rule::Marker, what).with([row.show()]));
        }
    }
}
