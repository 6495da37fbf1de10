//! The cost of queries doesn't grow with the stored data: no query scans a big table.

use super::*;
use crate::{
    catalogue::Catalogue,
    event::Notice,
    inboxes::Inboxes,
    ops::{Moved, Op, OpKind, Received},
};
use contract::{MessageId, notify::MarkNotification};
use service::{Bus, config};
use std::{sync::Arc, time::Duration};
use testkit::{NatsServer, Reads, reads_at_most};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Enough rows for the planner to prefer an index if one helps.
const SEED: &[&str] = &[
    "insert into inboxes (user_id, last_seq, last_id, unread_count, seen_id, unseen_count)
     select u, case when u = 1 then 5000 else 3 end, 1000000, case when u = 1 then 500 else 1 end, 1,
        case when u = 1 then 500 else 1 end
     from generate_series(1, 40000) u",
    // One long inbox, of which a tenth is unread and some is old, and many short ones.
    "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, conversation_id,
        message_id, message_count, created_at, since, read_at)
     select u, nextval('notification_ids'), n, 'payment_completed', 'title', 'message', '{}', 'key-' || n,
        case when u > 1 and n = 3 then u end, case when u > 1 then 1 end, case when u > 1 then 1 end,
        now() - case when n <= 1000 and u = 1 then interval '200 days' else interval '1 day' end,
        case when u > 1 and n = 3 then now() - interval '1 day' + u * interval '1 second' end,
        case when u = 1 and n % 10 > 0 or u > 1 and n < 3 then now() end
     from (select 1 as u, generate_series(1, 5000) as n
           union all select u, n from generate_series(2, 40000) u, generate_series(1, 3) n) x",
    "select setval('notification_ids', 1000000)",
    "insert into markers select u, u, 1 from generate_series(1, 40000) u",
    // Half of the unread conversations have had a reminder, a quarter waits.
    "insert into reminded
     select u, 'push', 'c' || u, 1, now() - interval '1 day' + u * interval '1 second',
        case when u % 4 < 2 then now() end, case when u % 4 < 2 then 'reminder-push-' || u end,
        case when u % 4 = 2 then now() - interval '12 hours' + u * interval '1 second' end, u % 8 = 2
     from generate_series(2, 40000) u where u % 4 < 3",
    "insert into reminder_times select u, 'push', now() - interval '1 day' from generate_series(1, 40000) u",
    "insert into preferences select u, 'message_received', 'push', true from generate_series(1, 40000) u",
    "insert into quiet select u, 0, 60, 'UTC' from generate_series(1, 40000) u",
    "insert into sweeps values ('push', now(), now() - interval '10 days')",
    "vacuum analyze reminded",
    "vacuum analyze reminder_times",
    "vacuum analyze preferences",
    "vacuum analyze quiet",
    "insert into telling (event_id, subject, body)
     select 'event-' || n, case when n % 2 = 0 then 'chat.sent' else 'chat.read' end, '{}' from generate_series(1, 40000) n",
    "vacuum analyze telling",
    "vacuum analyze inboxes",
    "vacuum analyze notifications",
    "vacuum analyze markers",
];

/// The user of the longest inbox, and the ids in its second half.
async fn sample(reads: &Reads) -> sqlx::Result<(UserId, Vec<i64>)> {
    let longest = "select user_id from inboxes order by last_seq desc, user_id limit 1";
    let user: i64 = sqlx::query_scalar(longest).fetch_one(reads.pool()).await?;
    let all = "select notification_id from notifications where user_id = $1 order by notification_id";
    let all: Vec<i64> = sqlx::query_scalar(all).bind(user).fetch_all(reads.pool()).await?;
    Ok((valid(UserId::new(user))?, all[all.len() / 2..].to_vec()))
}

