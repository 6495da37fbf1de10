//! Delivery: whatever events arrive, in whatever order, each socket receives each entry once, in order.

use super::*;
use crate::websocket::outbox::Outbox;
use contract::UserId;
use proptest::prelude::*;
use std::sync::Arc;

pub(super) fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

pub(super) fn entry(seq: Seq) -> Entry {
    Entry {
        at: Head { seq, id: seq * 10 },
        owner: user(1),
        moves_marker: true,
        public: Frame::text(&seq.to_string()),
        private: None,
        counts: None,
    }
}

pub(super) fn view() -> (View, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::new(100_000, 10_000_000));
    (View { user_id: user(2), outbox: outbox.clone(), envelope: None }, outbox)
}

fn text(frame: &Frame) -> String {
    String::from_utf8(frame.payload().to_vec()).unwrap()
}

pub(super) fn texts(outbox: &Outbox) -> Vec<String> {
    outbox.take().iter().map(text).collect()
}

fn seqs(outbox: &Outbox) -> Vec<Seq> {
    texts(outbox).iter().map(|text| text.parse().unwrap()).collect()
}

/// An event in the life of a channel.
#[derive(Debug, Clone)]
enum Step {
    /// The entry with this `seq` arrives, perhaps again.
    Arrives(Seq),
    /// The gap is read from a log that ends with this `seq`.
    Repaired(Seq),
    /// A socket that has read up to this `seq` joins.
    Joins(Seq),
    /// The oldest replay in progress ends.
    Released,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_i64..40).prop_map(Step::Arrives),
        1 => (1_i64..40).prop_map(Step::Repaired),
        2 => (0_i64..40).prop_map(Step::Joins),
        1 => Just(Step::Released),
    ];
    proptest::collection::vec(step, 0..80)
}

fn repair(log: &mut Log, until: Seq) {
    if let Gap::Entries(after) = log.gap() {
        for seq in (after / 10 + 1)..=until {
            log.entry(entry(seq));
        }
    }
}

