//! The cost of queries doesn't grow with the stored data: no query scans a big table.

use super::*;
use crate::{
    catalogue::Catalogue,
    event::Notice,
    inboxes::Inboxes,
    plan::{Moved, Op, OpKind, Received},
};
use contract::{MessageId, notify::MarkNotification};
use service::{Bus, config};
use std::sync::Arc;
use testkit::{NatsServer, Reads, reads_at_most};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Enough rows for the planner to prefer an index if one helps.
const SEED: &[&str] = &[
    "insert into inboxes (user_id, last_seq, last_id, unread_count)
     select u, case when u = 1 then 5000 else 3 end, 1000000, case when u = 1 then 500 else 1 end
     from generate_series(1, 40000) u",
    // One long inbox, of which a tenth is unread and some is old, and many short ones.
    "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, conversation_id,
        message_id, message_count, created_at, read_at)
     select u, nextval('notification_ids'), n, 'payment_completed', 'title', 'message', '{}', 'key-' || n,
        case when u > 1 and n = 3 then u end, case when u > 1 then 1 end, case when u > 1 then 1 end,
        now() - case when n <= 1000 and u = 1 then interval '200 days' else interval '1 day' end,
        case when u = 1 and n % 10 > 0 or u > 1 and n < 3 then now() end
     from (select 1 as u, generate_series(1, 5000) as n
           union all select u, n from generate_series(2, 40000) u, generate_series(1, 3) n) x",
    "select setval('notification_ids', 1000000)",
    "insert into markers select u, u, 1 from generate_series(1, 40000) u",
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
        let bounds = PageQuery { user: one, unread, limit: 50, bytes: 1 << 20 };
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

    // Finds each notification and then removes it.
    reads_at_most!(reads, 120, async {
        let mut tx = pool.begin().await?;
        let old = old_notifications(&mut tx, 180, 50).await?;
        remove_notifications(&mut tx, &old).await?;
        tx.rollback().await
    });
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
        key: format!("msg:{message}"),
        conversation: ConversationId::new(user).unwrap(),
        message: MessageId::new(message).unwrap(),
        seq: Some(message),
        sender: UserId::new(1).unwrap(),
        sender_username: "ada".to_owned(),
    }))
}
