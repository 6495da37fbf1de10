//! A participant's own settings, tested on a real Postgres.

use super::{
    tests::{conversation, database, in_time, send, user},
    *,
};
use contract::{
    ConversationId,
    chat::{Conversation, ListConversations, MineChanges, MutedUntil},
    log::Range,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service::postgres::{self, Pool};
use time::OffsetDateTime;

/// What may happen to a conversation; users are 1 and 2.
#[derive(Debug, Clone, Copy)]
enum Step {
    Change(i64, MineChanges),
    Send(i64),
    /// The user's mute ends by itself.
    Expire(i64),
    /// All messages are deleted, because they are old.
    Retain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = (prop::option::of(any::<bool>()), any::<Option<bool>>(), any::<Option<bool>>());
    let changes = changes.prop_map(|(muted, archived, pinned)| MineChanges {
        muted_until: muted.map(|muted| muted.then_some(MutedUntil::Forever)),
        archived,
        pinned,
    });
    let step = prop_oneof![
        3 => (1_i64..=2, changes).prop_map(|(user, changes)| Step::Change(user, changes)),
        3 => (1_i64..=2).prop_map(Step::Send),
        1 => (1_i64..=2).prop_map(Step::Expire),
        1 => Just(Step::Retain),
    ];
    prop::collection::vec(step, 1..14)
}

/// A user's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Settings {
    muted: bool,
    archived: bool,
    pinned: bool,
}

impl Settings {
    fn of(conversation: &Conversation) -> Self {
        let Conversation { muted_until, archived, pinned, .. } = conversation;
        Self { muted: muted_until.is_some(), archived: *archived, pinned: *pinned }
    }

    fn take(&mut self, step: Step, of: i64) {
        match step {
            Step::Change(user, MineChanges { muted_until, archived, pinned }) if user == of => {
                self.muted = muted_until.map_or(self.muted, |until| until.is_some());
                self.archived = archived.unwrap_or(self.archived);
                self.pinned = pinned.unwrap_or(self.pinned);
            }
            Step::Send(_) => self.archived &= self.muted,
            Step::Expire(user) if user == of => self.muted = false,
            Step::Change(..) | Step::Expire(_) | Step::Retain => {}
        }
    }
}

async fn list_of(pool: &Pool, of: i64, archived: bool, pinned: bool) -> Vec<i64> {
    let request = ListConversations { user_id: user(of), range: Range::Newest, limit: 9, archived, pinned };
    list(pool, &request, 9).await.unwrap().iter().map(|listed| listed.id).collect()
}

async fn run(pool: &Pool, steps: &[Step]) -> Result<(), TestCaseError> {
    let users = [fastrand::i64(10..1 << 40), fastrand::i64(1 << 40..1 << 50)];
    let of = |number: i64| users[usize::try_from(number - 1).unwrap()];
    let id: ConversationId = conversation(pool, &users).await;
    let mut settings = [Settings::default(); 2];
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Change(number, changes) => {
                set_mine(pool, id, user(of(number)), changes).await.unwrap().unwrap();
            }
            Step::Send(number_of_sender) => {
                let sends = [send(id, of(number_of_sender), &format!("m{number}"))];
                let batch = store_messages(pool, &in_time(&sends), true).await.unwrap();
                let [Outcome::Stored(_, Some(people))] = &batch.outcomes[..] else { panic!("{batch:?}") };
                let muted: Vec<_> = (1..=2)
                    .filter(|number| settings[*number as usize - 1].muted)
                    .map(|number| user(of(number)))
                    .collect();
                // In no particular order.
                let sorted = |people: &People| {
                    let mut people = people.clone();
                    people.muted.sort_unstable();
                    people
                };
                let people = sorted(people);
                prop_assert_eq!(&people.muted, &muted);
                let again = participants(pool, &[id.get()]).await.unwrap();
                prop_assert_eq!(sorted(&again[&id]), people);
            }
            Step::Expire(number) => {
                let expire = "update participants set muted_until = clock_timestamp()
                              where conversation_id = $1 and user_id = $2 and muted_until > clock_timestamp()";
                postgres::query(expire).bind(id.get()).bind(of(number)).execute(pool).await.unwrap();
            }
            Step::Retain => {
                let later = OffsetDateTime::now_utc() + time::Duration::days(1);
                expire_messages(pool, id, later, 100).await.unwrap();
            }
        }
        for (number, settings) in (1..).zip(&mut settings) {
            settings.take(*step, number);
            let seen = conversations(pool, &[id.get()], user(of(number))).await.unwrap();
            prop_assert_eq!(Settings::of(&seen[0]), *settings, "user {} after {:?}", number, step);
            let counted = unread(pool, user(of(number))).await.unwrap().messages;
            prop_assert_eq!(counted, if settings.archived { 0 } else { seen[0].unread_count });
            let listed = vec![id.get()];
            let (shown, hidden) = if settings.archived { (vec![], listed) } else { (listed, vec![]) };
            prop_assert_eq!(list_of(pool, of(number), false, false).await, &shown[..]);
            prop_assert_eq!(list_of(pool, of(number), true, false).await, hidden);
            let pinned = if settings.pinned { shown } else { Vec::new() };
            prop_assert_eq!(list_of(pool, of(number), false, true).await, pinned);
        }
    }
    Ok(())
}