#[tokio::test]
async fn no_query_reads_more_rows_if_more_is_stored() {
    let reads = Reads::of("notify", &crate::MIGRATIONS, &service::postgres::PLANS, SEED).await.unwrap();
    let pool = reads.pool();
    let (one, ids) = sample(&reads).await.unwrap();
    let users: Vec<i64> =
        sqlx::query_scalar("select user_id from inboxes where user_id >= $1 order by 1 limit 2000")
            .bind(one.get())
            .fetch_all(pool)
            .await
            .unwrap();
    let users = &users;

    for unread in [false, true] {
        let bounds = PageQuery { user: one, unread, hides_archived: !unread, limit: 50, bytes: 1 << 20 };
        reads_at_most!(reads, 60, page_before(pool, i64::MAX, bounds));
        reads_at_most!(reads, 60, page_before(pool, ids[0], bounds));
        reads_at_most!(reads, 60, page_after(pool, ids[0], bounds));
    }
    reads_at_most!(reads, 2, inbox(pool, one));
    for size in [1, 500] {
        let rows = i64::try_from(size).unwrap();
        reads_at_most!(reads, rows, heads(pool, &users[..size]));
    }
    let langs = ["fr", "en"].map(|lang| Lang::accepted(lang).unwrap());
    let turn = std::cell::Cell::new(0);
    for size in [1, 100] {
        let seen = || {
            turn.set(turn.get() + 1);
            let lang = langs[turn.get() % 2].clone();
            users[..size].iter().map(|user| (UserId::new(*user).unwrap(), lang.clone())).collect()
        };
        reads_at_most!(reads, 3 * size as i64, save_languages(pool, &seen()));
    }

    let seen_at = |seconds: i64| contract::Timestamp::from_unix(seconds).unwrap();
    for size in [1, 500] {
        let rows = 4 * size as i64;
        reads_at_most!(reads, rows, presences(pool, &users[..size]));
        let turn = || seen_at(300 * i64::from(fastrand::u32(..10_000_000)));
        reads_at_most!(reads, rows, came(pool, &users[..size], turn(), false));
        reads_at_most!(reads, rows, seen(pool, &users[..size], turn(), false));
    }
    for size in [1, 500] {
        let rows = 5 * size as i64;
        let turn = std::cell::Cell::new(false);
        let online = || vec![turn.replace(!turn.get()); size];
        reads_at_most!(reads, rows, async {
            tell(&mut *pool.acquire().await?, &users[..size], &online(), false).await
        });
        reads_at_most!(reads, rows, told_online(pool, 0, size as i64));
        reads_at_most!(reads, rows, forget_undecided(pool, 1_000, size as i64));
    }
    let turn = std::cell::Cell::new(false);
    reads_at_most!(reads, 4, set_hidden(pool, one, turn.replace(!turn.get())));

    // Counts the unread notifications after the marker, only if it moves.
    let id = NotificationId::new(ids[ids.len() - 50]).unwrap();
    reads_at_most!(reads, 60, async { mark_seen(&mut *pool.acquire().await?, one, id).await });

    // Events, messages and markers: all queries of a batch together.
    let nats = NatsServer::start().await.unwrap();
    let nats_config = config::Nats { nats_url: nats.url(), nats_creds: None };
    let bus = Bus::connect("test", &nats_config, &CancellationToken::new()).await.unwrap().unwrap();
    let (_catalogue, texts) = watch::channel(Arc::new(Catalogue::load(None).unwrap()));
    let inboxes = &Inboxes::new(pool.clone().into(), bus, texts);
    let op = |user: i64, kind: OpKind| Op { user: UserId::new(user).unwrap(), kind, cause: None };
    for size in [1, 100, 2_000] {
        // Locks, repeats, unread notifications, markers, reads, inserts and inboxes: a few rows each.
        let rows = 12 * i64::try_from(size).unwrap();
        let notices = |key: u64| -> Vec<Op> {
            users[..size].iter().map(|user| op(*user, OpKind::Notice(Arc::new(notice(key))))).collect()
        };
        reads_at_most!(reads, rows, inboxes.apply(&notices(fastrand::u64(1..))));
        let again = notices(0);
        reads_at_most!(reads, rows, inboxes.apply(&again));
        let message = std::cell::Cell::new(10 * size as i64);
        let messages = || -> Vec<Op> {
            message.set(message.get() + 1);
            users[..size].iter().map(|user| op(*user, received(*user, message.get()))).collect()
        };
        reads_at_most!(reads, rows, inboxes.apply(&messages()));
        let read = || -> Vec<Op> {
            message.set(message.get() + 1);
            let (message, read) = (message.get(), message.get() + 1);
            let ops = users[..size].iter().flat_map(|user| {
                let conversation = ConversationId::new(*user).unwrap();
                let message_id = MessageId::new(read).unwrap();
                let moved = Moved { conversation, message: message_id, seq: Some(read), marker: None };
                [op(*user, received(*user, message)), op(*user, OpKind::Read(moved))]
            });
            ops.collect()
        };
        reads_at_most!(reads, 2 * rows, inboxes.apply(&read()));
    }
    let next = std::cell::Cell::new(0);
    let one_of = |id: Option<i64>| MarkNotification {
        user_id: one,
        notification_id: id.map(|id| NotificationId::new(id).unwrap()),
    };
    let mark = || one_of(Some(ids[next.replace(next.get() + 1)]));
    reads_at_most!(reads, 10, inboxes.mark(&mark()));
    // The first time, reads all unread notifications.
    reads_at_most!(reads, 1_010, inboxes.mark(&one_of(None)));

    let event = |number: i64| telling::Outgoing {
        event_id: format!("event-{number}"),
        subject: "chat.read".to_owned(),
        user_id: None,
        body: String::new(),
    };
    let events: Vec<telling::Outgoing> = (0..50).map(|number| event(1_000_000 + number)).collect();
    let ids: Vec<&str> = events.iter().map(|event| &*event.event_id).collect();
    reads_at_most!(reads, 150, telling::add(pool, &events));
    reads_at_most!(reads, 110, async {
        telling::lock_oldest(&mut *pool.acquire().await?, "chat.read", 50).await
    });
    reads_at_most!(reads, 150, telling::remove(pool, &ids));
    reads_at_most!(reads, 20, telling::waiting(pool, &crate::outbox::SUBJECTS));
    reads_at_most!(reads, 6 * 110, telling::backlogs(pool, &crate::outbox::SUBJECTS, 100));

    // Finds each notification and then removes it.
    reads_at_most!(reads, 120, async {
        let mut tx = pool.begin().await?;
        let old = old_notifications(&mut tx, 180, 50).await?;
        remove_notifications(&mut tx, &old).await?;
        tx.rollback().await
    });
}

