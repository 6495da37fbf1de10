//! Changes: whatever events arrive, in whatever order, each socket shows each message as the service has it.

use super::{
    tests::{entry, texts, view},
    *,
};
use crate::websocket::outbox::Outbox;
use proptest::{prelude::*, test_runner::TestCaseError};
use std::sync::Arc;

/// Number of messages in the tests of changes.
const MESSAGES: Seq = 6;

/// A conversation in its service: the message that each change changed, in order.
struct Conversation {
    changed: Vec<Seq>,
    /// Number of changes that are made.
    made: usize,
}

impl Conversation {
    /// Number of the last change of a message; 0 if it never changed.
    fn last_change(&self, seq: Seq) -> i64 {
        let at = self.changed[..self.made].iter().rposition(|changed| *changed == seq);
        at.map_or(0, |at| i64::try_from(at).unwrap() + 1)
    }

    /// A message as a page shows it: its `seq` and the number of its last change.
    fn page_entry(&self, seq: Seq) -> Entry {
        Entry { public: Frame::text(&format!("m {seq} {}", self.last_change(seq))), ..entry(seq) }
    }

    /// A change with the state that the message had then.
    fn event(&self, number: usize) -> Change {
        change(i64::try_from(number).unwrap(), self.changed[number - 1])
    }

    /// Messages whose last change is after a number, in the order of their last change.
    fn page(&self, after: i64) -> Vec<Change> {
        let mut page: Vec<Change> = (1..=MESSAGES).map(|seq| change(self.last_change(seq), seq)).collect();
        page.retain(|change| change.number > after);
        page.sort_by_key(|change| change.number);
        page
    }

    fn number(&self) -> i64 {
        i64::try_from(self.made).unwrap()
    }
}

fn change(number: i64, seq: Seq) -> Change {
    Change { number, entry: Entry { public: Frame::text(&format!("c {seq} {number}")), ..entry(seq) } }
}

#[derive(Debug, Clone)]
enum ChangeStep {
    /// The next change is made.
    Made,
    /// The event of a change arrives, perhaps again. None may arrive before it is made.
    Arrives(usize),
    /// The event of a message arrives.
    Message(Seq),
    /// The service's head is compared, and the gap is read.
    Repaired,
    /// A socket joins that has the messages up to this `seq`, and this part of the changes that are made.
    Joins(Seq, f64),
    /// The oldest replay in progress ends.
    Released,
}

fn change_steps() -> impl Strategy<Value = Vec<ChangeStep>> {
    let step = prop_oneof![
        5 => Just(ChangeStep::Made),
        5 => (1_usize..=12).prop_map(ChangeStep::Arrives),
        2 => (1..=MESSAGES).prop_map(ChangeStep::Message),
        1 => Just(ChangeStep::Repaired),
        2 => ((0..=MESSAGES), 0.0..=1.0).prop_map(|(at, part)| ChangeStep::Joins(at, part)),
        1 => Just(ChangeStep::Released),
    ];
    proptest::collection::vec(step, 0..60)
}

fn repair_all(log: &mut Log, conversation: &Conversation) {
    log.head(MESSAGES, None);
    log.change_exists(conversation.number());
    loop {
        match log.gap() {
            Gap::Entries(after) => {
                for seq in (after / 10 + 1)..=MESSAGES {
                    log.entry(conversation.page_entry(seq));
                }
            }
            Gap::Changes(after) => {
                // Pages of two messages.
                let mut page = conversation.page(after);
                let is_last = page.len() <= 2;
                page.truncate(2);
                log.changes_read(page, conversation.number(), is_last);
            }
            Gap::Markers | Gap::None => return,
        }
    }
}

/// What a socket of a client shows: for each message, the number of the change that it shows.
type Shown = BTreeMap<Seq, i64>;

fn show(shown: &mut Shown, frames: &[String]) -> Result<(), TestCaseError> {
    let mut last = 0;
    for frame in frames {
        let mut words = frame.split(' ');
        let (kind, mut number) = (words.next().unwrap(), || words.next().unwrap().parse::<i64>().unwrap());
        let (seq, change) = (number(), number());
        if kind == "c" {
            prop_assert!(change > last, "the numbers grow: {frames:?}");
            last = change;
            if let Some(now) = shown.get_mut(&seq) {
                *now = change.max(*now);
            }
        } else {
            shown.insert(seq, change);
        }
    }
    Ok(())
}

proptest! {
    /// Laws C2 to C4: whatever is lost, repeated or late, every socket shows every message as the service has it.
    #[test]
    fn each_socket_shows_each_message_as_it_is(
        changed in proptest::collection::vec(1..=MESSAGES, 12),
        steps in change_steps(),
    ) {
        let mut conversation = Conversation { changed, made: 0 };
        let mut log = Log::default();
        let mut sockets: Vec<(Shown, Arc<Outbox>)> = Vec::new();
        let mut replays: VecDeque<(MemberId, Arc<Outbox>, Position, Position)> = VecDeque::new();
        let release = |log: &mut Log, conversation: &Conversation, (id, outbox, from, until): (MemberId, Arc<Outbox>, Position, Position)| {
            for seq in from.head.seq + 1..=until.head.seq {
                outbox.push(conversation.page_entry(seq).public);
            }
            if from.changes < until.changes {
                for change in conversation.page(from.changes).into_iter().filter(|change| change.number <= until.changes) {
                    outbox.push(change.entry.public);
                }
            }
            log.release(id);
        };
        for step in steps {
            match step {
                ChangeStep::Made => conversation.made = conversation.changed.len().min(conversation.made + 1),
                ChangeStep::Arrives(number) if number <= conversation.made => log.change(conversation.event(number)),
                ChangeStep::Arrives(_) => {}
                ChangeStep::Message(seq) => {
                    log.entry(Entry { public: Frame::text(&format!("m {seq} 0")), ..entry(seq) });
                }
                ChangeStep::Repaired => repair_all(&mut log, &conversation),
                ChangeStep::Joins(seq, part) => {
                    #[expect(clippy::cast_possible_truncation, reason = "a small number")]
                    let has = (conversation.made as f64 * part) as usize;
                    // A socket has no change of a message that it does not have.
                    let has = conversation.changed[..has].iter().position(|changed| *changed > seq).unwrap_or(has);
                    let before = Conversation { changed: conversation.changed.clone(), made: has };
                    let (view, outbox) = view();
                    let at = Position { head: Head { seq, id: seq * 10 }, changes: before.number() };
                    sockets.push(((1..=seq).map(|seq| (seq, before.last_change(seq))).collect(), outbox.clone()));
                    if let Attached::Behind(id, until) = log.attach(view, at, Vec::new(), true) {
                        replays.push_back((id, outbox, at, until));
                    }
                }
                ChangeStep::Released => {
                    if let Some(replay) = replays.pop_front() {
                        release(&mut log, &conversation, replay);
                    }
                }
            }
        }
        for replay in replays {
            release(&mut log, &conversation, replay);
        }
        repair_all(&mut log, &conversation);
        if !log.is_empty() {
            prop_assert_eq!(log.gap(), Gap::None);
        }
        for (mut shown, outbox) in sockets {
            show(&mut shown, &texts(&outbox))?;
            let expected: Shown = (1..=MESSAGES).map(|seq| (seq, conversation.last_change(seq))).collect();
            prop_assert_eq!(shown, expected);
        }
    }
}
