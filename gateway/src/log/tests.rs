//! The law of delivery: whatever comes in, and in whatever order, each socket is sent each entry once, in order.

use super::*;
use proptest::prelude::*;

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn entry(seq: Seq) -> Entry {
    Entry {
        at: Head { seq, id: seq * 10 },
        owner: user(1),
        public: Frame::text(&seq.to_string()),
        private: None,
    }
}

fn view() -> (View, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::new(100_000, 10_000_000));
    (View { user_id: user(2), outbox: outbox.clone(), envelope: None }, outbox)
}

fn text(frame: &Frame) -> String {
    String::from_utf8(frame.payload().to_vec()).unwrap()
}

fn texts(outbox: &Outbox) -> Vec<String> {
    outbox.take().iter().map(text).collect()
}

fn seqs(outbox: &Outbox) -> Vec<Seq> {
    texts(outbox).iter().map(|text| text.parse().unwrap()).collect()
}

/// What may happen to a channel.
#[derive(Debug, Clone)]
enum Step {
    /// The entry with this `seq` comes in, once more, or for the first time.
    Arrives(Seq),
    /// What is missing is read from a log that ends with this `seq`.
    Repaired(Seq),
    /// A socket joins that has read up to this `seq`.
    Joins(Seq),
    /// The oldest replay that is under way ends.
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
    if let Lack::Entries(after) = log.lack() {
        for seq in (after / 10 + 1)..=until {
            log.entry(entry(seq));
        }
    }
}

proptest! {
    #[test]
    fn each_socket_is_sent_each_entry_once_and_in_order(steps in steps()) {
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
                    if let Attached::Behind(id, until) = log.attach(view, Head { seq: at, id: at * 10 }, Vec::new(), false) {
                        replays.push_back((id, outbox, at, until));
                    }
                }
                Step::Released => {
                    if let Some(replay) = replays.pop_front() {
                        release(&mut log, replay);
                    }
                }
            }
        }
        // In the end the log is whole, and every replay over.
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
fn a_hole_is_noticed_and_nothing_behind_it_is_told() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }, Vec::new(), false);
    log.entry(entry(7));
    assert_eq!((seqs(&outbox), log.lack()), (vec![], Lack::Entries(50)));
    log.entry(entry(6));
    assert_eq!((seqs(&outbox), log.lack()), (vec![6, 7], Lack::Nothing));
    log.head(9, None);
    assert_eq!(log.lack(), Lack::Entries(70));
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
fn a_marker_is_told_once_and_never_before_what_it_marks() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }, Vec::new(), false);
    log.note(Note::Marker(marker(6)));
    assert!(outbox.take().is_empty());
    log.entry(entry(6));
    log.note(Note::Marker(marker(6)));
    log.note(Note::Marker(marker(4)));
    let told = texts(&outbox);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "6");
    assert!(told[1].contains(r#""type":"read""#) && told[1].contains(r#""unread_count":0"#), "{}", told[1]);
    log.head(6, Some(100));
    assert_eq!(log.lack(), Lack::Markers);
    log.markers_read(Vec::new());
    assert_eq!(log.lack(), Lack::Nothing);
}

#[test]
fn of_two_markers_that_wait_the_later_one_is_told() {
    let (view, outbox) = view();
    let mut log = Log::default();
    log.attach(view, Head { seq: 5, id: 50 }, Vec::new(), false);
    log.note(Note::Marker(marker(7)));
    log.note(Note::Marker(marker(6)));
    log.entry(entry(6));
    assert_eq!(seqs(&outbox), [6]);
    log.entry(entry(7));
    let told = texts(&outbox);
    assert!(told.len() == 2 && told[1].contains(r#""seq":7"#), "{told:?}");
}

#[test]
fn a_socket_ahead_of_its_channel_is_told_no_count_of_less_than_it_knows() {
    let (first, _keep) = view();
    let mut log = Log::default();
    log.attach(first, Head { seq: 5, id: 50 }, vec![marker(3)], false);
    // The second has read up to 8 from the service, and events after 5 are still on their way here.
    let (second, outbox) = view();
    assert!(matches!(log.attach(second, Head { seq: 8, id: 80 }, vec![marker(4)], true), Attached::Live(_)));
    log.entry(entry(6));
    log.note(Note::Marker(marker(5)));
    log.entry(entry(7));
    assert!(outbox.take().is_empty());
    log.entry(entry(8));
    let told = texts(&outbox);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(r#""seq":5"#) && told[0].contains(r#""unread_count":3"#), "{told:?}");
    log.entry(entry(9));
    log.note(Note::Marker(marker(9)));
    assert_eq!(outbox.take().len(), 2, "from then on it is told as everyone");
}

#[test]
fn what_was_read_in_an_inbox_is_told_once_and_with_a_count_of_what_was_told() {
    let read = |id: i64, unread_count: i64| InboxRead {
        notification_id: contract::NotificationId::new(id * 10).unwrap(),
        read_at: Timestamp::from_unix(id).unwrap(),
        unread_count,
        all: false,
    };
    let (first, outbox) = view();
    outbox.set_talkative();
    let mut log = Log::default();
    log.last_read(3, &read(1, 2));
    log.attach(first, Head { seq: 3, id: 30 }, Vec::new(), false);
    log.last_read(3, &read(1, 2));
    assert!(texts(&outbox).is_empty(), "it was read before the socket came");
    log.last_read(3, &read(2, 1));
    log.last_read(3, &read(2, 1));
    let told = texts(&outbox);
    assert!(told.len() == 1 && told[0].contains(r#""notification_id":20"#), "{told:?}");
    // What counts more, or less, than was told waits.
    log.last_read(4, &read(3, 1));
    log.entry(entry(4));
    log.entry(entry(5));
    log.last_read(4, &read(3, 1));
    assert_eq!(texts(&outbox), ["4", "5"]);
    log.last_read(5, &read(3, 2));
    assert!(texts(&outbox)[0].contains(r#""unread_count":2"#));
    // Who was away is told, the others are not.
    let (second, late) = view();
    late.set_talkative();
    log.last_read(5, &read(3, 2));
    let (Attached::Live(id) | Attached::Behind(id, _)) =
        log.attach(second, Head { seq: 5, id: 50 }, Vec::new(), true);
    log.remind(id, 5, &read(3, 2));
    assert_eq!((texts(&late).len(), texts(&outbox).len()), (1, 0));
}

#[test]
fn only_its_user_is_told_how_much_is_unread_and_only_its_sender_the_client_id() {
    let (own, mine) = view();
    let (other, theirs) = view();
    let other = View { user_id: user(3), ..other };
    let mut log = Log::default();
    log.attach(own, Head::default(), Vec::new(), false);
    log.attach(other, Head::default(), Vec::new(), false);
    log.entry(Entry { owner: user(2), private: Some(Frame::text("private")), ..entry(1) });
    log.entry(entry(2));
    log.note(Note::Marker(marker(2)));
    let (mine, theirs) = (texts(&mine), texts(&theirs));
    assert_eq!((mine[0].as_str(), theirs[0].as_str()), ("private", "1"));
    assert!(mine[2].contains("unread_count") && !theirs[2].contains("unread_count"), "{mine:?} {theirs:?}");
}
