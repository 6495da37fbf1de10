//! Invariants of [`super::Plan`].

use super::*;
use crate::ops::collapse;
use contract::MessageId;
use proptest::prelude::*;
use std::sync::Arc;

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
        kind: None,
        silent: false,
        muted: Vec::new(),
        key: format!("msg:{message}"),
        conversation: conversation(conversation_id),
        message: MessageId::new(message).unwrap(),
        seq,
        sender: user(9),
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
struct Table {
    inboxes: HashMap<UserId, Inbox>,
    rows: Vec<Row>,
    markers: HashMap<Membership, Reached>,
    notified: HashMap<Membership, i64>,
    next_id: i64,
    /// The time of the next batch. Each one comes when notifications may be superseded again.
    now: OffsetDateTime,
}

struct Row {
    added: Added,
    read: bool,
}

impl Default for Table {
    fn default() -> Self {
        let (inboxes, rows, markers, notified, next_id) = Default::default();
        Self { inboxes, rows, markers, notified, next_id, now: OffsetDateTime::now_utc() }
    }
}

impl Table {
    fn apply(&mut self, catalogue: &Catalogue, ops: &[Op]) -> Vec<InboxUpdate> {
        self.now += SUPERSEDE_INTERVAL;
        let Changes { updates, early, .. } = self.apply_now(catalogue, ops);
        assert!(early.is_empty());
        updates
    }

    /// Applies a batch at once after the previous one. Its changes are stored, but for the updates and early messages.
    fn apply_now(&mut self, catalogue: &Catalogue, ops: &[Op]) -> Changes {
        let ids = (1..=ops.len() as i64).map(|n| NotificationId::new(self.next_id + n).unwrap()).collect();
        self.next_id += ops.len() as i64;
        let (inboxes, markers) = (self.inboxes.clone(), self.markers.clone());
        let mut known = Known { inboxes, markers, notified: self.notified.clone(), ..Known::default() };
        for Row { added: row, read } in &self.rows {
            known.repeated.insert((row.user, row.key.clone()), row.shown.clone());
            if let (Some(summary), false) = (row.summary.clone(), *read) {
                let (id, created_at) = (row.shown.notification_id, row.shown.created_at);
                let membership = (row.user, summary.conversation);
                let old =
                    known.unread.insert(membership, UnreadMessages { id, summary, created_at, since: None });
                assert!(old.is_none(), "a conversation has two unread notifications");
            }
        }
        let mut changes = Plan::new(catalogue, self.now.into(), ids, known).run(&collapse(ops));
        for (user, id) in std::mem::take(&mut changes.read) {
            let is_it = |row: &&mut Row| row.added.user == user && row.added.shown.notification_id == id;
            let row = self.rows.iter_mut().find(is_it).expect("the notification exists");
            assert!(!row.read, "the notification was unread");
            row.read = true;
        }
        let added = std::mem::take(&mut changes.added);
        self.rows.extend(added.into_iter().map(|added| Row { added, read: false }));
        self.markers.extend(std::mem::take(&mut changes.markers));
        self.inboxes.extend(std::mem::take(&mut changes.inboxes));
        changes
    }

    /// Marks all notifications of a user as read, as `Inboxes::mark` does.
    fn mark_all(&mut self, id: UserId) {
        for row in self.rows.iter_mut().filter(|row| row.added.user == id && !row.read) {
            row.read = true;
            if let Some(summary) = &row.added.summary {
                self.notified.insert((id, summary.conversation), summary.message);
            }
        }
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            inbox.unread_count = 0;
        }
    }

    /// The unread notifications: user, conversation and `data`.
    fn unread(&self) -> Vec<(UserId, Option<ConversationId>, String)> {
        let unread = self.rows.iter().filter(|row| !row.read).map(|Row { added, .. }| {
            let conversation = added.summary.as_ref().map(|summary| summary.conversation);
            (added.user, conversation, added.shown.data.get().to_owned())
        });
        let mut unread: Vec<_> = unread.collect();
        unread.sort();
        unread
    }

    fn check(&self) {
        for (id, inbox) in &self.inboxes {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.added.user == *id).collect();
            let unread = rows.iter().filter(|row| !row.read).count() as i64;
            assert_eq!(inbox.unread_count, unread, "the unread count of {id} is exact");
            let seqs: Vec<i64> = rows.iter().map(|row| row.added.shown.seq).collect();
            assert_eq!(seqs, (1..=inbox.last_seq).collect::<Vec<_>>(), "the seq of {id} has no gap");
            assert!(rows.is_sorted_by_key(|row| row.added.shown.notification_id), "ids grow with seq");
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
    fn one_batch_and_many_have_the_same_result(log in proptest::collection::vec((0..3_u8, 1..=USERS), 1..20)) {
        let catalogue = Catalogue::load(None).unwrap();
        let (mut at_once, mut singly) = (Table::default(), Table::default());
        // A log of two conversations, in the order of its messages: users receive or read the last one.
        let ops: Vec<Op> = log.iter().zip(1..).map(|((kind, id), number)| match kind {
            0 => event(*id, &number.to_string()),
            1 => message(*id, 1 + number % 2, number),
            _ => read(*id, 1 + number % 2, number),
        }).collect();
        let updates = at_once.apply(&catalogue, &ops);
        let mut updates_singly = Vec::new();
        for op in &ops {
            updates_singly.extend(singly.apply(&catalogue, std::slice::from_ref(op)));
        }
        prop_assert_eq!(at_once.unread(), singly.unread());
        at_once.check();
        // Notifications that the batch itself supersedes or reads are never created.
        prop_assert!(updates.len() <= updates_singly.len());
        prop_assert_eq!(at_once.rows.iter().filter(|row| row.read).count(), 0);
    }
}