proptest! {
    #[test]
    fn each_socket_receives_each_entry_once_and_in_order(steps in steps()) {
        let mut log = Log::default();
        let mut sockets: Vec<(Seq, Arc<Outbox>)> = Vec::new();
        let mut replays: VecDeque<(MemberId, Arc<Outbox>, Seq, Seq)> = VecDeque::new();
        let release = |log: &mut Log, (id, outbox, from, until): (MemberId, Arc<Outbox>, Seq, Seq)| {
            for seq in from + 1..=until {
                outbox.push(Frame::text(&seq.to_string()));
            }
            log.release(id);
        };
        for step in steps {
            match step {
                Step::Arrives(seq) => log.entry(entry(seq)),
                Step::Repaired(until) => repair(&mut log, until),
                Step::Joins(at) => {
                    let (view, outbox) = view();
                    sockets.push((at, outbox.clone()));
                    if let Attached::Behind(id, until) = log.attach(view, Head { seq: at, id: at * 10 }.into(), Vec::new(), false) {
                        replays.push_back((id, outbox, at, until.head.seq));
                    }
                }
                Step::Released => {
                    if let Some(replay) = replays.pop_front() {
                        release(&mut log, replay);
                    }
                }
            }
        }
        // At the end, the log is complete and every replay has ended.
        repair(&mut log, 40);
        for seq in 1..=40 {
            log.entry(entry(seq));
        }
        for replay in replays {
            release(&mut log, replay);
        }
        for (at, outbox) in sockets {
            prop_assert_eq!(seqs(&outbox), (at + 1..=40).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_gap_is_found_and_later_entries_wait() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }.into(), Vec::new(), false);
    log.entry(entry(7));
    assert_eq!((seqs(&outbox), log.gap()), (vec![], Gap::Entries(50)));
    log.entry(entry(6));
    assert_eq!((seqs(&outbox), log.gap()), (vec![6, 7], Gap::None));
    log.head(9, None);
    assert_eq!(log.gap(), Gap::Entries(70));
}

fn marker(seq: Seq) -> Marker {
    Marker {
        conversation_id: contract::ConversationId::new(9).unwrap(),
        user_id: user(2),
        message_id: contract::MessageId::new(seq * 10).unwrap(),
        seq,
        read_at: contract::Timestamp::now(),
        unread_count: None,
        by_sending: false,
    }
}

#[test]
fn a_marker_is_delivered_once_and_after_its_entry() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }.into(), Vec::new(), false);
    log.note(Note::Marker(marker(6)));
    assert!(outbox.take().is_empty());
    log.entry(entry(6));
    log.note(Note::Marker(marker(6)));
    log.note(Note::Marker(marker(4)));
    let sent = texts(&outbox);
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[0], "6");
    assert!(sent[1].contains(r#""type":"read""#) && sent[1].contains(r#""unread_count":0"#), "{}", sent[1]);
    log.head(6, Some(100));
    assert_eq!(log.gap(), Gap::Markers);
    log.markers_read(Vec::new());
    assert_eq!(log.gap(), Gap::None);
}

#[test]
fn of_two_waiting_markers_only_the_later_one_is_delivered() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }.into(), Vec::new(), false);
    log.note(Note::Marker(marker(7)));
    log.note(Note::Marker(marker(6)));
    log.entry(entry(6));
    assert_eq!(seqs(&outbox), [6]);
    log.entry(entry(7));
    let sent = texts(&outbox);
    assert!(sent.len() == 2 && sent[1].contains(r#""seq":7"#), "{sent:?}");
}

#[test]
fn markers_wait_for_a_socket_ahead_of_its_channel_and_count_all_that_it_has_read() {
    let (first, _keep) = view();
    let mut log = Log::default();
    log.attach(first, Head { seq: 5, id: 50 }.into(), vec![marker(3)], false);
    // The second socket has read up to 8 from the service, while events after 5 have not arrived yet.
    let (second, outbox) = view();
    assert!(matches!(
        log.attach(second, Head { seq: 8, id: 80 }.into(), vec![marker(4)], true),
        Attached::Live(_)
    ));
    log.entry(entry(6));
    log.note(Note::Marker(marker(5)));
    log.entry(entry(7));
    assert!(outbox.take().is_empty());
    log.entry(entry(8));
    let sent = texts(&outbox);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(sent[0].contains(r#""seq":5"#) && sent[0].contains(r#""unread_count":3"#), "{sent:?}");
    log.entry(entry(9));
    log.note(Note::Marker(marker(9)));
    assert_eq!(outbox.take().len(), 2, "after that, it receives all frames");
}

fn inbox_read(id: i64, unread_count: i64) -> InboxRead {
    InboxRead {
        notification_id: contract::NotificationId::new(id * 10).unwrap(),
        read_at: Timestamp::from_unix(id).unwrap(),
        unread_count,
        unseen_count: None,
        all: false,
    }
}

/// The service's state of an inbox that ends at `seq`, with the last read.
fn inbox_state(seq: Seq, id: i64, unread: i64) -> InboxState {
    let last_read = Some(inbox_read(id, unread));
    InboxState { seq, unread, last_read, reads: None, moves: None, last_moved: None, seen: None }
}

#[test]
fn a_read_in_an_inbox_is_delivered_once_and_counts_only_delivered_notifications() {
    let (first, outbox) = view();
    outbox.set_understands_extensions();
    let mut log = Log::default();
    log.inbox(&inbox_state(3, 1, 2));
    log.attach(first, Head { seq: 3, id: 30 }.into(), Vec::new(), false);
    log.inbox(&inbox_state(3, 1, 2));
    assert!(texts(&outbox).is_empty(), "the read happened before the socket joined");
    log.inbox(&inbox_state(3, 2, 1));
    log.inbox(&inbox_state(3, 2, 1));
    let sent = texts(&outbox);
    assert!(sent.len() == 1 && sent[0].contains(r#""notification_id":20"#), "{sent:?}");
    // A read that counts more or fewer notifications than were delivered waits.
    log.inbox(&inbox_state(4, 3, 1));
    log.entry(entry(4));
    log.entry(entry(5));
    log.inbox(&inbox_state(4, 3, 1));
    assert_eq!(texts(&outbox), ["4", "5"]);
    log.inbox(&inbox_state(5, 3, 2));
    assert!(texts(&outbox)[0].contains(r#""unread_count":2"#));
    // Only the socket that resumes receives the last read again.
    let (second, late) = view();
    late.set_understands_extensions();
    log.inbox(&inbox_state(5, 3, 2));
    let (Attached::Live(id) | Attached::Behind(id, _)) =
        log.attach(second, Head { seq: 5, id: 50 }.into(), Vec::new(), true);
    log.remind(id, &inbox_state(5, 3, 2));
    assert_eq!((texts(&late).len(), texts(&outbox).len()), (1, 0));
}

#[test]
fn a_changed_count_is_delivered_even_without_a_new_read() {
    let (first, outbox) = view();
    outbox.set_understands_extensions();
    let mut log = Log::default();
    let state = |unread| InboxState { reads: Some(4), ..inbox_state(3, 1, unread) };
    log.inbox(&state(2));
    log.attach(first, Head { seq: 3, id: 30 }.into(), Vec::new(), false);
    log.inbox(&state(2));
    assert!(texts(&outbox).is_empty());
    // For example because retention removed an unread notification.
    log.inbox(&state(1));
    log.inbox(&state(1));
    let sent = texts(&outbox);
    assert!(sent.len() == 1 && sent[0].contains(r#""unread_count":1"#), "{sent:?}");
    log.inbox(&InboxState { reads: Some(3), ..state(2) });
    assert!(texts(&outbox).is_empty(), "a reply older than the known state");
}

/// A change of an inbox, as published by its service.
#[derive(Debug, Clone)]
enum Change {
    Added(Entry),
    Read(ReadPlace, InboxRead),
}

/// The changes of an inbox in which some notifications are read right after they were added, and its final state.
fn inbox_changes(reads: &[Option<bool>]) -> (Vec<Change>, InboxState) {
    let mut changes = Vec::new();
    let mut now = InboxState { reads: Some(0), last_read: None, ..inbox_state(0, 1, 0) };
    for read in reads {
        now.seq += 1;
        now.unread += 1;
        let public = Frame::text(&format!(r#"{{"seq":{},"unread_count":{}}}"#, now.seq, now.unread));
        changes.push(Change::Added(Entry {
            public,
            counts: Some(Counts { unread: now.unread, unseen: None }),
            ..entry(now.seq)
        }));
        if let Some(all) = read {
            now.unread = if *all { 0 } else { now.unread - 1 };
            let count = now.reads.unwrap_or_default() + 1;
            let read = InboxRead {
                read_at: Timestamp::from_unix(count).unwrap(),
                ..inbox_read(now.seq, now.unread)
            };
            (now.reads, now.last_read) = (Some(count), Some(read));
            changes.push(Change::Read(ReadPlace { seq: now.seq, reads: count }, read));
        }
    }
    (changes, now)
}

fn last_count(outbox: &Outbox) -> Option<i64> {
    let last = texts(outbox).pop()?;
    let frame: serde_json::Value = serde_json::from_str(&last).unwrap();
    frame["unread_count"].as_i64()
}

proptest! {
    #[test]
    fn the_last_delivered_count_is_the_count_of_the_inbox(
        reads in proptest::collection::vec(proptest::option::of(any::<bool>()), 1..12),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 24),
        lost in proptest::collection::vec(any::<bool>(), 24),
    ) {
        let (changes, now) = inbox_changes(&reads);
        let (socket, outbox) = view();
        outbox.set_understands_extensions();
        let mut log = Log::default();
        log.inbox(&InboxState { reads: Some(0), last_read: None, ..inbox_state(0, 1, 0) });
        log.attach(socket, Position::default(), Vec::new(), false);
        // Changes arrive in any order, and some reads are lost.
        let mut waiting = changes;
        let mut order = order.iter();
        let mut any_lost = false;
        while !waiting.is_empty() {
            let index = order.next().map_or(0, |index| index.index(waiting.len()));
            match waiting.swap_remove(index) {
                Change::Added(entry) => log.entry(entry),
                Change::Read(..) if lost[waiting.len()] => any_lost = true,
                Change::Read(place, read) => log.note(Note::Inbox(read, Some(place))),
            }
        }
        if !any_lost {
            prop_assert_eq!(last_count(&outbox), Some(now.unread));
        } else {
            let sent = last_count(&outbox);
            log.inbox(&now);
            prop_assert_eq!(last_count(&outbox).or(sent), Some(now.unread), "the comparison finds it");
        }
        log.inbox(&now);
        prop_assert_eq!(last_count(&outbox), None, "once");
    }
}

#[test]
fn what_the_user_has_seen_is_delivered_once_with_the_count_of_the_inbox() {
    let (socket, outbox) = view();
    outbox.set_understands_extensions();
    let mut log = Log::default();
    let seen = |id: i64, unseen_count| InboxSeen {
        notification_id: contract::NotificationId::new(id * 10).unwrap(),
        unseen_count,
    };
    let place = |seq, reads| Some(ReadPlace { seq, reads });
    let notification = |seq, unseen| Entry {
        public: Frame::text("{}"),
        counts: Some(Counts { unread: seq, unseen: Some(unseen) }),
        ..entry(seq)
    };
    log.inbox(&InboxState { reads: Some(0), last_read: None, ..inbox_state(3, 1, 3) });
    log.attach(socket, Head { seq: 3, id: 30 }.into(), Vec::new(), false);
    log.note(Note::Seen(seen(2, 1), place(3, 2)));
    log.note(Note::Seen(seen(2, 1), place(3, 2)));
    log.note(Note::Seen(seen(1, 2), place(3, 1)));
    assert_eq!(texts(&outbox), [r#"{"type":"seen","notification_id":20,"unseen_count":1}"#]);
    // It waits for the notification that it counts, and is not older than the next one.
    log.note(Note::Seen(seen(4, 0), place(4, 3)));
    assert!(texts(&outbox).is_empty());
    log.entry(notification(5, 1));
    log.entry(notification(4, 2));
    let last = texts(&outbox).pop();
    let latest = r#"{"type":"seen","notification_id":40,"unseen_count":1}"#;
    assert_eq!(last.as_deref(), Some(latest), "the count of notification 5 is the latest");
    // What was lost is found by the comparison.
    let now = InboxState { reads: Some(4), last_read: None, seen: Some(seen(5, 0)), ..inbox_state(5, 1, 5) };
    log.inbox(&now);
    log.inbox(&now);
    assert_eq!(texts(&outbox), [r#"{"type":"seen","notification_id":50,"unseen_count":0}"#]);
    // Also a count alone.
    log.inbox(&InboxState { seen: Some(seen(5, 1)), ..now });
    assert_eq!(texts(&outbox), [r#"{"type":"seen","notification_id":50,"unseen_count":1}"#]);
}

/// The user reads the last of three notifications, and then sees the second one in a list.
#[test]
fn the_last_unseen_count_is_that_of_the_inbox_in_both_orders_of_a_read_and_a_seen() {
    for seen_first in [false, true] {
        let (socket, outbox) = view();
        outbox.set_understands_extensions();
        let mut log = Log::default();
        let seen = |id: i64, unseen_count| InboxSeen {
            notification_id: contract::NotificationId::new(id * 10).unwrap(),
            unseen_count,
        };
        log.inbox(&InboxState { reads: Some(1), seen: Some(seen(1, 2)), ..inbox_state(3, 1, 3) });
        log.attach(socket, Head { seq: 3, id: 30 }.into(), Vec::new(), false);
        let read = InboxRead { unseen_count: Some(1), ..inbox_read(3, 2) };
        let mut notes = vec![
            Note::Inbox(read, Some(ReadPlace { seq: 3, reads: 2 })),
            Note::Seen(seen(2, 0), Some(ReadPlace { seq: 3, reads: 3 })),
        ];
        if seen_first {
            notes.reverse();
        }
        for note in notes {
            log.note(note);
        }
        let sent = texts(&outbox);
        let last: serde_json::Value = serde_json::from_str(sent.last().unwrap()).unwrap();
        assert_eq!((sent.len(), &last["unseen_count"]), (2, &serde_json::json!(0)), "{sent:?}");
        assert!(sent.iter().any(|frame| frame.contains(r#""unread_count":2"#)), "{sent:?}");
        log.inbox(&InboxState { reads: Some(3), seen: Some(seen(2, 0)), ..inbox_state(3, 3, 2) });
        assert!(texts(&outbox).is_empty(), "nothing differs");
    }
}

#[test]
fn a_missed_marker_of_the_user_is_delivered_once() {
    let (socket, outbox) = view();
    outbox.set_understands_extensions();
    let mut log = Log::default();
    let state =
        |moves, seq| InboxState { moves: Some(moves), last_moved: Some(marker(seq)), ..inbox_state(3, 1, 2) };
    log.inbox(&state(1, 10));
    log.attach(socket, Head { seq: 3, id: 30 }.into(), Vec::new(), false);
    log.note(Note::OwnMarker(marker(11), 2));
    log.inbox(&state(2, 11));
    log.inbox(&state(1, 10));
    let sent = texts(&outbox);
    assert!(sent.len() == 1 && sent[0].contains(r#""seq":11"#), "{sent:?}");
    log.inbox(&state(3, 12));
    log.inbox(&state(3, 12));
    let sent = texts(&outbox);
    assert!(sent.len() == 1 && sent[0].contains(r#""seq":12"#) && !sent[0].contains("unread"), "{sent:?}");
}

#[test]
fn a_read_that_overtakes_its_notifications_waits_for_them() {
    let (socket, outbox) = view();
    outbox.set_understands_extensions();
    let mut log = Log::default();
    log.attach(socket, Position::default(), Vec::new(), false);
    log.note(Note::Inbox(inbox_read(2, 0), Some(ReadPlace { seq: 2, reads: 1 })));
    assert_eq!((texts(&outbox).len(), log.gap()), (0, Gap::Entries(0)));
    log.entry(entry(1));
    log.entry(entry(2));
    let sent = texts(&outbox);
    assert!(sent.len() == 3 && sent[2].contains(r#""unread_count":0"#), "{sent:?}");
    // A read without a position is delivered at once.
    log.note(Note::Inbox(inbox_read(3, 0), None));
    assert_eq!(texts(&outbox).len(), 1);
}

#[test]
fn only_the_reader_receives_the_unread_count_and_only_the_sender_the_client_id() {
    let (own, mine) = view();
    let (other, theirs) = view();
    let other = View { user_id: user(3), ..other };
    let mut log = Log::default();
    log.attach(own, Position::default(), Vec::new(), false);
    log.attach(other, Position::default(), Vec::new(), false);
    log.entry(Entry { owner: user(2), private: Some(Frame::text("private")), ..entry(1) });
    log.entry(entry(2));
    log.note(Note::Marker(marker(2)));
    let (mine, theirs) = (texts(&mine), texts(&theirs));
    assert_eq!((mine[0].as_str(), theirs[0].as_str()), ("private", "1"));
    assert!(mine[2].contains("unread_count") && !theirs[2].contains("unread_count"), "{mine:?} {theirs:?}");
}

#[test]
fn a_system_message_moves_no_marker() {
    let mut log = Log::default();
    let (view, outbox) = view();
    log.attach(view, Position::default(), Vec::new(), false);
    log.entry(Entry { moves_marker: false, owner: user(9), ..entry(1) });
    log.entry(entry(2));
    assert_eq!(seqs(&outbox), [1, 2]);
    // Only the sender of the second message has read: the sum of the service shows a marker that was lost.
    log.head(2, Some(2));
    assert!(!log.has_missed_markers);
    log.head(2, Some(3));
    assert!(log.has_missed_markers);
}
