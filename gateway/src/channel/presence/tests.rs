use super::{board::*, *};
use crate::{nats::connection::tests::subscribed, websocket::outbox::Outbox};
use contract::{
    Timestamp,
    chat::Person,
    presence::{BackendPresence, UserNews, UserNewsKind, UserPresence},
};
use std::sync::Arc;

const SEEN: i64 = 1_765_275_900;

fn user(id: i64) -> UserId {
    UserId::new(id).unwrap()
}

fn conversation() -> ConversationId {
    ConversationId::new(123).unwrap()
}

fn shown(id: i64, online: bool, last_seen: bool) -> BackendPresence {
    let last_seen = last_seen.then(|| Timestamp::from_unix(SEEN).unwrap());
    BackendPresence::Shown(UserPresence { user_id: user(id), online, last_seen })
}

fn hidden(id: i64) -> BackendPresence {
    BackendPresence::Hidden { user_id: user(id), hidden: true }
}

fn texts(outbox: &Outbox) -> Vec<String> {
    outbox.take().iter().map(|frame| String::from_utf8(frame.payload().to_vec()).unwrap()).collect()
}

fn frame(id: i64, rest: &str) -> String {
    format!(r#"{{"type":"presence","conversation_id":123,"user_id":{id},"online":{rest}}}"#)
}

/// A board on which user 1 watches user 2.
struct Fixture {
    board: Board,
    link: Link,
    outbox: Arc<Outbox>,
    id: WatchId,
}

impl Fixture {
    /// Nothing has been read yet.
    fn added() -> Self {
        let (mut board, link) = (Board::default(), Link::new());
        let outbox = Arc::new(Outbox::new(100, 100_000));
        let view = View { user_id: user(1), outbox: outbox.clone(), envelope: None };
        let (id, _) = board.add(view, conversation(), &[user(2)], &link);
        Self { board, link, outbox, id }
    }

    fn new(states: [BackendPresence; 2], blocked: bool) -> Self {
        let mut fixture = Self::added();
        let [of_users, of_blocks] = fixture.asked();
        fixture.states(&of_users, &states);
        fixture.blocks(&of_blocks, blocked);
        assert_eq!(texts(&fixture.outbox), [""; 0], "nothing before the join is complete");
        assert!(fixture.board.begin(fixture.id));
        fixture
    }

    /// Requests of states and blocks.
    fn asked(&self) -> [Part; 2] {
        self.board.parts_of(self.id)
    }

    /// The frames that the reply to a request causes.
    fn states(&mut self, asked: &Part, reply: &[BackendPresence]) -> Vec<String> {
        let Part::States(States { marks, .. }) = asked else { panic!("not states") };
        self.board.read(reply.to_vec(), marks);
        texts(&self.outbox)
    }

    fn blocks(&mut self, asked: &Part, blocked: bool) -> Vec<String> {
        let Part::Blocks(pairs) = asked else { panic!("not blocks") };
        let blocked = if blocked { vec![(user(1), user(2))] } else { Vec::new() };
        self.board.read_blocks(pairs, &blocked);
        texts(&self.outbox)
    }

    /// The frames that an event about a user causes.
    fn news(&mut self, id: i64, kind: UserNewsKind) -> Vec<String> {
        self.board.news(&UserNews { user_id: user(id), kind });
        texts(&self.outbox)
    }
}

fn block(blocked: bool) -> UserNewsKind {
    UserNewsKind::Block { other_id: user(1), blocked }
}

fn state(online: bool) -> UserNewsKind {
    UserNewsKind::State { online, last_seen: (!online).then(|| Timestamp::from_unix(SEEN).unwrap()) }
}

#[test]
fn a_join_sends_the_state_and_each_change_is_sent_once() {
    let mut fixture = Fixture::new([shown(1, true, false), shown(2, false, true)], false);
    let offline = frame(2, r#"false,"last_seen":"2025-12-09T10:25:00.000000Z""#);
    assert_eq!(texts(&fixture.outbox), std::slice::from_ref(&offline));
    assert_eq!(fixture.news(2, state(true)), [frame(2, "true")]);
    assert_eq!(fixture.news(2, state(true)), [""; 0], "another replica's event");
    assert_eq!(fixture.news(1, state(false)), [""; 0], "the own presence is not shown");
    assert_eq!(fixture.news(2, state(false)), [offline]);
    fixture.board.remove(fixture.id, &fixture.link);
    assert_eq!((fixture.board.users().count(), fixture.board.watches()), (0, 0));
}

#[test]
fn users_who_hide_or_block_or_were_never_seen_look_the_same() {
    let unknown = [frame(2, "false")];
    for (own, other, blocked) in [
        (shown(1, true, false), hidden(2), false),
        (shown(1, true, false), shown(2, true, false), true),
        (shown(1, true, false), shown(2, false, true), true),
        (shown(1, true, false), shown(2, false, false), false),
        (shown(1, true, false), hidden(2), true),
        (hidden(1), shown(2, true, false), false),
        (hidden(1), shown(2, false, true), false),
        (hidden(1), hidden(2), true),
    ] {
        let people = [Person { user_id: user(2), blocked }];
        let items = seen_by(user(1), &people, vec![own.clone(), other.clone()]);
        assert_eq!(items, [UserPresence::unknown(user(2))], "{own:?} {other:?} {blocked}");
        let mut fixture = Fixture::new([own, other], blocked);
        assert_eq!(texts(&fixture.outbox), unknown);
        if blocked {
            assert_eq!(fixture.news(2, state(true)), [""; 0]);
        }
    }
}

#[test]
fn hiding_applies_at_once_in_both_directions() {
    let mut fixture = Fixture::new([shown(1, true, false), shown(2, true, false)], false);
    assert_eq!(texts(&fixture.outbox), [frame(2, "true")]);
    let hides = |hidden| UserNewsKind::Hidden { hidden, online: true };
    assert_eq!(fixture.news(2, hides(true)), [frame(2, "false")]);
    assert_eq!(fixture.news(2, state(false)), [""; 0]);
    assert_eq!(fixture.news(2, hides(false)), [frame(2, "true")]);
    assert_eq!(fixture.news(1, hides(true)), [frame(2, "false")]);
    assert_eq!(fixture.news(1, hides(false)), [frame(2, "true")]);
    assert_eq!(fixture.news(2, block(true)), [frame(2, "false")]);
    assert_eq!(fixture.news(2, block(false)), [frame(2, "true")]);
}

#[test]
fn a_reply_does_not_undo_an_event_that_arrived_meanwhile() {
    let mut fixture = Fixture::new([shown(1, true, false), shown(2, false, false)], false);
    texts(&fixture.outbox);
    let [asked, _] = fixture.asked();
    assert_eq!(fixture.news(2, state(true)), [frame(2, "true")]);
    assert_eq!(fixture.states(&asked, &[shown(2, false, false)]), [""; 0]);
    let [asked, _] = fixture.asked();
    assert_eq!(fixture.states(&asked, &[shown(2, false, true)]).len(), 1, "the loss of an event is found");
}

#[test]
fn a_lost_event_about_a_block_is_found_and_an_old_reply_does_not_undo_one() {
    let mut fixture = Fixture::new([shown(1, true, false), shown(2, true, false)], false);
    assert_eq!(texts(&fixture.outbox), [frame(2, "true")]);
    let [_, asked] = fixture.asked();
    assert_eq!(fixture.blocks(&asked, true), [frame(2, "false")], "the event of the block was lost");
    assert_eq!(fixture.news(2, block(false)), [frame(2, "true")]);
    assert_eq!(fixture.blocks(&asked, true), [""; 0], "the reply is older than the event");
    let [_, asked] = fixture.asked();
    assert_eq!(fixture.blocks(&asked, true), [frame(2, "false")]);
}

#[test]
fn a_join_with_an_event_in_between_shows_everybody_as_they_are() {
    for (id, kind) in [(1, state(true)), (2, state(true)), (1, state(false))] {
        let mut fixture = Fixture::added();
        assert!(!fixture.board.begin(fixture.id), "nothing is known yet");
        let [of_users, of_blocks] = fixture.asked();
        fixture.news(id, kind);
        fixture.states(&of_users, &[shown(1, true, false), shown(2, true, false)]);
        assert!(!fixture.board.begin(fixture.id), "the blocks are not known yet");
        fixture.blocks(&of_blocks, false);
        assert!(fixture.board.begin(fixture.id));
        assert_eq!(texts(&fixture.outbox), [frame(2, "true")]);
    }
    let mut fixture = Fixture::added();
    let [of_users, of_blocks] = fixture.asked();
    fixture.news(1, UserNewsKind::Hidden { hidden: true, online: true });
    fixture.states(&of_users, &[shown(1, true, false), shown(2, true, false)]);
    fixture.news(2, block(true));
    fixture.blocks(&of_blocks, false);
    fixture.board.begin(fixture.id);
    assert_eq!(texts(&fixture.outbox), [frame(2, "false")]);
    assert_eq!(fixture.news(1, UserNewsKind::Hidden { hidden: false, online: true }), [""; 0], "blocked");
    assert_eq!(fixture.news(2, block(false)), [frame(2, "true")]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_event_gives_way_to_the_stored_one_after_a_while() {
    let mut fixture = Fixture::new([shown(1, true, false), shown(2, true, false)], false);
    texts(&fixture.outbox);
    assert_eq!(fixture.news(2, state(false)).len(), 1);
    let [asked, _] = fixture.asked();
    assert_eq!(fixture.states(&asked, &[shown(2, false, false)]), [""; 0], "it is not stored yet");
    tokio::time::advance(Duration::from_secs(31)).await;
    let unknown = [frame(2, "false")];
    assert_eq!(fixture.states(&asked, &[shown(2, false, false)]), unknown, "the user was erased");
    fixture.news(2, state(true));
    assert_eq!(fixture.news(2, state(false)).len(), 1);
    assert_eq!(fixture.news(2, UserNewsKind::Hidden { hidden: false, online: false }), unknown, "erased");
}

#[test]
fn all_is_read_in_parts() {
    let mut fixture = Fixture::added();
    let view = View { user_id: user(1), outbox: fixture.outbox.clone(), envelope: None };
    let people: Vec<UserId> = (2..7).map(user).collect();
    fixture.board.add(view, conversation(), &people, &fixture.link);
    let parts = fixture.board.parts(4, 5);
    let sizes = parts.iter().map(|part| match part {
        Part::States(states) => (states.user_ids.len(), 0),
        Part::Blocks(pairs) => (0, pairs.len()),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [(4, 0), (2, 0), (0, 5), (0, 1)]);
}

/// As many people as would not fit into the commands that may wait at once.
#[test]
fn subscriptions_are_renewed_in_parts() {
    const PEOPLE: i64 = 260_000;
    let link = Link::new();
    let bus_less = Mutex::new(Board::default());
    let outbox = Arc::new(Outbox::new(100, 100_000));
    for first in (1..PEOPLE).step_by(100) {
        let people: Vec<UserId> = (first + 1..first + 100).map(user).collect();
        let view = View { user_id: user(first), outbox: outbox.clone(), envelope: None };
        bus_less.lock().unwrap().add(view, conversation(), &people, &link);
    }
    let mut all = 0;
    for part in 0..SHARDS {
        all += subscribed(&link, || resubscribe(&bus_less.lock().unwrap(), part, &link));
    }
    assert_eq!(all, usize::try_from(PEOPLE).unwrap());
}
