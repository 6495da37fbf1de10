//! The laws of reminders (R1 to R9), on a real Postgres and with a clock of its own, compared with a model.

use super::*;
use crate::{
    catalogue::Catalogue,
    event::Delivery,
    ops::{Moved, Mute, Op, OpKind, Received},
    preferences,
    steps::Steps,
};
use contract::{
    ConversationId, MessageId, Timestamp,
    chat::{Marker, MutedUntil},
    notify::MarkNotification,
    preferences::{PreferenceChanges, QuietHours, SetPreferences},
    reminders::{Reminder, Settled},
};
use proptest::prelude::*;
use service::{Bus, config, postgres};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
};
use testkit::{NatsServer, TestDatabase};
use tokio::sync::watch;

const STEPS: &str = "push:20s/3m:settle mail:1m/4m:every=10m";
const TYPES: &str = "invoice = x\n    .message = x\n    .remind = mail, push\n    .mandatory = yes\n\
    news = x\n    .message = x\n    .remind = mail, push\n    .default = mail\n\
    silent_news = x\n    .message = x\n\
    deal-new = x\n    .message = x\n    .remind = mail, push\n";
/// Time after the start at which quiet hours begin, and at which they end, in minutes.
const QUIET: (i64, i64) = (3, 12);

/// A time after that of any test, in seconds.
const FOREVER: i64 = 1_000_000;

