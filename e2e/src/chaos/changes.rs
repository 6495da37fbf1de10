//! Checks of edits and deletions at the end. Pure: no I/O and no clock.

use super::{
    ledger::{Deliveries, Ledger, short},
    rules::{Fault, Rule},
    stored::{FinalState, Row},
    view::{Shown, View, Views},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Rows by conversation and `seq`.
type Rows<'a> = HashMap<(i64, i64), &'a Row>;

/// Collects all faults of changes.
pub fn judge(
    ledger: &Ledger,
    deliveries: &Deliveries,
    views: &BTreeMap<(usize, i64), Views>,
    state: &FinalState,
    faults: &mut Vec<Fault>,
) {
    let rows: Rows = state.messages.iter().map(|row| ((row.conversation, row.seq), row)).collect();
    numbering(state, faults);
    repeats(state, faults);
    requested(ledger, state, faults);
    acknowledged(ledger, state, faults);
    delivered(deliveries, &rows, faults);
    for ((client, conversation), views) in views {
        for (name, view) in [("socket", &views.socket), ("page", &views.page)] {
            shown(&format!("the {name} of client {client}"), *conversation, view, &rows, faults);
        }
    }
    pages(state, faults);
    deleted_texts(state, faults);
}

/// Checks that the changes of each conversation count from 1 without a gap, and that messages carry their last one.
fn numbering(state: &FinalState, faults: &mut Vec<Fault>) {
    let mut numbers: HashMap<i64, Vec<i64>> = HashMap::new();
    for row in &state.messages {
        numbers.entry(row.conversation).or_default().extend(row.former.iter().map(|(change, _)| change));
        let last = row.former.last().map_or(0, |(change, _)| *change);
        if row.change != last || row.former.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            let what =
                format!("message {} has change {}, but its last one is {last}", row.message_id, row.change);
            faults.push(Fault::new(Rule::Change, what).with([row.show()]));
        }
    }
    for (conversation, head) in &state.changes {
        let mut numbers = numbers.remove(conversation).unwrap_or_default();
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(1..=*head) {
            let what =
                format!("conversation {conversation} has {head} changes, its messages have {numbers:?}");
            faults.push(Fault::new(Rule::Gap, what));
        }
    }
}

/// Checks that each change altered the text, and that a deletion was the last change.
fn repeats(state: &FinalState, faults: &mut Vec<Fault>) {
    for row in &state.messages {
        let states: Vec<(i64, &str)> = row.states().collect();
        for pair in states.windows(2) {
            if pair[0].1 == pair[1].1 || pair[0].1.is_empty() {
                let what = format!("change {} of message {} repeats a change", pair[1].0, row.message_id);
                faults.push(Fault::new(Rule::Twice, what).with([row.show(), format!("{pair:?}")]));
            }
        }
        if row.content.is_empty() != row.deleted_by.is_some() {
            let what = format!("message {} has a text and is deleted, or neither", row.message_id);
            faults.push(Fault::new(Rule::Deleted, what).with([row.show()]));
        }
    }
}

/// Checks that somebody requested each change, with the state before it that they named.
fn requested(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    for row in &state.messages {
        let requested = ledger.changes.get(&row.message_id);
        let mut before = 0;
        for (change, text) in row.states().skip(1) {
            let is_requested = requested.is_some_and(|requested| {
                let is_as_named = |named: Option<i64>| named.is_none_or(|named| named == before);
                let mut edits = requested.edits.iter();
                requested.conversation == row.conversation
                    && if text.is_empty() {
                        requested.deletion
                    } else {
                        edits.any(|edit| edit.text == text && is_as_named(edit.if_change))
                    }
            });
            if !is_requested {
                let what = format!("change {change} after {before} was not requested: {text}");
                faults.push(Fault::new(Rule::Change, what).with([row.show(), format!("{requested:?}")]));
            }
            before = change;
        }
    }
}

/// Checks that each acknowledged change was made.
fn acknowledged(ledger: &Ledger, state: &FinalState, faults: &mut Vec<Fault>) {
    let rows: HashMap<i64, &Row> = state.messages.iter().map(|row| (row.message_id, row)).collect();
    for (message, requested) in &ledger.changes {
        let texts: HashSet<&str> =
            rows.get(message).into_iter().flat_map(|row| row.states().map(|(_, text)| text)).collect();
        let edits = requested.edits.iter().map(|edit| (edit.text.as_str(), edit.acked));
        for (text, by) in edits.chain([("", requested.deletion_acked)]) {
            if let Some(by) = by
                && !texts.contains(text)
            {
                let kind = if text.is_empty() { "the deletion" } else { "an edit" };
                let what =
                    format!("{kind} of message {message} was acknowledged by {by}, but was not made: {text}");
                faults.push(Fault::new(Rule::Lost, what).with(rows.get(message).map(|row| row.show())));
            }
        }
    }
}

/// Checks that each delivered state existed.
fn delivered(deliveries: &Deliveries, rows: &Rows<'_>, faults: &mut Vec<Fault>) {
    for ((conversation, seq, change), shown) in &deliveries.states {
        let Some(row) = rows.get(&(*conversation, *seq)) else { continue };
        let deleted_by = row.deleted_by.filter(|_| row.change == *change);
        let existed = row.states().any(|(at, text)| at == *change && text == shown.content);
        if !existed || deleted_by != shown.deleted_by {
            let what = format!("conversation {conversation}: seq {seq} was never as delivered");
            faults.push(Fault::new(Rule::Same, what).with([format!("{shown:?}"), row.show()]));
        }
    }
}

/// Checks that a view shows each of its messages as it is stored.
fn shown(who: &str, conversation: i64, view: &View, rows: &Rows<'_>, faults: &mut Vec<Fault>) {
    for (seq, shown) in &view.0 {
        let stored = rows.get(&(conversation, *seq)).map(|row| row.shown());
        if stored.as_ref() != Some(shown) {
            let what =
                format!("{who} shows seq {seq} of conversation {conversation} differently from its row");
            faults.push(Fault::new(Rule::Behind, what).with([format!("{shown:?}"), format!("{stored:?}")]));
        }
    }
}

/// Checks that the pages of changes have each changed message, in the order of the changes.
fn pages(state: &FinalState, faults: &mut Vec<Fault>) {
    for (conversation, items) in &state.changed {
        let mut rows: Vec<&Row> =
            state.messages.iter().filter(|row| row.conversation == *conversation && row.change > 0).collect();
        rows.sort_by_key(|row| row.change);
        let is_equal = rows
            .iter()
            .map(|row| (row.seq, row.shown()))
            .eq(items.iter().map(|item| (item.seq, Shown::of(item))));
        if !is_equal {
            let what = format!("conversation {conversation}: its pages of changes differ from its messages");
            faults.push(Fault::new(Rule::Same, what));
        }
    }
}

/// Checks that no page shows the text of a deleted message.
fn deleted_texts(state: &FinalState, faults: &mut Vec<Fault>) {
    for row in state.messages.iter().filter(|row| row.deleted_by.is_some()) {
        // Each text starts with the name.
        let start = format!("\"{} ", short(row.original()));
        if let Some(text) = state.texts.iter().find(|text| text.contains(&start)) {
            let what = format!("the text of the deleted message {} is still shown", row.message_id);
            faults.push(Fault::new(Rule::Deleted, what).with([row.show(), text.clone()]));
        }
    }
}

#[cfg(test)]
mod tests;