#[test]
fn a_later_message_supersedes_an_unread_one() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let batches = [message(1, 7, 10), message(1, 7, 11), read(1, 7, 11), message(1, 7, 12)];
    let updates: Vec<InboxUpdate> =
        batches.iter().flat_map(|op| table.apply(&catalogue, std::slice::from_ref(op))).collect();
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
    // Another replica is still busy with the conversation's first message.
    assert_eq!(counts(&table.apply(&catalogue, &[message_at(1, 7, 20, Some(2))])), [1]);
    let updates = table.apply(&catalogue, &[message_at(1, 7, 10, Some(1))]);
    let InboxEvent::Notification(late) = &updates[0].event else { panic!("a notification") };
    assert_eq!(late.data.get(), r#"{"conversation_id":7,"message_id":20,"count":2}"#);
    assert_eq!(table.apply(&catalogue, &[message_at(1, 7, 10, Some(1))]).len(), 1, "published again");
    let ops = [moved(1, 7, 3, Some(marker(1, 7, 3, 0))), message_at(1, 7, 30, Some(3)), read(1, 7, 9)];
    assert!(counts(&table.apply(&catalogue, &ops)).is_empty(), "message 3 and the old marker change nothing");
    assert_eq!(table.inboxes[&user(1)].unread_count, 0);
}

#[test]
fn a_burst_is_one_notification_and_a_second_one_after_the_interval() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let messages: Vec<Op> = (1..=40).map(|seq| message_at(1, 7, 10 * seq, Some(seq))).collect();
    assert_eq!(counts(&table.apply(&catalogue, &messages[..10])), [10]);
    // At once afterwards, another user's notification and the reader's marker are carried out; the messages wait.
    table.now += Duration::from_millis(400);
    let changes =
        table.apply_now(&catalogue, &[&messages[10..20], &[message_at(2, 7, 200, Some(20))]].concat());
    assert_eq!(changes.early, HashMap::from([((user(1), conversation(7)), Duration::from_millis(600))]));
    assert_eq!(changes.updates.iter().map(|update| update.user).collect::<Vec<_>>(), [user(2)]);
    table.now += Duration::from_millis(600);
    let changes = table.apply_now(&catalogue, &messages[10..20]);
    assert_eq!((counts(&changes.updates), changes.superseded), (vec![20], 1));
    // After a read, the first unread message notifies at once.
    let changes = table
        .apply_now(&catalogue, &[&messages[20..], &[moved(1, 7, 38, Some(marker(1, 7, 38, 2)))]].concat());
    assert_eq!((counts(&changes.updates), changes.early.len()), (vec![2], 0));
    // A delivery again changes nothing, even of messages that have no notification of their own.
    table.mark_all(user(1));
    table.now += SUPERSEDE_INTERVAL;
    let before = table.rows.len();
    for message in &messages {
        table.apply(&catalogue, std::slice::from_ref(message));
    }
    assert_eq!((table.rows.len(), table.inboxes[&user(1)].unread_count), (before, 0));
    table.check();
}