/// The queries of reminders.
#[tokio::test]
async fn no_query_of_reminders_reads_more_rows_if_more_is_stored() {
    let reads = Reads::of("notify", &crate::MIGRATIONS, &service::postgres::PLANS, SEED).await.unwrap();
    let pool = reads.pool();
    let now: OffsetDateTime = sqlx::query_scalar("select now()").fetch_one(pool).await.unwrap();
    let types = ["message_received".to_owned(), "payment_completed".to_owned()];
    let scope = Scope { step: "push", types: &types, since: now, delay: Duration::from_secs(20) };
    let hours = time::Duration::hours;
    /// Runs a query in a transaction that is rolled back.
    macro_rules! within {
        (|$tx:ident| $query:expr) => {
            async {
                let mut transaction = pool.begin().await?;
                let $tx = &mut *transaction;
                $query.await?;
                transaction.rollback().await
            }
        };
    }
    // The rows that are found, the decisions about them, and those of the last minute that are decided.
    for limit in [10, 100] {
        let after = now - hours(20);
        reads_at_most!(reads, 4 * limit + 200, within!(|tx| undecided(tx, scope, after, limit)));
        reads_at_most!(reads, limit, within!(|tx| due_again(tx, "push", now, limit)));
        reads_at_most!(reads, limit, within!(|tx| waiting_while_present(tx, "push", 1_000, limit)));
    }
    reads_at_most!(reads, 10, within!(|tx| undecided(tx, scope, now, 1_000)));
    reads_at_most!(reads, 4, within!(|tx| sweep_progress(tx, "push")));
    for (step, now) in [("push", None), ("mail", None), ("push", Some(now - hours(20)))] {
        reads_at_most!(reads, 200, within!(|tx| busy_steps(tx, &[(step, 20.0)], 30.0, now)));
    }
    reads_at_most!(reads, 2, within!(|tx| lock_sweep(tx, "push", now)));
    for size in [1, 100] {
        let users: Vec<i64> = (1_000..1_000 + size).collect();
        let subjects: Vec<String> = users.iter().map(|user| format!("c{user}")).collect();
        reads_at_most!(reads, 4 * size, within!(|tx| super::unread(tx, scope, &users, (now, 50))));
        reads_at_most!(reads, size, within!(|tx| unread_counts(tx, &users)));
        reads_at_most!(reads, size, within!(|tx| last_told(tx, "push", &users)));
        reads_at_most!(reads, size, within!(|tx| last_seen(tx, &users, false)));
        reads_at_most!(reads, size, within!(|tx| settings(tx, &users, Some("push"))));
        reads_at_most!(reads, size, within!(|tx| quiet(tx, &users)));
        reads_at_most!(reads, 4 * size, within!(|tx| end_episodes(tx, &["push"], &users, &subjects)));
        reads_at_most!(reads, 4 * size, within!(|tx| delete_obsolete(tx, scope, &users)));
    }
    // All that one user has not read.
    let due =
        DueTypes { set: vec![("payment_completed", Some(now))], others: vec![("message_received", now)] };
    let many = Many { step: "push", user: 1, types: &due };
    reads_at_most!(reads, 1_100, within!(|tx| newest_of_many(tx, &many, now, 20)));
    reads_at_most!(
        reads,
        1_600,
        within!(|tx| save_many(tx, &many, "reminder-push-1", now, (i64::MAX, 5_000)))
    );
    reads_at_most!(reads, 4, within!(|tx| end_all_episodes(tx, &["push"], 1_000)));
    reads_at_most!(reads, 2, within!(|tx| decide_again(tx, 1_002)));
    let told: Vec<i64> = (1_000..1_100).collect();
    let told_ids: Vec<String> = told.iter().map(|user| format!("reminder-push-{user}")).collect();
    let told_ids: Vec<&str> = told_ids.iter().map(String::as_str).collect();
    reads_at_most!(reads, 100, without_unread(pool, &told, &told_ids));
    reads_at_most!(reads, 50, within!(|tx| count_waiting(tx, "push", 50)));
    reads_at_most!(reads, 150, within!(|tx| delete_old_times(tx, 50)));
    // Of each decision: itself, the step, and the notification.
    for limit in [1, 100] {
        let place = DecisionPlace { user: 20_000, ..DecisionPlace::default() };
        reads_at_most!(reads, 3 * limit, within!(|tx| needless(tx, &["push"], &place, limit)));
        let found =
            needless(&mut pool.acquire().await.unwrap(), &["mail"], &place, limit).await.unwrap().found;
        assert_eq!(found.len() as i64, limit);
        reads_at_most!(reads, 6 * limit, within!(|tx| forget_needless(tx, &["push"], &["mail"], &found)));
    }
    reads_at_most!(reads, 1, within!(|tx| recent_steps(tx)));
}