#[derive(Debug, Clone)]
enum Act {
    /// A message in a conversation; muted or not.
    Message(i64, i64, bool),
    /// An event of one of the types.
    Event(i64, &'static str),
    /// The conversation is read, or all of its messages are deleted.
    Read(i64, i64),
    /// All messages of the conversation but the newest ones are read, with or without the position of the marker.
    ReadPart(i64, i64, usize, bool),
    /// The conversation is muted for so many seconds, or for good, or no longer.
    Mute(i64, i64, Option<i64>),
    ReadAll(i64),
    Present(i64, bool),
    Set(i64, &'static str, &'static str, bool),
    Quiet(i64, bool),
    /// Time passes; then all steps are swept, perhaps after a sweep that is killed.
    Pass(i64, Option<u64>),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let user = 1..=2_i64;
    let act = prop_oneof![
        4 => (user.clone(), 1..=3_i64, prop::bool::weighted(0.1)).prop_map(|(user, at, muted)| Act::Message(user, at, muted)),
        2 => (user.clone(), prop::sample::select(vec!["invoice", "news", "silent_news", "deal.new", "deal-new"]))
            .prop_map(|(user, kind)| Act::Event(user, kind)),
        2 => (user.clone(), 1..=3_i64).prop_map(|(user, at)| Act::Read(user, at)),
        2 => (user.clone(), 1..=3_i64, 1..=2_usize, any::<bool>())
            .prop_map(|(user, at, rest, knows)| Act::ReadPart(user, at, rest, knows)),
        2 => (user.clone(), 1..=3_i64, prop::sample::select(vec![None, Some(100), Some(FOREVER)]))
            .prop_map(|(user, at, seconds)| Act::Mute(user, at, seconds)),
        1 => user.clone().prop_map(Act::ReadAll),
        2 => (user.clone(), any::<bool>()).prop_map(|(user, on)| Act::Present(user, on)),
        1 => (user.clone(), prop::sample::select(vec!["invoice", "news", "message_received", "deal.new", "deal-new", "*"]),
            prop::sample::select(vec!["push", "mail"]), any::<bool>())
            .prop_map(|(user, kind, step, on)| Act::Set(user, kind, step, on)),
        1 => (user, any::<bool>()).prop_map(|(user, on)| Act::Quiet(user, on)),
        8 => (prop::sample::select(vec![5, 10, 20, 40, 60, 120, 300]), prop::option::weighted(0.2, 0..6_000_u64))
            .prop_map(|(seconds, killed)| Act::Pass(seconds, killed)),
    ];
    prop::collection::vec(act, 1..50)
}

/// A user, a step, and the notifications in a reminder.
type Expected = (i64, &'static str, BTreeSet<i64>);

/// What may be sent, without a database.
#[derive(Default)]
struct Model {
    now: i64,
    unread: BTreeMap<(i64, String), Episode>,
    present: BTreeSet<i64>,
    settings: BTreeMap<(i64, &'static str, &'static str), bool>,
    quiet: BTreeSet<i64>,
    last_mail: BTreeMap<i64, i64>,
    /// The ends of mutes.
    mutes: BTreeMap<(i64, String), i64>,
}

struct Episode {
    kind: &'static str,
    since: i64,
    newest: i64,
    /// Whether the newest message says that the conversation is muted.
    muted: bool,
    /// The times of the unread messages, and their number in the conversation.
    messages: Vec<(i64, MessageId, i64)>,
    /// The steps that have reminded of it, with the newest notification at the time.
    done: BTreeMap<&'static str, i64>,
}

impl Model {
    fn add(&mut self, user: i64, subject: String, kind: &'static str, newest: i64, muted: bool) {
        let (since, done, messages) = (self.now, BTreeMap::new(), Vec::new());
        let new = Episode { kind, since, newest, muted, messages, done };
        let episode = self.unread.entry((user, subject)).or_insert(new);
        (episode.newest, episode.muted) = (newest, muted);
    }

    /// All but the newest messages are read. Returns the last one that is read and the number of the rest, and whether
    /// the reminders so far are of what is read.
    fn read_part(
        &mut self,
        user: i64,
        subject: &str,
        rest: usize,
        knows: bool,
    ) -> Option<((MessageId, i64), bool)> {
        let now = self.now;
        let episode = self.unread.get_mut(&(user, subject.to_owned()))?;
        let read = episode.messages.len().checked_sub(rest).filter(|read| *read > 0)?;
        let (_, message, number) = episode.messages[read - 1];
        episode.messages.drain(..read);
        episode.since = if rest == 1 && knows { episode.messages[0].0 } else { now };
        let had = episode.done.contains_key("push");
        episode.done.retain(|_, newest| *newest == episode.newest);
        Some(((message, number), had && !episode.done.contains_key("push")))
    }

    fn wants(&self, user: i64, kind: &'static str, step: &'static str) -> bool {
        let set = |kind| self.settings.get(&(user, kind, step)).copied();
        set(kind).or_else(|| set("*")).unwrap_or(kind != "news" || step == "mail")
    }

    fn sweep(&mut self) -> BTreeSet<Expected> {
        let mut all = BTreeSet::new();
        for (step, away, present, every) in [("push", 20, 180, 0), ("mail", 60, 240, 600)] {
            let mut told: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
            let keys: Vec<_> = self.unread.keys().cloned().collect();
            for (user, subject) in keys {
                let episode = &self.unread[&(user, subject.clone())];
                if episode.done.contains_key(step)
                    || episode.kind == "silent_news"
                    || self.now < episode.since + away
                {
                    continue;
                }
                let mandatory = episode.kind == "invoice";
                let is_quiet = self.quiet.contains(&user) && (QUIET.0 * 60..QUIET.1 * 60).contains(&self.now);
                let delay = if self.present.contains(&user) { present } else { away };
                let last = self.last_mail.get(&user).filter(|_| every > 0);
                let sends = !(is_quiet && !(mandatory && step == "mail"))
                    && self.now >= episode.since + delay
                    && last.is_none_or(|last| self.now >= last + every);
                let is_muted =
                    self.mutes.get(&(user, subject.clone())).map_or(episode.muted, |end| *end > self.now);
                let newest = episode.newest;
                if sends
                    && !is_muted
                    && (mandatory || self.wants(user, episode.kind, step))
                    && let Some(episode) = self.unread.get_mut(&(user, subject))
                {
                    episode.done.insert(step, newest);
                    told.entry(user).or_default().insert(newest);
                }
            }
            for (user, ids) in told {
                if step == "mail" {
                    self.last_mail.insert(user, self.now);
                }
                all.insert((user, step, ids));
            }
        }
        all
    }
}

/// A database with the clock of the test.
struct World {
    inboxes: Inboxes,
    present: Arc<Mutex<BTreeSet<i64>>>,
    is_settled: Arc<AtomicBool>,
    /// The start of the clock, and the real time after which rows are of this test.
    start: OffsetDateTime,
    began: OffsetDateTime,
    next: i64,
    _servers: (NatsServer, TestDatabase, tempfile::TempDir, watch::Sender<Arc<Catalogue>>),
}

impl World {
    async fn new() -> Self {
        let (nats, database) = (NatsServer::start().await.unwrap(), TestDatabase::create().await.unwrap());
        let (nats_url, shutdown) = (nats.url(), CancellationToken::new());
        let bus =
            Bus::connect("test", &config::Nats { nats_url, nats_creds: None }, &shutdown).await.unwrap();
        let settings = config::Database {
            database_url: database.url(),
            database_direct_url: None,
            database_connections: 4,
        };
        let pool = postgres::open("notify", &crate::MIGRATIONS, &postgres::PLANS, &settings, &shutdown).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("fr.ftl"), TYPES).unwrap();
        let texts = watch::Sender::new(Arc::new(Catalogue::load(Some(folder.path())).unwrap()));
        let steps: Steps = STEPS.parse().unwrap();
        let inboxes = Inboxes::new(pool.unwrap().unwrap(), bus.unwrap(), texts.subscribe()).with_steps(steps);
        let began = OffsetDateTime::now_utc() - time::Duration::seconds(1);
        // Whole minutes, because quiet hours are: and long enough ago for all the time that passes.
        let start = began - time::Duration::hours(5);
        let start = start.replace_second(0).unwrap().replace_nanosecond(0).unwrap();
        let (present, is_settled) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self {
            inboxes,
            present,
            is_settled,
            start,
            began,
            next: 0,
            _servers: (nats, database, folder, texts),
        }
    }

    /// Forgets everything.
    async fn clear(&mut self) {
        let query = "truncate inboxes, notifications, markers, sweeps, reminded, reminder_times, telling, preferences, quiet";
        postgres::query(query).execute(self.inboxes.pool()).await.unwrap();
        postgres::query(
            "insert into sweeps select step, $1, $1 from unnest(array['push', 'mail']) as new (step)",
        )
        .bind(self.start - time::Duration::seconds(1))
        .execute(self.inboxes.pool())
        .await
        .unwrap();
        self.present.lock().unwrap().clear();
    }

    fn at(&self, seconds: i64) -> OffsetDateTime {
        self.start + time::Duration::seconds(seconds)
    }

    /// Applies an operation at this time. Returns the newest notification of the user.
    async fn apply(&mut self, user: i64, kind: OpKind, now: i64) -> i64 {
        let user_id = UserId::new(user).unwrap();
        self.inboxes.apply(&[Op { user: user_id, kind, cause: None }]).await.unwrap();
        for query in [
            "update notifications set created_at = case when created_at > $1 then $2 else created_at end,
                since = case when since > $1 then $2 else since end where created_at > $1 or since > $1",
            "update reminded set since = $2, due_at = case when due_at is not null then $2 end where since > $1",
        ] {
            let query = postgres::query(query).bind(self.began).bind(self.at(now));
            query.execute(self.inboxes.pool()).await.unwrap();
        }
        let query = "select coalesce(max(last_id), 0) from inboxes where user_id = $1";
        postgres::query_scalar(query).bind(user).fetch_one(self.inboxes.pool()).await.unwrap()
    }

    fn message(&mut self, conversation: i64) -> OpKind {
        self.numbered_message(conversation, None)
    }

    fn numbered_message(&mut self, conversation: i64, seq: Option<i64>) -> OpKind {
        self.next += 1;
        OpKind::Message(Arc::new(Received {
            kind: None,
            muted: Vec::new(),
            silent: false,
            key: format!("msg:{}", self.next),
            conversation: ConversationId::new(conversation).unwrap(),
            message: MessageId::new(self.next).unwrap(),
            seq,
            sender: UserId::new(9).unwrap(),
            sender_username: "ada".to_owned(),
        }))
    }

    fn event(&mut self, kind: &str) -> OpKind {
        self.next += 1;
        let body = format!(r#"{{"user_id":1,"event_id":"{}"}}"#, self.next);
        let delivery = Delivery {
            subject: &format!("events.{kind}"),
            headers: None,
            payload: body.as_bytes(),
            place: "",
        };
        OpKind::Notice(Arc::new(crate::event::parse(delivery, &self.inboxes.catalogue()).unwrap().1))
    }

    async fn set(&self, user: i64, changes: PreferenceChanges) {
        let request = SetPreferences { user_id: UserId::new(user).unwrap(), changes, replace: false };
        preferences::set(&self.inboxes, &request).await.unwrap();
    }

    /// Takes the events that are to be published: reminders and settlements.
    async fn told(&self) -> (Vec<Reminder>, Vec<Settled>) {
        let query = "delete from telling returning event_id, subject, body";
        let rows: Vec<(String, String, String)> =
            postgres::query_as(query).fetch_all(self.inboxes.pool()).await.unwrap();
        let (reminders, settled): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, subject, _)| subject == "notify.reminder");
        (
            reminders.iter().map(|(.., body)| serde_json::from_str(body).unwrap()).collect(),
            settled.iter().map(|(.., body)| serde_json::from_str(body).unwrap()).collect(),
        )
    }

