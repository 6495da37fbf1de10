//! Invariants of [`super::Plan`].

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
    Op { user: user(id), kind: OpKind::Notice(Arc::new(notice)), cause: None }
}

fn message(id: i64, conversation_id: i64, message: i64) -> Op {
    message_at(id, conversation_id, message, None)
}

fn message_at(id: i64, conversation_id: i64, message: i64, seq: Option<Seq>) -> Op {
    let received = Received {
        key: format!("msg:{message}"),
        conversation: conversation(conversation_id),
        message: MessageId::new(message).unwrap(),
        seq,
        sender_username: "ada".to_owned(),
    };
    Op { user: user(id), kind: OpKind::Message(Arc::new(received)), cause: None }
}

fn read(id: i64, conversation_id: i64, message: i64) -> Op {
    let (conversation, message) = (conversation(conversation_id), MessageId::new(message).unwrap());
    let moved = Moved { conversation, message, seq: None, marker: None };
    Op { user: user(id), kind: OpKind::Read(moved), cause: None }
}

fn marker(id: i64, conversation_id: i64, seq: Seq, unread: i64) -> Marker {
    Marker {
        conversation_id: conversation(conversation_id),
        user_id: user(id),
        message_id: MessageId::new(10 * seq).unwrap(),
        seq,
        read_at: Timestamp::now(),
        unread_count: Some(unread),
        by_sending: false,
    }
}

/// A marker that moved: with a marker by reading, without one by sending.
fn moved(id: i64, conversation_id: i64, seq: Seq, marker: Option<Marker>) -> Op {
    let (conversation, message) = (conversation(conversation_id), MessageId::new(10 * seq).unwrap());
    let moved = Moved { conversation, message, seq: Some(seq), marker: marker.map(Box::new) };
    Op { user: user(id), kind: OpKind::Read(moved), cause: None }
}

/// The markers for a user's sockets: `seq` and unread count.
fn markers(updates: &[InboxUpdate]) -> Vec<(Seq, i64)> {
    let marker = |update: &InboxUpdate| match &update.event {
        InboxEvent::Marker(own) => Some((own.marker.seq, own.marker.unread_count.unwrap())),
        _ => None,
    };
    updates.iter().filter_map(marker).collect()
}

/// The counts of unread messages in `message_received`.
fn counts(updates: &[InboxUpdate]) -> Vec<i64> {
    let count = |update: &InboxUpdate| match &update.event {
        InboxEvent::Notification(shown) => {
            let data: Value = serde_json::from_str(shown.data.get()).unwrap();
            data["count"].as_i64()
        }
        _ => None,
    };
    updates.iter().filter_map(count).collect()
}

/// A minimal in-memory model of the tables.
#[derive(Default)]
struct Table {
    inboxes: HashMap<UserId, Inbox>,
    rows: Vec<Added>,
    markers: HashMap<(UserId, ConversationId), Reached>,
    next_id: i64,
}

impl Table {
    fn apply(&mut self, catalogue: &Catalogue, ops: &[Op]) -> Vec<InboxUpdate> {
        let ids = (1..=ops.len() as i64).map(|n| NotificationId::new(self.next_id + n).unwrap()).collect();
        self.next_id += ops.len() as i64;
        let mut known =
            Known { inboxes: self.inboxes.clone(), markers: self.markers.clone(), ..Known::default() };
        for row in &self.rows {
            known.repeated.insert((row.user, row.key.clone()), row.shown.clone());
            if let (Some(MessageSummary { conversation, message, seq, count }), false) =
                (row.summary, row.read)
            {
                let id = row.shown.notification_id;
                let unread = UnreadMessages { id, message, seq, count, added: None };
                let old = known.unread.insert((row.user, conversation), unread);
                assert!(old.is_none(), "a conversation has two unread notifications");
            }
        }
        let changes = Plan::new(catalogue, Timestamp::now(), ids, known).run(ops);
        for (user, id) in changes.read {
            let found = self.rows.iter_mut().find(|row| row.user == user && row.shown.notification_id == id);
            let row = found.expect("the notification exists");
            assert!(!row.read, "the notification was unread");
            row.read = true;
        }
        self.rows.extend(changes.added);
        self.markers.extend(changes.markers);
        self.inboxes.extend(changes.inboxes);
        changes.updates
    }

