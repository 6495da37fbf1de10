//! Compares promises and delivered frames with the stored data at the end. Pure: no I/O and no clock.

use super::{
    changes,
    ledger::{Deliveries, Ledger, is_same, line, plain, short},
    rules::{Fault, Rule},
    stored::{FinalState, Row},
    view::{Shown, Views},
};
use contract::chat::Message;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Collects all faults. `views` are those of each client, by conversation.
pub fn judge(
    ledger: &Ledger,
    deliveries: &Deliveries,
    views: &BTreeMap<(usize, i64), Views>,
    state: &FinalState,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    numbering(state, &mut faults);
    acknowledged(ledger, state, &mut faults);
    check_deliveries(deliveries, state, &mut faults);
    markers(ledger, deliveries, state, &mut faults);
    changes::judge(ledger, deliveries, views, state, &mut faults);
    super::inbox::judge(ledger, deliveries, state, &mut faults);
    if !state.mismatches.is_empty() {
        let what = "texts and data disagree";
        faults.push(Fault::new(Rule::Same, what).with(state.mismatches.iter().take(3).cloned()));
    }
    if !state.outbox.is_empty() {
        let what = format!("{} entries remain in the outbox", state.outbox.len());
        faults.push(Fault::new(Rule::Outbox, what).with(state.outbox.iter().take(3).cloned()));
    }
    faults
}

/// Checks that `seq` counts from 1 without a gap, that ids grow with it, and that the heads agree.
fn numbering(state: &FinalState, faults: &mut Vec<Fault>) {
    let mut last: HashMap<i64, &Row> = HashMap::new();
    for row in &state.messages {
        let before = last.insert(row.conversation, row);
        let (seq, id) = before.map_or((0, 0), |before| (before.seq, before.message_id));
        let evidence = || before.into_iter().chain([row]).map(Row::show);
        if row.seq != seq + 1 {
            let what = format!("conversation {}: seq {} after seq {seq}", row.conversation, row.seq);
            faults.push(Fault::new(Rule::Gap, what).with(evidence()));
        }
        if row.message_id <= id {
            let what = format!("conversation {}: ids don't grow with seq", row.conversation);
            faults.push(Fault::new(Rule::Order, what).with(evidence()));
        }
    }
    for (conversation, head) in &state.heads {
        let (seq, id) = last.get(conversation).map_or((0, 0), |row| (row.seq, row.message_id));
        if (head.seq, head.id) != (seq, id) {
            let what = format!("conversation {conversation} ends at {head:?}, its messages at seq {seq}");
            faults.push(Fault::new(Rule::Gap, what));
        }
    }
}

/// Checks that each acknowledged message is stored once and unchanged, and that no message is stored twice or without a
/// send.
fn acknowledged(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    let mut rows: HashMap<&str, Vec<&Row>> = HashMap::new();
    let mut keys = HashSet::new();
    for row in &state.messages {
        rows.entry(row.original()).or_default().push(row);
        if !keys.insert((row.conversation, row.sender, &row.client_id)) {
            let what = format!("client_id {:?} of user {} is stored twice", row.client_id, row.sender);
            faults.push(Fault::new(Rule::Twice, what).with([row.show()]));
        }
        if ledger.sends.get(short(row.original())).is_none_or(|sent| sent.content != row.original()) {
            faults.push(Fault::new(Rule::Same, "a message that nobody sent").with([row.show()]));
        }
    }
    for (name, sent) in &ledger.sends {
        let found = rows.get(sent.content.as_str()).map_or(&[][..], Vec::as_slice);
        let shown = || found.iter().map(|row| row.show());
        match (found, &sent.acked) {
            ([], None) => {}
            ([], Some(acked)) => {
                let what = format!(
                    "{} of user {} in conversation {} was acknowledged by {} but is not in the history",
                    name, sent.sender, sent.conversation, acked.by
                );
                faults.push(Fault::new(Rule::Lost, what));
            }
            ([row], acked) => {
                let is_as_sent = row.conversation == sent.conversation
                    && row.sender == sent.sender
                    && sent.client_id.as_ref().is_none_or(|client_id| *client_id == row.client_id);
                let acked_id = acked.as_ref().and_then(|acked| acked.message_id);
                if !is_as_sent || acked_id.is_some_and(|id| id != row.message_id) {
                    let what = format!("{} is not stored as it was sent: {sent:?}", name);
                    faults.push(Fault::new(Rule::Same, what).with(shown()));
                }
            }
            _ => {
                let what = format!("{} is stored {} times", name, found.len());
                faults.push(Fault::new(Rule::Twice, what).with(shown()));
            }
        }
    }
}