    fn reminders(&self) -> Reminders<impl Fn(UserId) -> bool + use<>> {
        let (present, is_settled) = (self.present.clone(), self.is_settled.clone());
        let is_present = move |user: UserId| present.lock().unwrap().contains(&user.get());
        Reminders::new(self.inboxes.clone(), is_present, move || {
            is_settled.load(Ordering::Relaxed).then_some(0)
        })
    }

    async fn mute(&self, user: i64, id: i64) {
        let query = "update notifications set data = replace(data, '}', ',\"muted\":true}')
            where user_id = $1 and notification_id = $2";
        postgres::query(query).bind(user).bind(id).execute(self.inboxes.pool()).await.unwrap();
    }
}

/// A sweep decides about so many `rows`; what remains is for the next one.
async fn run(world: &mut World, acts: Vec<Act>, rows: i64) -> Result<(), TestCaseError> {
    world.clear().await;
    let (mut model, reminders) = (Model::default(), world.reminders());
    for progress in &reminders.progress {
        progress.rows.store(rows, Ordering::Relaxed);
    }
    // The notifications of each push that is not settled, and what has been read since then.
    let mut pushes: BTreeMap<String, BTreeSet<(i64, String)>> = BTreeMap::new();
    let (mut ids, mut settled, mut expected_settled) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut numbers: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for act in acts {
        let mut ended = BTreeSet::new();
        let before: BTreeSet<(i64, String)> = model.unread.keys().cloned().collect();
        match act {
            Act::Message(user, conversation, muted) => {
                let number = numbers.entry((user, conversation)).or_insert(0);
                *number += 1;
                let kind = world.numbered_message(conversation, Some(*number));
                let id = world.apply(user, kind, model.now).await;
                if muted {
                    world.mute(user, id).await;
                }
                let (subject, sent) = (format!("c{conversation}"), MessageId::new(world.next).unwrap());
                model.add(user, subject.clone(), "message_received", id, muted);
                let episode = model.unread.get_mut(&(user, subject)).unwrap();
                episode.messages.push((model.now, sent, *number));
            }
            Act::Event(user, kind) => {
                let op = world.event(kind);
                let id = world.apply(user, op, model.now).await;
                model.add(user, format!("n{id}"), kind, id, false);
            }
            Act::Read(user, conversation) => {
                let (conversation, message) =
                    (ConversationId::new(conversation).unwrap(), MessageId::new(world.next.max(1)).unwrap());
                let moved = Moved { conversation, message, seq: None, marker: None };
                world.apply(user, OpKind::Read(moved), model.now).await;
                model.unread.remove(&(user, format!("c{conversation}")));
            }
            Act::ReadPart(user, conversation, rest, knows) => {
                let subject = format!("c{conversation}");
                let Some(((message, number), ends)) = model.read_part(user, &subject, rest, knows) else {
                    continue;
                };
                let (user_id, conversation) =
                    (UserId::new(user).unwrap(), ConversationId::new(conversation).unwrap());
                let marker = knows.then(|| {
                    Box::new(Marker {
                        user_id,
                        conversation_id: conversation,
                        message_id: message,
                        seq: number,
                        read_at: Timestamp::now(),
                        unread_count: Some(i64::try_from(rest).unwrap()),
                        by_sending: false,
                    })
                });
                let moved = Moved { conversation, message, seq: knows.then_some(number), marker };
                world.apply(user, OpKind::Read(moved), model.now).await;
                if ends {
                    ended.insert((user, subject));
                }
            }
            Act::Mute(user, conversation, seconds) => {
                let end = seconds.map(|seconds| model.now + seconds);
                let until = end.map(|end| match seconds {
                    Some(FOREVER) => MutedUntil::Forever,
                    _ => MutedUntil::At(world.at(end).into()),
                });
                world.next += 1;
                let (id, change) = (ConversationId::new(conversation).unwrap(), world.next);
                let later = Mute { conversation: id, until, change };
                world.apply(user, OpKind::Mute(later), model.now).await;
                // An earlier change that comes late.
                let earlier = Mute { conversation: id, until: Some(MutedUntil::Forever), change: change - 1 };
                world.apply(user, OpKind::Mute(earlier), model.now).await;
                model.mutes.insert((user, format!("c{conversation}")), end.unwrap_or(i64::MIN));
            }
            Act::ReadAll(user) => {
                let request = MarkNotification { user_id: UserId::new(user).unwrap(), notification_id: None };
                world.inboxes.mark(&request).await.unwrap();
                model.unread.retain(|(of, _), _| *of != user);
            }
            Act::Present(user, true) => {
                model.present.insert(user);
            }
            Act::Present(user, false) => {
                model.present.remove(&user);
            }
            Act::Set(user, kind, step, on) => {
                let channels = Some(BTreeMap::from([(step.to_owned(), Some(on))]));
                let types = BTreeMap::from([(kind.to_owned(), channels)]);
                world.set(user, PreferenceChanges { types, quiet: None }).await;
                model.settings.insert((user, kind, step), on);
            }
            Act::Quiet(user, on) => {
                let time = |minutes| {
                    let at = world.at(minutes * 60);
                    format!("{:02}:{:02}", at.hour(), at.minute())
                };
                let hours = QuietHours { from: time(QUIET.0), to: time(QUIET.1), tz: "UTC".to_owned() };
                world
                    .set(user, PreferenceChanges { quiet: Some(on.then_some(hours)), ..Default::default() })
                    .await;
                if on {
                    model.quiet.insert(user)
                } else {
                    model.quiet.remove(&user)
                };
            }
            Act::Pass(seconds, killed) => {
                model.now += seconds;
                let now = world.at(model.now);
                (*world.present.lock().unwrap()).clone_from(&model.present);
                if let Some(micros) = killed {
                    let _ =
                        tokio::time::timeout(Duration::from_micros(micros), reminders.sweep(0, Some(now)))
                            .await;
                    let released = "select step from sweeps for update";
                    postgres::query(released).execute(world.inboxes.pool()).await.unwrap();
                }
                for index in [0, 1] {
                    drain(&reminders, index, now).await;
                    // A repeated sweep finds nothing new.
                    let again = reminders.sweep(index, Some(now)).await.unwrap();
                    prop_assert_eq!(again.issued, 0);
                }
                let (told, moved) = world.told().await;
                settled.extend(moved.into_iter().flat_map(|one| one.reminders));
                let expected = model.sweep();
                let mut seen = BTreeSet::new();
                for event in &told {
                    prop_assert!(ids.insert(event.event_id.clone()), "{} comes twice", event.event_id);
                    let step = if event.step == "push" { "push" } else { "mail" };
                    let items: BTreeSet<i64> =
                        event.items.iter().map(|item| item.notification_id.get()).collect();
                    prop_assert_eq!((items.len(), event.more), (event.items.len(), 0));
                    let unread = model.unread.keys().filter(|(user, _)| *user == event.user_id.get()).count();
                    prop_assert_eq!(event.unread.notifications, unread as i64);
                    let subjects = model.unread.iter().filter(|((user, _), episode)| {
                        *user == event.user_id.get() && items.contains(&episode.newest)
                    });
                    if step == "push" {
                        pushes.insert(event.event_id.clone(), subjects.map(|(key, _)| key.clone()).collect());
                    }
                    seen.insert((event.user_id.get(), step, items));
                }
                prop_assert_eq!(&seen, &expected, "at {} s", model.now);
                prop_assert_eq!(told.len(), expected.len());
                prop_assert_eq!(&settled, &expected_settled);
            }
        }
        let is_read = |key: &(i64, String)| ended.contains(key) || !model.unread.contains_key(key);
        let read: BTreeSet<_> = before.into_iter().filter(is_read).collect();
        pushes.retain(|id, subjects| {
            subjects.retain(|key| !read.contains(key));
            if subjects.is_empty() {
                expected_settled.insert(id.clone());
            }
            !subjects.is_empty()
        });
    }
    Ok(())
}