#[test]
fn a_late_marker_corrects_the_count() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let messages: Vec<Op> = (1..=5).map(|seq| message_at(1, 7, 10 * seq, Some(seq))).collect();
    assert_eq!(counts(&table.apply(&catalogue, &messages)), [5]);
    // The user had read three of three messages before the others were sent.
    let late = [moved(1, 7, 3, Some(marker(1, 7, 3, 0)))];
    let early = table.apply_now(&catalogue, &late);
    assert_eq!((counts(&early.updates), early.early.len()), (vec![], 1), "at most one notification a second");
    assert_eq!(markers(&early.updates), [(3, 2)], "the user's sockets know of the later messages");
    let updates = table.apply(&catalogue, &late);
    let InboxEvent::Notification(shown) = &updates[0].event else { panic!("a notification") };
    assert_eq!(shown.data.get(), r#"{"conversation_id":7,"message_id":50,"count":2}"#);
    assert_eq!((shown.title.as_str(), shown.replaces.is_some()), ("Nouveau message", true));
    assert!(shown.message.starts_with("ada "), "{}", shown.message);
    assert!(counts(&table.apply(&catalogue, &late)).is_empty(), "a repeat changes nothing");
    // The user sent the fourth message. A message of the same batch has the right count, too; the two are one
    // notification.
    let six = [moved(1, 7, 4, None), message_at(1, 7, 60, Some(6))];
    assert_eq!(counts(&table.apply(&catalogue, &six)), [2]);
    let repeated = [moved(1, 7, 5, None), message_at(1, 7, 60, Some(6))];
    assert_eq!(counts(&table.apply(&catalogue, &repeated)).last(), Some(&1), "of a repeated message");
    assert!(counts(&table.apply(&catalogue, &[moved(1, 7, 5, None), moved(1, 7, 6, None)])).is_empty());
    table.check();
}

proptest! {
    #[test]
    fn a_marker_that_is_processed_late_makes_no_difference(
        steps in proptest::collection::vec(any::<(bool, bool)>(), 1..20), late in any::<proptest::sample::Index>(),
        together in 1..6_usize,
    ) {
        let catalogue = Catalogue::load(None).unwrap();
        let (mut in_order, mut disordered) = (Table::default(), Table::default());
        let (mut ops, mut last, mut read) = (Vec::new(), 0, 0);
        for (is_message, by_sending) in steps {
            if is_message || by_sending {
                last += 1;
            }
            if is_message {
                ops.push(message_at(1, 7, 10 * last, Some(last)));
            } else if last > read {
                read = last;
                ops.push(moved(1, 7, last, (!by_sending).then(|| marker(1, 7, last, 0))));
            }
        }
        for op in &ops {
            in_order.apply(&catalogue, std::slice::from_ref(op));
        }
        let is_read = |op: &Op| matches!(op.kind, OpKind::Read(_));
        let reads: Vec<usize> = (0..ops.len()).filter(|index| is_read(&ops[*index])).collect();
        if !reads.is_empty() {
            let marker = ops.remove(*late.get(&reads));
            ops.push(marker);
        }
        let (single, last) = ops.split_at(ops.len().saturating_sub(together));
        for op in single {
            disordered.apply(&catalogue, std::slice::from_ref(op));
        }
        disordered.apply(&catalogue, last);
        prop_assert_eq!(in_order.unread(), disordered.unread());
        disordered.check();
    }

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
        if together {
            prop_assert_eq!(counts(&updates).last().copied().unwrap_or(0), last - read);
        } else {
            prop_assert_eq!(counts(&updates), expected);
        }
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
    assert_eq!(counts(&updates), [2]);
    assert_eq!(counts(&table.apply(&catalogue, &[message_at(1, 7, 5_015, Some(502))])), [3]);
    let updates = table.apply(&catalogue, &[moved(1, 7, 501, Some(marker(1, 7, 501, 1)))]);
    assert_eq!(markers(&updates), [(501, 1)]);
    assert_eq!(counts(&table.apply(&catalogue, &[message_at(1, 7, 5_030, Some(503))])), [2]);
}

#[test]
fn an_own_message_publishes_the_marker() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    table.apply(&catalogue, &[message_at(1, 7, 10, Some(1))]);
    table.mark_all(user(1));
    let updates = table.apply(&catalogue, &[moved(1, 7, 2, None), message_at(1, 7, 30, Some(3))]);
    assert_eq!(markers(&updates), [(2, 1)], "later messages of the same batch are unread");
    assert_eq!(markers(&table.apply(&catalogue, &[moved(1, 7, 4, None), moved(1, 7, 5, None)])), [(5, 0)]);
    assert_eq!(markers(&table.apply(&catalogue, &[moved(1, 7, 6, None), moved(1, 7, 4, None)])), [(6, 0)]);
    assert!(markers(&table.apply(&catalogue, &[moved(1, 7, 6, None)])).is_empty(), "a repeat");
    // A redelivery: the replica that stored it may have ended before it published.
    let read = [moved(2, 7, 6, Some(marker(2, 7, 6, 0)))];
    assert_eq!(markers(&table.apply(&catalogue, &read)), [(6, 0)]);
    assert_eq!(table.inboxes[&user(2)].moves, 1);
    assert_eq!(markers(&table.apply(&catalogue, &read)), [(6, 0)]);
    assert_eq!(table.inboxes[&user(2)].moves, 1, "a redelivery is the same move");
}