#[test]
fn settings_are_those_of_one_user_and_a_message_ends_an_archive_unless_it_is_muted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database());
    let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
    runner.run(&steps(), |steps| runtime.block_on(run(&database.pool, &steps))).unwrap();
}

#[tokio::test]
async fn only_participants_have_settings_and_a_time_in_the_past_ends_a_mute() {
    let database = database().await;
    let id = conversation(&database.pool, &[1, 2]).await;
    let until = |until| MineChanges { muted_until: Some(until), ..MineChanges::default() };
    let set = async |of: i64, changes| set_mine(&database.pool, id, user(of), changes).await.unwrap();
    assert_eq!(set(3, until(Some(MutedUntil::Forever))).await, None);
    assert_eq!(mute(&database.pool, id, user(3)).await.unwrap(), None);
    // Only a mute and its end are published, and a repeated row has the state of that time.
    let (_, first) = set(1, until(Some(MutedUntil::Forever))).await.unwrap();
    assert_eq!(mute(&database.pool, id, user(1)).await.unwrap(), Some(Some(MutedUntil::Forever)));
    let (_, second) = set(1, until(None)).await.unwrap();
    assert!(first < second && first.is_some(), "{first:?} {second:?}");
    assert_eq!(set(1, MineChanges { pinned: Some(false), ..MineChanges::default() }).await.unwrap().1, None);
    let mut connection = database.pool.acquire().await.unwrap();
    let stale = lock_stale(&mut connection, 0, -1.0, 10, false).await.unwrap();
    let rows: Vec<_> =
        stale.iter().map(|row| (Some(row.outbox_id), row.reader, row.messages.len())).collect();
    assert_eq!(rows, [(first, Some(1), 0), (second, Some(1), 0)]);
    let at = |seconds| MutedUntil::At(contract::Timestamp::from_unix(seconds).unwrap());
    let later = at(contract::Timestamp::now().unix() + 3_600);
    assert_eq!(set(1, until(Some(later))).await.unwrap().0.muted_until, Some(later));
    assert_eq!(set(1, MineChanges::default()).await.unwrap().0.muted_until, Some(later));
    assert_eq!(set(1, until(Some(at(0)))).await.unwrap().0.muted_until, None);
    set(1, MineChanges { archived: Some(true), pinned: Some(true), ..until(Some(later)) }).await;
    clear_mine(&database.pool, id, user(1)).await.unwrap();
    let conversations = conversations(&database.pool, &[id.get()], user(1)).await.unwrap();
    assert_eq!(Settings::of(&conversations[0]), Settings::default());
}