#[test]
fn events_are_those_of_the_model() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let (world, mut runner) = (
        Mutex::new(world),
        proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 40,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..ProptestConfig::default()
        }),
    );
    let sizes = prop::sample::select(vec![1, 2, ROWS]);
    let outcome = runner
        .run(&(acts(), sizes), |(acts, rows)| runtime.block_on(run(&mut world.lock().unwrap(), acts, rows)));
    drop(runtime.enter());
    outcome.unwrap();
}

/// Sweeps a step until everything is decided, as [`Reminders::sweep_step`] does.
async fn drain(reminders: &Reminders<impl Fn(UserId) -> bool>, index: usize, now: OffsetDateTime) {
    for _ in 0..300 {
        let swept = reminders.sweep(index, Some(now)).await;
        let is_slow = swept.as_ref().err().is_some_and(StoreError::is_slow);
        if is_slow {
            reminders.progress[index].shrink();
        }
        match swept {
            Ok(swept) if !swept.is_full => return,
            Ok(_) => {}
            Err(error) => {
                assert!(is_slow, "{error:?}");
                // Its transaction may still be ending; a sweep of a step that another one sweeps does nothing.
                let released = "select step from sweeps for update";
                postgres::query(released).execute(reminders.inboxes.pool()).await.unwrap();
            }
        }
    }
    panic!("the sweeps do not end");
}

