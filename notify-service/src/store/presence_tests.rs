//! What is stored about presence, tested on a real Postgres (law P5, and that backends are told each change once).

use super::*;
use contract::{Timestamp, UserId};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service::postgres;
use std::collections::BTreeMap;
use testkit::Reads;

/// What may happen to one of three users. Times are in steps of 5 minutes.
#[derive(Debug, Clone, Copy)]
enum Step {
    Came(i64, i64),
    Seen(i64, i64),
    /// The user hides, or shows it.
    Choose(i64, bool),
    /// The operator's default becomes this.
    Default(bool),
    /// The times of those who have chosen nothing are removed, as with the default to hide.
    Forget,
    /// Backends are to be told that the user is present, or not.
    Tell(i64, bool),
    Erase(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_i64..4, 1_i64..9).prop_map(|(user, at)| Step::Came(user, at)),
        3 => (1_i64..4, 1_i64..9).prop_map(|(user, at)| Step::Seen(user, at)),
        2 => (1_i64..4, any::<bool>()).prop_map(|(user, hides)| Step::Choose(user, hides)),
        1 => any::<bool>().prop_map(Step::Default),
        1 => Just(Step::Forget),
        3 => (1_i64..4, any::<bool>()).prop_map(|(user, online)| Step::Tell(user, online)),
        1 => (1_i64..4).prop_map(Step::Erase),
    ];
    prop::collection::vec(step, 1..30)
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Row {
    seen_at: Option<i64>,
    hidden: Option<bool>,
    told: bool,
}

fn time(step: i64) -> Timestamp {
    Timestamp::from_unix(step * 300).unwrap()
}

async fn run(pool: &sqlx::PgPool, steps: &[Step]) -> Result<(), TestCaseError> {
    postgres::query("delete from inboxes").execute(pool).await.unwrap();
    let (mut model, mut by_default, mut last_number) = (BTreeMap::<i64, Row>::new(), false, 0);
    for step in steps {
        match *step {
            Step::Came(user, at) => {
                came(pool, &[user], time(at), by_default).await.unwrap();
                if !model.get(&user).and_then(|row| row.hidden).unwrap_or(by_default) {
                    let row = model.entry(user).or_default();
                    row.seen_at = row.seen_at.max(Some(at));
                }
            }
            Step::Seen(user, at) => {
                seen(pool, &[user], time(at), by_default).await.unwrap();
                if let Some(row) = model.get_mut(&user).filter(|row| !row.hidden.unwrap_or(by_default)) {
                    row.seen_at = row.seen_at.max(Some(at));
                }
            }
            Step::Choose(user, hides) => {
                set_hidden(pool, UserId::new(user).unwrap(), hides).await.unwrap();
                let row = model.entry(user).or_default();
                row.hidden = Some(hides);
                row.seen_at = row.seen_at.filter(|_| !hides);
            }
            Step::Default(hides) => by_default = hides,
            Step::Forget => {
                let mut place = 0;
                while let Some(last) = forget_undecided(pool, place, 2).await.unwrap() {
                    place = last;
                }
                for row in model.values_mut().filter(|row| row.hidden.is_none()) {
                    row.seen_at = None;
                }
            }
            Step::Tell(user, present) => {
                let mut connection = pool.acquire().await.unwrap();
                let told = tell(&mut connection, &[user], &[present], by_default).await.unwrap();
                let row = model.get_mut(&user);
                let news = row.and_then(|row| {
                    let hides = row.hidden.unwrap_or(by_default);
                    let online = present && !hides;
                    let is_news = std::mem::replace(&mut row.told, online) != online;
                    is_news.then_some((online, row.seen_at.filter(|_| !present && !hides).map(time)))
                });
                prop_assert!(told.iter().all(|told| told.user_id.get() == user && told.number > last_number));
                last_number = told.first().map_or(last_number, |told| told.number);
                let told: Vec<_> = told.iter().map(|told| (told.online, told.last_seen)).collect();
                prop_assert_eq!(told, news.into_iter().collect::<Vec<_>>());
            }
            Step::Erase(user) => {
                let mut connection = pool.acquire().await.unwrap();
                delete_inbox(&mut connection, UserId::new(user).unwrap()).await.unwrap();
                model.remove(&user);
            }
        }
        let stored = presences(pool, &[1, 2, 3]).await.unwrap();
        let expected = model.iter().map(|(user, row)| {
            let row = PresenceRow { seen_at: row.seen_at.map(time), hidden: row.hidden };
            (UserId::new(*user).unwrap(), row)
        });
        prop_assert_eq!(&stored, &expected.collect(), "after {:?}", step);
        let hides = |row: &PresenceRow| row.hidden == Some(true);
        prop_assert!(stored.values().all(|row| !hides(row) || row.seen_at.is_none()), "law P5");
        let told = model.iter().filter(|(_, row)| row.told).map(|(user, _)| *user);
        prop_assert_eq!(told_online(pool, 0, 9).await.unwrap(), told.collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn nothing_is_stored_of_users_who_hide_and_backends_are_told_each_change_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reads = runtime.block_on(Reads::of("notify", &crate::MIGRATIONS, &postgres::PLANS, &[])).unwrap();
    let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
    runner.run(&steps(), |steps| runtime.block_on(run(reads.pool(), &steps))).unwrap();
}