/// One user has archived nearly everything.
const ARCHIVED: &[&str] = &[
    "insert into inboxes (user_id, last_seq, last_id, unread_count, seen_id, unseen_count)
     select u, 3, 1000000, 0, 1, 0 from generate_series(1, 5000) u",
    "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, created_at, read_at)
     select u, u * 10 + n, n, 'payment_completed', 'title', 'message', '{}', 'key-' || n, now(), now()
     from generate_series(1, 5000) u, generate_series(1, 3) n",
    "vacuum analyze inboxes",
    "vacuum analyze notifications",
    // After the statistics, which do not know it.
    "insert into inboxes (user_id, last_seq, last_id, unread_count) values (6000, 30100, 30100, 50)",
    "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, created_at, read_at,
        archived_at)
     select 6000, n, n, 'payment_completed', 'title', 'message', '{}', 'key-' || n, now(),
        case when n between 51 and 30050 then now() when n > 30050 then null else now() end,
        case when n between 51 and 30050 then now() end
     from generate_series(1, 30100) n",
];

#[tokio::test]
async fn no_page_reads_what_is_archived() {
    let reads = Reads::of("notify", &crate::MIGRATIONS, &service::postgres::PLANS, ARCHIVED).await.unwrap();
    let pool = reads.pool();
    let Ok(user) = UserId::new(6_000) else { panic!("a user") };
    for is_known in [false, true] {
        for (unread, hides_archived) in [(false, true), (false, false), (true, true), (true, false)] {
            let bounds = PageQuery { user, unread, hides_archived, limit: 60, bytes: 1 << 20 };
            reads_at_most!(reads, 61, page_before(pool, i64::MAX, bounds));
            reads_at_most!(reads, 61, page_before(pool, 30_051, bounds));
            reads_at_most!(reads, 61, page_after(pool, 0, bounds));
            reads_at_most!(reads, 61, page_after(pool, 49, bounds));
        }
        let hidden = PageQuery { user, unread: false, hides_archived: true, limit: 60, bytes: 1 << 20 };
        let (page, more) = page_before(pool, i64::MAX, hidden).await.unwrap();
        let ids: Vec<i64> = page.iter().map(|item| item.notification_id.get()).collect();
        assert_eq!((ids, more), ((30_051..=30_100).rev().chain((41..=50).rev()).collect(), true));
        reads_at_most!(reads, 1, inbox(pool, user));
        reads_at_most!(reads, 1, heads(pool, &[6_000]));
        let turn = std::cell::Cell::new(50);
        reads_at_most!(reads, 60, async {
            let id = NotificationId::new(turn.replace(turn.get() + 1)).unwrap();
            mark_seen(&mut *pool.acquire().await?, user, id).await
        });
        reads_at_most!(reads, 110, async {
            let mut tx = pool.begin().await?;
            mark_all(&mut tx, user).await?;
            tx.rollback().await
        });
        if !is_known {
            sqlx::query("vacuum analyze notifications").execute(pool).await.unwrap();
            sqlx::query("update inboxes set seen_id = 0").execute(pool).await.unwrap();
        }
    }
}

fn notice(key: u64) -> Notice {
    let body = format!(r#"{{"user_id":1,"event_id":"{key}"}}"#);
    let delivery = crate::event::Delivery {
        subject: "events.payment_completed",
        headers: None,
        payload: body.as_bytes(),
        place: "",
    };
    crate::event::parse(delivery, &Catalogue::load(None).unwrap()).unwrap().1
}

/// A message of the conversation with the same number as the user.
fn received(user: i64, message: i64) -> OpKind {
    OpKind::Message(Arc::new(Received {
        kind: None,
        silent: false,
        muted: Vec::new(),
        key: format!("msg:{message}"),
        conversation: ConversationId::new(user).unwrap(),
        message: MessageId::new(message).unwrap(),
        seq: Some(message),
        sender: UserId::new(1).unwrap(),
        sender_username: "ada".to_owned(),
    }))
}