/// A step that is new, or back after days, does not remind of what was unread before; another one continues.
#[tokio::test]
async fn a_step_begins_when_it_is_configured() {
    let mut world = World::new().await;
    world.clear().await;
    let reminders = world.reminders();
    postgres::query("delete from sweeps where step = 'push'").execute(world.inboxes.pool()).await.unwrap();
    let kind = world.message(1);
    world.apply(1, kind, 0).await;
    reminders.prepare().await.unwrap();
    let later = |seconds| OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    drain(&reminders, 0, later(30)).await;
    assert!(world.told().await.0.is_empty(), "unread before the step began");
    let conversations =
        |told: Vec<Reminder>| -> Vec<usize> { told.iter().map(|event| event.items.len()).collect() };
    for (age, expected) in [(1, vec![1]), (3, vec![])] {
        let received = world.message(world.next + 10);
        world
            .inboxes
            .apply(&[Op { user: UserId::new(1).unwrap(), kind: received, cause: None }])
            .await
            .unwrap();
        let query = "update sweeps set upto = now() - make_interval(days => $1)";
        postgres::query(query).bind(age).execute(world.inboxes.pool()).await.unwrap();
        reminders.prepare().await.unwrap();
        drain(&reminders, 0, later(60)).await;
        assert_eq!(conversations(world.told().await.0), expected, "swept {age} days ago");
    }
}

/// What a step has postponed before it began anew keeps no other waiting.
#[tokio::test]
async fn what_was_postponed_before_a_step_began_delays_no_other() {
    let mut world = World::new().await;
    world.clear().await;
    let reminders = world.reminders();
    // One at a time.
    reminders.progress[0].rows.store(1, Ordering::Relaxed);
    let postponed = "insert into reminded (user_id, step, subject, upto, since, due_at)
        select user_id, 'push', 'c' || conversation_id, notification_id, since, since from notifications
        on conflict do nothing";
    users_with_one_message(&world, 1..=3, 0).await;
    postgres::query(postponed).execute(world.inboxes.pool()).await.unwrap();
    let query = "update sweeps set upto = $1, began = $1";
    postgres::query(query).bind(world.at(10)).execute(world.inboxes.pool()).await.unwrap();
    users_with_one_message(&world, 4..=4, 20).await;
    postgres::query(postponed).execute(world.inboxes.pool()).await.unwrap();
    drain(&reminders, 0, world.at(60)).await;
    let users: Vec<i64> = world.told().await.0.iter().map(|event| event.user_id.get()).collect();
    assert_eq!(users, [4]);
}

/// Law R5: a replica that was suspended does not know who is present.
#[tokio::test]
async fn a_replica_that_is_not_settled_stores_nothing() {
    let mut world = World::new().await;
    world.clear().await;
    users_with_one_message(&world, 1..=1, 0).await;
    let reminders = world.reminders();
    for (is_settled, expected) in [(false, 0), (true, 1)] {
        world.is_settled.store(is_settled, Ordering::Relaxed);
        drain(&reminders, 0, world.at(30)).await;
        assert_eq!(world.told().await.0.len(), expected);
    }
}

/// More than a sweep can decide about at once (R9).
#[tokio::test]
async fn fifty_users_with_ten_thousand_unread_conversations_get_one_event_each() {
    let mut world = World::new().await;
    world.clear().await;
    for query in ["insert into inboxes (user_id, last_seq, last_id, unread_count)
        select u, 10000, 1000000, 10000 from generate_series(1, 50) u"]
    {
        postgres::query(query).execute(world.inboxes.pool()).await.unwrap();
    }
    for part in 0..100 {
        let query =
            "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, conversation_id,
                message_id, message_count, created_at, since)
            select u, n * 50 + u, n, 'message_received', 'title', 'message', '{}', 'key-' || n, n, 1, 1, now(), now()
            from generate_series(1, 50) u, generate_series($1 * 100 + 1, $1 * 100 + 100) n";
        postgres::query(query).bind(part).execute(world.inboxes.pool()).await.unwrap();
    }
    postgres::query("analyze notifications").execute(world.inboxes.pool()).await.unwrap();
    let reminders = world.reminders();
    let now = OffsetDateTime::now_utc() + time::Duration::seconds(30);
    world.present.lock().unwrap().insert(7);
    drain(&reminders, 0, now).await;
    let mut told = world.told().await.0;
    let users: Vec<i64> = told.iter().map(|event| event.user_id.get()).collect();
    assert_eq!(
        (users.len(), BTreeSet::from_iter(users).len()),
        (49, 49),
        "one event for each user who is away"
    );
    world.present.lock().unwrap().clear();
    drain(&reminders, 0, now).await;
    told.extend(world.told().await.0);
    assert_eq!(told.len(), 50, "and for the one who has left");
    for event in &told {
        let user = event.user_id.get();
        let ids: Vec<i64> = event.items.iter().map(|item| item.notification_id.get()).collect();
        let newest: Vec<i64> = (0..20).map(|place| (10_000 - place) * 50 + user).collect();
        assert_eq!((ids, event.more, event.unread.notifications), (newest, 9_980, 10_000), "user {user}");
    }
}