    /// Marks all notifications of a user as read, as `Inboxes::mark` does.
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
            assert_eq!(inbox.unread_count, unread, "the unread count of {id} is exact");
            let seqs: Vec<i64> = rows.iter().map(|row| row.shown.seq).collect();
            assert_eq!(seqs, (1..=inbox.last_seq).collect::<Vec<_>>(), "the seq of {id} has no gap");
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
    let message = (1..=USERS, 1..3_i64, 1..12_i64).prop_map(|(id, conversation_id, number)| {
        // Each message belongs to one conversation.
        message(id, conversation_id, number * 2 + conversation_id)
    });
    let read = (1..=USERS, 1..3_i64, 1..30_i64)
        .prop_map(|(id, conversation_id, number)| read(id, conversation_id, number));
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
    fn counts_are_exact_and_seqs_have_no_gaps(steps in proptest::collection::vec(step(), 1..20)) {
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
    fn one_batch_and_many_have_the_same_result(ops in proptest::collection::vec(op(), 1..20)) {
        let catalogue = Catalogue::load(None).unwrap();
        let (mut at_once, mut singly) = (Table::default(), Table::default());
        let updates = at_once.apply(&catalogue, &ops);
        let mut updates_singly = Vec::new();
        for op in &ops {
            updates_singly.extend(singly.apply(&catalogue, std::slice::from_ref(op)));
        }
        prop_assert_eq!(&at_once.inboxes.keys().len(), &singly.inboxes.keys().len());
        for (id, inbox) in &at_once.inboxes {
            let other = &singly.inboxes[id];
            prop_assert_eq!((inbox.last_seq, inbox.unread_count), (other.last_seq, other.unread_count));
        }
        // Repeats within a batch need not be published twice.
        prop_assert!(updates.len() <= updates_singly.len());
    }
}

#[test]
fn a_later_message_supersedes_an_unread_one() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let updates =
        table.apply(&catalogue, &[message(1, 7, 10), message(1, 7, 11), read(1, 7, 11), message(1, 7, 12)]);
    let json: Vec<String> =
        updates.iter().map(|update| serde_json::to_string(&update.event).unwrap()).collect();
    for (event, expected) in json.iter().zip([
        &["\"seq\":1", "\"unread_count\":1", "\"count\":1", "\"is_read\":false"][..],
        &["\"seq\":2", "\"unread_count\":1", "\"count\":2", "\"replaces\":1"],
        &["\"type\":\"read\"", "\"notification_id\":2", "\"unread_count\":0"],
        &["\"seq\":3", "\"unread_count\":1", "\"count\":1", "\"message_id\":12"],
    ]) {
        for part in expected {
            assert!(event.contains(part), "no {part} in {event}");
        }
    }
    assert!(!json[3].contains("replaces"));
    assert_eq!(json.len(), 4);
}

#[test]
fn the_order_of_log_entries_does_not_matter() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    table.apply(&catalogue, &[message(1, 7, 11)]);
    let updates =
        table.apply(&catalogue, &[message(1, 7, 10), read(1, 7, 12), message(1, 7, 12), read(1, 7, 9)]);
    assert_eq!(updates.len(), 2, "message 12 and the old marker change nothing");
    assert_eq!(table.inboxes[&user(1)].unread_count, 0);
    let InboxEvent::Notification(late) = &updates[0].event else { panic!("a notification") };
    assert_eq!(late.data.get(), r#"{"conversation_id":7,"message_id":11,"count":2}"#);
}

proptest! {
    #[test]
    fn a_notification_counts_the_messages_after_the_marker(
        steps in proptest::collection::vec((any::<bool>(), 0..4_i64), 1..20), together in any::<bool>(),
    ) {
        let catalogue = Catalogue::load(None).unwrap();
        let mut table = Table::default();
        let (mut ops, mut last, mut read, mut expected) = (Vec::new(), 0, 0, Vec::new());
        for (is_message, back) in steps {
            if is_message {
                last += 1;
                ops.push(message_at(1, 7, 10 * last, Some(last)));
                expected.push(last - read);
            } else if last - back > read {
                read = last - back;
                ops.push(moved(1, 7, read, Some(marker(1, 7, read, last - read))));
            }
        }
        let updates: Vec<InboxUpdate> = if together {
            table.apply(&catalogue, &ops)
        } else {
            ops.iter().flat_map(|op| table.apply(&catalogue, std::slice::from_ref(op))).collect()
        };
        prop_assert_eq!(counts(&updates), expected);
        if read > 0 {
            let (seq, unread) = *markers(&updates).last().unwrap();
            prop_assert_eq!(seq, read);
            prop_assert!(unread <= last - read && (!together || unread == last - read));
        }
        // Each read has its own position, after the previous one.
        let places: Vec<_> = updates.iter().filter_map(|update| update.place).collect();
        prop_assert!(places.is_sorted() && places.iter().map(|place| place.reads).eq(1..=places.len() as i64));
        table.check();
    }
}

#[test]
fn without_the_seq_of_a_marker_counts_continue_from_the_unread_notification() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    // A conversation of an earlier release or of an import: the seq of its marker is not known.
    let updates =
        table.apply(&catalogue, &[message_at(1, 7, 5_000, Some(500)), message_at(1, 7, 5_010, Some(501))]);
    assert_eq!(counts(&updates), [1, 2]);
    let updates = table.apply(&catalogue, &[moved(1, 7, 501, Some(marker(1, 7, 501, 0)))]);
    assert_eq!(markers(&updates), [(501, 0)]);
    assert_eq!(counts(&table.apply(&catalogue, &[message_at(1, 7, 5_030, Some(503))])), [2]);
}

#[test]
fn an_own_message_publishes_the_marker_if_messages_were_unread() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    table.apply(&catalogue, &[message_at(1, 7, 10, Some(1))]);
    table.mark_all(user(1));
    let updates = table.apply(&catalogue, &[moved(1, 7, 2, None), message_at(1, 7, 30, Some(3))]);
    assert_eq!(markers(&updates), [(2, 1)], "later messages of the same batch are unread");
    assert_eq!(markers(&table.apply(&catalogue, &[moved(1, 7, 4, None), moved(1, 7, 5, None)])), [(4, 0)]);
    assert!(markers(&table.apply(&catalogue, &[moved(1, 7, 6, None), moved(1, 7, 4, None)])).is_empty());
    // A redelivery: the replica that stored it may have ended before it published.
    let read = [moved(2, 7, 6, Some(marker(2, 7, 6, 0)))];
    assert_eq!(markers(&table.apply(&catalogue, &read)), [(6, 0)]);
    assert_eq!(table.inboxes[&user(2)].moves, 1);
    assert_eq!(markers(&table.apply(&catalogue, &read)), [(6, 0)]);
    assert_eq!(table.inboxes[&user(2)].moves, 1, "a redelivery is the same move");
}