fn of_kind(kind: &str, silent: bool, op: Op) -> Op {
    let OpKind::Message(received) = &op.kind else { panic!("a message") };
    let received = Received {
        kind: Some(kind.to_owned()),
        silent,
        key: received.key.clone(),
        sender: received.sender,
        sender_username: received.sender_username.clone(),
        muted: received.muted.clone(),
        ..**received
    };
    Op { kind: OpKind::Message(Arc::new(received)), ..op }
}

#[test]
fn a_silent_message_is_counted_but_notifies_nobody() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let silent = |seq: Seq| of_kind("poll", true, message_at(1, 7, 10 * seq, Some(seq)));
    let offer = |seq: Seq| of_kind("offer", false, message_at(1, 7, 10 * seq, Some(seq)));
    assert!(table.apply(&catalogue, &[silent(1)]).is_empty());
    // The newest message of the batch is silent; the one before it notifies.
    let updates = table.apply(&catalogue, &[offer(2), silent(3)]);
    assert_eq!(counts(&updates), [2]);
    let InboxEvent::Notification(shown) = &updates[0].event else { panic!("a notification") };
    let data: Value = serde_json::from_str(shown.data.get()).unwrap();
    assert_eq!(data["kind"], "offer");
    assert!(table.apply(&catalogue, &[silent(4)]).is_empty());
    assert_eq!(counts(&table.apply(&catalogue, &[message_at(1, 7, 50, Some(5))])), [5]);
}

#[test]
fn only_who_has_muted_a_conversation_is_told_so_and_a_corrected_count_stays_muted() {
    let catalogue = Catalogue::load(None).unwrap();
    let mut table = Table::default();
    let muted = |id: i64, seq: Seq| {
        let op = message_at(id, 7, 10 * seq, Some(seq));
        let OpKind::Message(received) = &op.kind else { panic!("a message") };
        let (key, sender_username) = (received.key.clone(), received.sender_username.clone());
        let received = Received { muted: vec![user(1)], kind: None, key, sender_username, ..**received };
        Op { kind: OpKind::Message(Arc::new(received)), ..op }
    };
    let data = |updates: &[InboxUpdate]| match &updates[0].event {
        InboxEvent::Notification(shown) => shown.data.get().to_owned(),
        other => panic!("{other:?}"),
    };
    let of = |updates: &[InboxUpdate], id: i64| {
        let of: Vec<_> = updates.iter().filter(|update| update.user == user(id)).collect();
        let InboxEvent::Notification(shown) = &of[0].event else { panic!("{of:?}") };
        shown.data.get().to_owned()
    };
    let updates = table.apply(&catalogue, &[muted(1, 1), muted(2, 1)]);
    assert_eq!(of(&updates, 1), r#"{"conversation_id":7,"message_id":10,"count":1,"muted":true}"#);
    assert_eq!(of(&updates, 2), r#"{"conversation_id":7,"message_id":10,"count":1}"#);
    table.apply(&catalogue, &[muted(1, 3)]);
    let late = [moved(1, 7, 2, Some(marker(1, 7, 2, 0)))];
    let updates = table.apply(&catalogue, &late);
    assert!(data(&updates).ends_with(r#""muted":true}"#), "{updates:?}");
}

/// The start of an episode is that of its first message (law R1 of reminders), and the counts follow what is superseded
/// (law F4 of preferences).
#[test]
fn a_superseding_notification_keeps_the_start_and_the_counts() {
    let catalogue = Catalogue::load(None).unwrap();
    let (at, id) = (Timestamp::now(), |id| NotificationId::new(id).unwrap());
    let since = OffsetDateTime::from(at) - time::Duration::hours(1);
    let summary = MessageSummary {
        conversation: conversation(1),
        message: 1,
        seq: None,
        sender: Some(user(9)),
        sender_username: Some("ada".to_owned()),
        kind: None,
        count: 1,
        muted: false,
    };
    let unread = UnreadMessages { id: id(7), summary, created_at: since.into(), since: Some(since) };
    let seen = Some(InboxSeen { notification_id: id(6), unseen_count: 1 });
    let inbox = Inbox { last_seq: 1, last_id: 7, unread_count: 1, seen, ..Inbox::default() };
    let known = Known {
        inboxes: HashMap::from([(user(1), inbox)]),
        unread: HashMap::from([((user(1), conversation(1)), unread)]),
        ..Known::default()
    };
    let ops = [message(1, 1, 2)];
    let changes = Plan::new(&catalogue, at, vec![id(8)], known).run(&collapse(&ops));
    assert_eq!((changes.added[0].since, changes.added[0].shown.replaces), (Some(since), Some(id(7))));
    let inbox = &changes.inboxes[&user(1)];
    assert_eq!((inbox.unread_count, inbox.seen.unwrap().unseen_count), (1, 1));
}
