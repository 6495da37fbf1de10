//! The laws of [`super::Plan`].

use super::*;
use proptest::prelude::*;

const USERS: i64 = 3;

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn conversation(id: i64) -> ConversationId {
    ConversationId::new(id).unwrap()
}

fn event(id: i64, key: &str) -> Op {
    let body = format!(r#"{{"user_id":{id},"event_id":"{key}"}}"#);
    let delivery = crate::event::Delivery {
        subject: "events.payment_completed",
        headers: None,
        payload: body.as_bytes(),
        place: "",
    };
    let (_, notice) = crate::event::parse(delivery, &Catalogue::load(None).unwrap()).unwrap();
    Op { user: user(id), what: What::Notice(Arc::new(notice)), cause: None }
}

fn message(id: i64, place: i64, message: i64) -> Op {
    let received = Received {
        key: format!("msg:{message}"),
        conversation: conversation(place),
        message: MessageId::new(message).unwrap(),
        sender_username: "ada".to_owned(),
    };
    Op { user: user(id), what: What::Message(Arc::new(received)), cause: None }
}

fn read(id: i64, place: i64, message: i64) -> Op {
    Op {
        user: user(id),
        what: What::Read(conversation(place), MessageId::new(message).unwrap()),
        cause: None,
    }
}

/// The tables, as plain as can be.
#[derive(Default)]
struct Table {
    inboxes: HashMap<UserId, Inbox>,
    rows: Vec<Added>,
    markers: HashMap<(UserId, ConversationId), i64>,
    next_id: i64,
}

impl Table {
    fn apply(&mut self, catalogue: &Catalogue, ops: &[Op]) -> Vec<(UserId, InboxEvent)> {
        let ids = (1..=ops.len() as i64).map(|n| NotificationId::new(self.next_id + n).unwrap()).collect();
        self.next_id += ops.len() as i64;
        let mut known =
            Known { inboxes: self.inboxes.clone(), markers: self.markers.clone(), ..Known::default() };
        for row in &self.rows {
            known.repeated.insert((row.user, row.key.clone()), row.shown.clone());
            if let (Some((place, message, count)), false) = (row.stands_for, row.read) {
                let id = row.shown.notification_id;
                let old =
                    known.standing.insert((row.user, place), Standing { id, message, count, added: None });
                assert!(old.is_none(), "two unread notifications stand for a conversation");
            }
        }
        let changes = Plan::new(catalogue, Timestamp::now(), ids, known).run(ops);
        for (user, id) in changes.read {
            let found = self.rows.iter_mut().find(|row| row.user == user && row.shown.notification_id == id);
            let row = found.expect("what is read is there");
            assert!(!row.read, "what is read was unread");
            row.read = true;
        }
        self.rows.extend(changes.added);
        self.markers.extend(changes.markers);
        self.inboxes.extend(changes.inboxes);
        changes.told
    }

    /// As `Inboxes::mark` does.
    fn mark_all(&mut self, id: UserId) {
        self.rows.iter_mut().filter(|row| row.user == id).for_each(|row| row.read = true);
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.unread_count = 0;
        }
    }

    fn check(&self) {
        for (id, inbox) in &self.inboxes {
            let rows: Vec<&Added> = self.rows.iter().filter(|row| row.user == *id).collect();
            let unread = rows.iter().filter(|row| !row.read).count() as i64;
            assert_eq!(inbox.unread_count, unread, "the count of {id} is exact");
            let seqs: Vec<i64> = rows.iter().map(|row| row.shown.seq).collect();
            assert_eq!(seqs, (1..=inbox.last_seq).collect::<Vec<_>>(), "no hole in the seq of {id}");
            assert!(rows.is_sorted_by_key(|row| row.shown.notification_id), "ids grow with seq");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<Op>),
    ReadAll(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let event = (1..=USERS, 0..6_i64).prop_map(|(id, key)| event(id, &key.to_string()));
    let message = (1..=USERS, 1..3_i64, 1..12_i64).prop_map(|(id, place, number)| {
        // A message is in one conversation only.
        message(id, place, number * 2 + place)
    });
    let read = (1..=USERS, 1..3_i64, 1..30_i64).prop_map(|(id, place, number)| read(id, place, number));
    prop_oneof![2 => event, 4 => message, 1 => read]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => proptest::collection::vec(op(), 1..8).prop_map(Step::Batch),
        1 => (1..=USERS).prop_map(Step::ReadAll),
    ]
}

proptest! {
    #[test]
    fn counts_are_exact_and_seqs_whole_whatever_happens(steps in proptest::collection::vec(step(), 1..20)) {
        let catalogue = Catalogue::load(None).unwrap();
        let mut table = Table::default();
        for step in steps {
            match step {
                Step::Batch(ops) => {
                    table.apply(&catalogue, &ops);
                    let rows = table.rows.len();
                    table.apply(&catalogue, &ops);
                    prop_assert_eq!(table.rows.len(), rows, "a redelivered batch changes nothing");
                }
                Step::ReadAll(id) => table.mark_all(user(id)),
            }
            table.check();
        }
    }

    #[test]
    fn one_batch_or_many_end_alike(ops in proptest::collection::vec(op(), 1..20)) {
        let catalogue = Catalogue::load(None).unwrap();
        let (mut at_once, mut singly) = (Table::default(), Table::default());
        let told = at_once.apply(&catalogue, &ops);
        let mut told_singly = Vec::new();
        for op in &ops {
            told_singly.extend(singly.apply(&catalogue, std::slice::from_ref(op)));
        }
        prop_assert_eq!(&at_once.inboxes.keys().len(), &singly.inboxes.keys().len());
        for (id, inbox) in &at_once.inboxes {
            let other = &singly.inboxes[id];
            prop_assert_eq!((inbox.last_seq, inbox.unread_count), (other.last_seq, other.unread_count));
        }
        // Repeats within a batch need not be told twice.
        prop_assert!(told.len() <= told_singly.len());
    }
}

#[test]
fn a_later_message_supersedes_an_unread_one() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let told =
        table.apply(&catalogue, &[message(1, 7, 10), message(1, 7, 11), read(1, 7, 11), message(1, 7, 12)]);
    let json: Vec<String> = told.iter().map(|(_, event)| serde_json::to_string(event).unwrap()).collect();
    for (said, expected) in json.iter().zip([
        &["\"seq\":1", "\"unread_count\":1", "\"count\":1", "\"is_read\":false"][..],
        &["\"seq\":2", "\"unread_count\":1", "\"count\":2", "\"replaces\":1"],
        &["\"type\":\"read\"", "\"notification_id\":2", "\"unread_count\":0"],
        &["\"seq\":3", "\"unread_count\":1", "\"count\":1", "\"message_id\":12"],
    ]) {
        for part in expected {
            assert!(said.contains(part), "{said} lacks {part}");
        }
    }
    assert!(!json[3].contains("replaces"));
    assert_eq!(json.len(), 4);
}

#[test]
fn entries_out_of_turn_end_alike() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    table.apply(&catalogue, &[message(1, 7, 11)]);
    let told =
        table.apply(&catalogue, &[message(1, 7, 10), read(1, 7, 12), message(1, 7, 12), read(1, 7, 9)]);
    assert_eq!(told.len(), 2, "message 12 and the old marker tell nothing");
    assert_eq!(table.inboxes[&user(1)].unread_count, 0);
    let InboxEvent::Notification(late) = &told[0].1 else { panic!("a notification") };
    assert_eq!(late.data.get(), r#"{"conversation_id":7,"message_id":11,"count":2}"#);
}