#[tokio::test]
async fn ten_thousand_unread_conversations_are_one_event() {
    let mut world = World::new().await;
    // Also after sweeps that were slow.
    for rows in [1, ROWS] {
        ten_thousand_are_one_event(&mut world, rows).await;
    }
}

async fn ten_thousand_are_one_event(world: &mut World, rows: i64) {
    world.clear().await;
    let ops: Vec<Op> = (1..=10_000)
        .map(|conversation| Op {
            user: UserId::new(1).unwrap(),
            kind: world.message(conversation),
            cause: None,
        })
        .collect();
    world.inboxes.apply(&ops).await.unwrap();
    let reminders = world.reminders();
    reminders.progress[0].rows.store(rows, Ordering::Relaxed);
    let now = OffsetDateTime::now_utc() + time::Duration::seconds(30);
    drain(&reminders, 0, now).await;
    let (told, _) = world.told().await;
    assert_eq!(told.len(), 1);
    let event = &told[0];
    assert_eq!((event.items.len(), event.more, event.unread.notifications), (20, 9_980, 10_000));
    let ids: Vec<i64> = event.items.iter().map(|item| item.notification_id.get()).collect();
    assert!(ids.is_sorted_by(|one, other| one > other), "newest first: {ids:?}");
    assert_eq!(event.event_id, format!("reminder-push-1-{}", ids[0]));

    // Reading it all settles it, once.
    let request = MarkNotification { user_id: UserId::new(1).unwrap(), notification_id: None };
    world.inboxes.mark(&request).await.unwrap();
    let (_, settled) = world.told().await;
    assert_eq!(settled.len(), 1);
    assert_eq!((&settled[0].reminders, settled[0].conversation_id), (&vec![event.event_id.clone()], None));
    let left: i64 = postgres::query_scalar("select count(*) from reminded")
        .fetch_one(world.inboxes.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

/// Types that share a text of the catalogue are two types of notifications (law F5 of preferences).
#[tokio::test]
async fn types_with_the_same_text_have_preferences_of_their_own() {
    let mut world = World::new().await;
    for rows in [1, ROWS] {
        world.clear().await;
        let off = |kind: &str| (kind.to_owned(), Some(BTreeMap::from([("push".to_owned(), Some(false))])));
        let types = BTreeMap::from([off("deal.new"), off("*")]);
        let on = Some(BTreeMap::from([("push".to_owned(), Some(true))]));
        let types = types.into_iter().chain([("deal-new".to_owned(), on)]).collect();
        world.set(1, PreferenceChanges { types, quiet: None }).await;
        let mut wanted = BTreeSet::new();
        for kind in ["deal.new", "deal-new", "deal.new", "news", "deal-new", "deal.new"] {
            let op = world.event(kind);
            let id = world.apply(1, op, 0).await;
            wanted.extend((kind == "deal-new").then_some(id));
        }
        let reminders = world.reminders();
        reminders.progress[0].rows.store(rows, Ordering::Relaxed);
        drain(&reminders, 0, world.at(30)).await;
        let (told, _) = world.told().await;
        let items = |event: &Reminder| event.items.iter().map(|item| item.notification_id.get()).collect();
        let shown: Vec<BTreeSet<i64>> = told.iter().map(items).collect();
        assert_eq!((shown, told[0].more), (vec![wanted], 0), "of {rows} rows");
    }
    let stored = preferences::get(&world.inboxes, UserId::new(1).unwrap()).await.unwrap().types;
    let named: Vec<(&str, bool)> =
        stored.iter().map(|(kind, channels)| (kind.as_str(), channels["push"])).collect();
    assert_eq!(named, [("*", false), ("deal-new", true), ("deal.new", false)], "what was stored");
}

/// Inserts users with one unread notification each: the ids and the time, in seconds.
async fn users_with_one_message(world: &World, users: std::ops::RangeInclusive<i64>, since: i64) {
    let since = world.at(since);
    for query in [
        "insert into inboxes (user_id, last_seq, last_id, unread_count)
        select u, 1, u, 1 from generate_series($1, $2) u where $3::timestamptz is not null",
        "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, conversation_id,
            message_id, message_count, created_at, since)
        select u, u, 1, 'message_received', 'title', 'message', '{}', 'key', 1, 1, 1, $3, $3
        from generate_series($1, $2) u",
    ] {
        let query = postgres::query(query).bind(users.start()).bind(users.end()).bind(since);
        query.execute(world.inboxes.pool()).await.unwrap();
    }
}

/// Users who stay are no reason to keep one waiting who leaves (R5): they are checked in parts.
#[tokio::test]
async fn one_of_many_who_are_waited_for_is_reminded_after_leaving() {
    const WAITING: i64 = CHECKED + 2_000;
    let mut world = World::new().await;
    world.clear().await;
    users_with_one_message(&world, 1..=WAITING, 0).await;
    world.present.lock().unwrap().extend(1..=WAITING);
    let reminders = world.reminders();
    drain(&reminders, 0, world.at(30)).await;
    let waiting = store::count_waiting(world.inboxes.pool(), "push", COUNTED).await.unwrap();
    assert_eq!((waiting, world.told().await.0.len()), (WAITING, 0));
    for user in [WAITING, 1, CHECKED, CHECKED + 1] {
        world.present.lock().unwrap().remove(&user);
        drain(&reminders, 0, world.at(60)).await;
        let (told, _) = world.told().await;
        let users: Vec<i64> = told.iter().map(|event| event.user_id.get()).collect();
        assert_eq!(users, [user]);
    }
    // Whoever stays is reminded after the longer delay.
    drain(&reminders, 0, world.at(180)).await;
    assert_eq!(world.told().await.0.len() as i64, WAITING - 4);
}

/// Conversations that were just read in part, which no step has to decide about yet, keep nobody waiting.
#[tokio::test]
async fn many_that_are_not_due_yet_delay_no_other() {
    const YOUNG: i64 = FOUND + 500;
    let mut world = World::new().await;
    world.clear().await;
    users_with_one_message(&world, 1..=YOUNG, 100).await;
    users_with_one_message(&world, YOUNG + 1..=YOUNG + 1, 0).await;
    let query = "insert into reminded (user_id, step, subject, upto, since, due_at)
        select user_id, 'push', 'c1', 1, since, case when user_id <= $1 then since else $2 end from notifications";
    let waits = postgres::query(query).bind(YOUNG).bind(world.at(101));
    waits.execute(world.inboxes.pool()).await.unwrap();
    let reminders = world.reminders();
    drain(&reminders, 0, world.at(110)).await;
    let users = |told: Vec<Reminder>| told.iter().map(|event| event.user_id.get()).collect::<Vec<_>>();
    assert_eq!(users(world.told().await.0), [YOUNG + 1], "the only one that is due");
    drain(&reminders, 0, world.at(120)).await;
    assert_eq!(users(world.told().await.0).len() as i64, YOUNG, "the others, once they are due");
}

/// All that settles together is told in events of a limited size.
#[tokio::test]
async fn many_reminders_are_settled_in_several_events() {
    let mut world = World::new().await;
    world.clear().await;
    let (reminders, mut sent) = (world.reminders(), BTreeSet::new());
    for minute in 0..250 {
        let op = world.event("invoice");
        world.apply(1, op, 60 * minute).await;
        drain(&reminders, 0, world.at(60 * minute + 20)).await;
        sent.extend(world.told().await.0.into_iter().map(|event| event.event_id));
    }
    assert_eq!(sent.len(), 250);
    let request = MarkNotification { user_id: UserId::new(1).unwrap(), notification_id: None };
    world.inboxes.mark(&request).await.unwrap();
    let (_, settled) = world.told().await;
    let mut sizes: Vec<usize> = settled.iter().map(|event| event.reminders.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let ids: BTreeSet<&str> = settled.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(ids.len(), 3, "each event has an id of its own");
    let named: Vec<String> = settled.into_iter().flat_map(|event| event.reminders).collect();
    assert_eq!(named.len(), 250, "none is named twice");
    assert_eq!(BTreeSet::from_iter(named), sent);
}

/// Number of decisions of a step about a subject of user 1.
async fn decisions(world: &World, step: &str, subject: &str) -> i64 {
    let query = "select count(*) from reminded where user_id = 1 and step = $1 and subject = $2";
    let query = postgres::query_scalar(query).bind(step).bind(subject);
    query.fetch_one(world.inboxes.pool()).await.unwrap()
}

/// Nothing is left of decisions about what was read while there were no reminders, or of steps that are gone.
#[tokio::test]
async fn decisions_that_nothing_needs_are_forgotten() {
    let mut world = World::new().await;
    world.clear().await;
    let off = world.inboxes.clone().with_steps(Steps::default());
    let reminders = world.reminders();
    for conversation in 1..=3 {
        let op = world.message(conversation);
        world.apply(1, op, 0).await;
    }
    let op = world.event("invoice");
    let invoice = format!("n{}", world.apply(1, op, 0).await);
    drain(&reminders, 0, world.at(20)).await;
    drain(&reminders, 1, world.at(60)).await;
    let told = world.told().await.0;
    let push: Vec<&str> =
        told.iter().filter(|event| event.step == "push").map(|event| event.event_id.as_str()).collect();
    let read = async |conversation| {
        let conversation = ConversationId::new(conversation).unwrap();
        let moved = Moved { conversation, message: MessageId::new(99).unwrap(), seq: None, marker: None };
        let op = Op { user: UserId::new(1).unwrap(), kind: OpKind::Read(moved), cause: None };
        off.apply(&[op]).await.unwrap();
    };
    // In parts of one decision.
    let forget = async |inboxes: &Inboxes| {
        let mut after = Some(store::DecisionPlace::default());
        while let Some(place) = after {
            after = inboxes.forget_needless(&place, 1).await.unwrap().next;
        }
    };
    let left = async |subject: &str| {
        [decisions(&world, "push", subject).await, decisions(&world, "mail", subject).await]
    };
    read(1).await;
    assert_eq!(left("c1").await, [1, 1], "nobody deletes them");
    forget(&world.inboxes).await;
    assert_eq!(left("c1").await, [0, 0]);
    for unread in ["c2", "c3", &invoice] {
        assert_eq!(left(unread).await, [1, 1], "{unread} is unread");
    }
    assert!(world.told().await.1.is_empty());
    // A notification from a time without reminders is not what they reminded of.
    let query = "update notifications set since = null where conversation_id = 2";
    postgres::query(query).execute(world.inboxes.pool()).await.unwrap();
    forget(&off).await;
    assert_eq!((left("c2").await, left("c3").await), ([0, 0], [1, 1]));

    let invoice_id = invoice.trim_start_matches('n').parse().unwrap();
    let request = MarkNotification {
        user_id: UserId::new(1).unwrap(),
        notification_id: Some(contract::NotificationId::new(invoice_id).unwrap()),
    };
    world.inboxes.mark(&request).await.unwrap();
    assert!(world.told().await.1.is_empty(), "the reminder is of something unread");
    read(3).await;
    forget(&world.inboxes).await;
    assert_eq!(left("c3").await, [0, 0]);
    let settled = world.told().await.1;
    assert_eq!(settled.len(), 1);
    assert_eq!(settled[0].reminders, push);
}

#[tokio::test]
async fn decisions_of_a_step_that_is_gone_are_forgotten() {
    let mut world = World::new().await;
    world.clear().await;
    let op = world.message(1);
    world.apply(1, op, 0).await;
    drain(&world.reminders(), 0, world.at(20)).await;
    drain(&world.reminders(), 1, world.at(60)).await;
    let only_mail = world.inboxes.clone().with_steps("mail:1m/4m".parse().unwrap());
    let place = store::DecisionPlace::default();
    for (days, left) in [(8, 1), (10, 0)] {
        let query = "update sweeps set upto = now() - make_interval(days => $1)";
        postgres::query(query).bind(days).execute(world.inboxes.pool()).await.unwrap();
        only_mail.forget_needless(&place, 100).await.unwrap();
        assert_eq!(decisions(&world, "push", "c1").await, left, "swept {days} days ago");
        assert_eq!(decisions(&world, "mail", "c1").await, 1, "a step that is configured");
    }
}

/// What is read while a sweep waits for the inbox is not in its reminder (R2).
#[tokio::test]
async fn a_sweep_sees_what_was_read_while_it_waited() {
    let mut world = World::new().await;
    world.clear().await;
    let op = world.message(1);
    world.apply(1, op, 0).await;
    let pool = world.inboxes.pool();
    let mut reading = pool.begin().await.unwrap();
    store::lock_inboxes(&mut reading, &[1]).await.unwrap();
    let read = async {
        let is_waiting = "select exists (select from pg_locks where not granted)";
        while !postgres::query_scalar::<bool>(is_waiting).fetch_one(pool).await.unwrap() {}
        store::mark_all(&mut reading, UserId::new(1).unwrap()).await.unwrap();
        reading.commit().await.unwrap();
    };
    let reminders = world.reminders();
    let (swept, ()) = tokio::join!(reminders.sweep(0, Some(world.at(30))), read);
    assert_eq!((swept.unwrap().issued, world.told().await.0.len()), (0, 0));
}

#[tokio::test]
async fn sweeps_that_find_nothing_seldom_write() {
    let mut world = World::new().await;
    world.clear().await;
    let reminders = world.reminders();
    let progress = async |now| {
        let swept = reminders.sweep(0, Some(world.at(now))).await.unwrap();
        assert_eq!((swept.issued, swept.is_full), (0, false));
        let query = "select upto from sweeps where step = 'push'";
        postgres::query_scalar::<OffsetDateTime>(query).fetch_one(world.inboxes.pool()).await.unwrap()
    };
    let before = world.at(-1);
    assert_eq!(progress(29).await, before, "10 s behind");
    assert_eq!(progress(30).await, world.at(10), "11 s");
    assert_eq!(progress(32).await, world.at(10));
}

#[tokio::test]
async fn steps_without_anything_to_do_are_not_swept() {
    let mut world = World::new().await;
    world.clear().await;
    let reminders = world.reminders();
    let lag = Duration::from_secs(30);
    let busy = async |world: &World, now| reminders.busy(lag, Some(world.at(now))).await.unwrap();
    let none = [""; 0];
    // The steps have delays of 20 s and 1 min.
    assert_eq!(busy(&world, 49).await, none);
    assert_eq!(busy(&world, 50).await, ["push"], "31 s behind");
    drain(&reminders, 0, world.at(50)).await;
    assert_eq!(busy(&world, 50).await, none);
    let op = world.message(1);
    world.apply(1, op, 40).await;
    assert_eq!(busy(&world, 59).await, none);
    assert_eq!(busy(&world, 60).await, ["push"], "an unread message");
    world.present.lock().unwrap().insert(1);
    drain(&reminders, 0, world.at(60)).await;
    assert_eq!(busy(&world, 61).await, ["push"], "it waits while the user is present");
    world.present.lock().unwrap().clear();
    drain(&reminders, 0, world.at(61)).await;
    assert_eq!((world.told().await.0.len(), busy(&world, 61).await), (1, vec![]));
}

/// Preferences are those at the time of the decision (law F1 of preferences): off while it waits, and on after it was
/// dropped.
#[tokio::test]
async fn a_reminder_follows_preferences_that_change() {
    let mut world = World::new().await;
    world.clear().await;
    let op = world.message(1);
    world.apply(1, op, 0).await;
    world.present.lock().unwrap().insert(1);
    let reminders = world.reminders();
    let push = |on: Option<bool>| PreferenceChanges {
        types: BTreeMap::from([(
            "message_received".to_owned(),
            Some(BTreeMap::from([("push".to_owned(), on)])),
        )]),
        quiet: None,
    };
    let told = async |second| {
        drain(&reminders, 0, world.at(second)).await;
        world.told().await.0.len()
    };
    assert_eq!(told(30).await, 0, "it waits while the user is present");
    world.set(1, push(Some(false))).await;
    assert_eq!(told(200).await, 0, "the user opted out meanwhile");
    world.set(1, push(None)).await;
    assert_eq!(told(210).await, 1, "and in again");
    world.set(1, push(Some(true))).await;
    assert_eq!(told(220).await, 0, "but not for another one");
}