/// Checks that the delivered messages equal the history, by SQL and by HTTP.
fn check_deliveries(deliveries: &Deliveries, state: &FinalState, faults: &mut Vec<Fault>) {
    let mut rows = HashMap::new();
    for row in &state.messages {
        rows.insert((row.conversation, row.seq), row);
    }
    for (key, message) in &deliveries.messages {
        let row = rows.get(key);
        let same = row.is_some_and(|row| {
            is_row(message, row) && (message.content.is_empty() || message.content == short(row.original()))
        });
        if !same {
            let what =
                format!("conversation {}: the delivered seq {} differs from the stored one", key.0, key.1);
            let row = row.map_or("no such row".to_owned(), |row| row.show());
            faults.push(Fault::new(Rule::Same, what).with([line(message), row]));
        }
    }
    for (conversation, items) in &state.histories {
        let stored = state.messages.iter().filter(|row| row.conversation == *conversation);
        let same = stored.clone().count() == items.len()
            && stored.zip(items).all(|(row, item)| is_row(item, row) && Shown::of(item) == row.shown())
            && items.iter().all(|item| {
                deliveries
                    .messages
                    .get(&(*conversation, item.seq))
                    .is_none_or(|delivered| is_same(delivered, &plain(item)))
            });
        if !same {
            let what = format!("conversation {conversation}: its pages over HTTP differ from its messages");
            faults.push(Fault::new(Rule::Same, what));
        }
    }
}

fn is_row(message: &Message, row: &Row) -> bool {
    message.message_id.get() == row.message_id
        && message.seq == row.seq
        && message.sender_id.get() == row.sender
}

/// Checks that no marker is behind its acknowledged or delivered position, and that unread counts follow from the
/// markers.
fn markers(ledger: &Ledger, deliveries: &Deliveries, state: &FinalState, faults: &mut Vec<Fault>) {
    let marker = |conversation, user| state.markers.get(&(conversation, user)).copied().unwrap_or_default();
    for ((conversation, user), message) in &ledger.reads {
        if marker(*conversation, *user).1 < *message {
            let what = format!(
                "user {user} has read message {message} of conversation {conversation}, but the marker is at {:?}",
                marker(*conversation, *user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    for ((conversation, user), seq) in &deliveries.markers {
        if marker(*conversation, *user).0 < *seq {
            let what = format!(
                "conversation {conversation}: user {user}'s marker was delivered with seq {seq}, but it is at {:?}",
                marker(*conversation, *user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    let deleted: HashMap<(i64, i64), &Row> = state
        .messages
        .iter()
        .filter(|row| row.deleted_by.is_some())
        .map(|row| ((row.conversation, row.seq), row))
        .collect();
    for ((conversation, user), (seq, _)) in &state.markers {
        if let Some(row) = deleted.get(&(*conversation, seq + 1)) {
            let what = format!(
                "conversation {conversation}: user {user}'s marker is at seq {seq}, directly before a deleted message"
            );
            faults.push(Fault::new(Rule::Marker, what).with([row.show()]));
        }
    }
    let mut own: HashMap<(i64, i64), i64> = HashMap::new();
    for row in &state.messages {
        own.insert((row.conversation, row.sender), row.seq);
    }
    for ((conversation, user), seq) in own {
        if marker(conversation, user).0 < seq {
            let what = format!(
                "conversation {conversation}: user {user} sent seq {seq}, but the marker is at {:?}",
                marker(conversation, user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    let mut unread: BTreeMap<i64, HashMap<i64, i64>> = BTreeMap::new();
    for ((conversation, user), (seq, _)) in &state.markers {
        let last = state.heads.get(conversation).map_or(0, |head| head.seq);
        unread.entry(*user).or_default().insert(*conversation, last - seq);
    }
    for (user, counts) in &state.counts {
        let mine = unread.remove(user).unwrap_or_default();
        let some = mine.values().filter(|count| **count > 0).count();
        let sum: i64 = mine.values().sum();
        let is_equal = usize::try_from(counts.conversations).ok() == Some(some)
            && counts.messages == sum
            && counts.listed == mine;
        if !is_equal {
            let what =
                format!("user {user} has {sum} unread in {some} conversations; the API returned {counts:?}");
            faults.push(Fault::new(Rule::Unread, what).with([format!("{mine:?}")]));
        }
    }
}

#[cfg(test)]
mod tests;
