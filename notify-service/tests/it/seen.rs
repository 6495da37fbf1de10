//! What users have seen and archived.

use crate::app::{App, user};
use contract::{
    Code, NotificationId,
    log::Range,
    notify::{ArchiveNotification, InboxHeads, MarkSeen},
};
use serde_json::Value;
use service::RequestError;

fn id(id: i64) -> NotificationId {
    NotificationId::new(id).unwrap()
}

/// The unread and unseen notifications of user 1, counted.
async fn counted(app: &App) -> (i64, i64) {
    sqlx::query_as(
        "select count(*), count(*) filter (where notification_id > seen_id)
        from notifications join inboxes using (user_id) where user_id = 1 and read_at is null",
    )
    .fetch_one(&app.pool)
    .await
    .unwrap()
}

/// Law F4: both counts are absolute, and pushed together with whatever changed them.
#[tokio::test]
async fn published_counts_are_exact_whatever_is_read_seen_superseded_or_archived() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let app = App::spawn().await;
    let mut watch = app.watch(1).await;
    let (mut message, mut has_seen) = (0, false);
    for step in 0..60 {
        let page = app.page(1, Range::Newest, 200).await;
        let ids: Vec<i64> = page.page.items.iter().map(|item| item.notification_id.get()).collect();
        let any = (!ids.is_empty()).then(|| ids[random.usize(..ids.len())]);
        let (before, seen_before) =
            (counted(&app).await, page.seen.map_or(0, |seen| seen.notification_id.get()));
        let is_unread = async |id: i64| -> bool {
            let query =
                "select read_at is null from notifications where user_id = 1 and notification_id = $1";
            sqlx::query_scalar(query).bind(id).fetch_one(&app.pool).await.unwrap()
        };
        // Whether the operation publishes something.
        let published = match (random.u32(..10), any) {
            (0..=2, _) | (_, None) => {
                app.event("payment_completed", format!(r#"{{"user_id":1,"data":{{"n":{step}}}}}"#)).await;
                true
            }
            (3..=4, _) => {
                // May supersede a notification, after a second.
                message += 1;
                app.message(5, message, 2, &[1]).await;
                true
            }
            (5, Some(any)) => {
                let unread = is_unread(any).await;
                app.read(1, id(any)).await.unwrap();
                unread
            }
            (6, Some(any)) => {
                let unread = is_unread(any).await;
                let request = ArchiveNotification { user_id: user(1), notification_id: id(any) };
                app.request(&request).await.unwrap();
                unread
            }
            (7, Some(_)) => {
                app.read_all(1).await;
                before.0 > 0
            }
            (_, Some(any)) => {
                let request = MarkSeen { user_id: user(1), notification_id: id(any) };
                let seen = app.request(&request).await.unwrap();
                has_seen = true;
                assert_eq!(seen.notification_id.get(), seen_before.max(any), "forward only");
                any > seen_before
            }
        };
        let (unread, unseen) = if published {
            let event: Value = serde_json::from_str(&watch.json().await).unwrap();
            let event = event.get("seen").unwrap_or(&event).clone();
            let (unread, unseen) = counted(&app).await;
            if event["type"] != "seen" {
                assert_eq!(event["unread_count"], unread, "{event}");
            }
            assert_eq!(event["unseen_count"].as_i64(), has_seen.then_some(unseen), "{event}");
            (unread, unseen)
        } else {
            counted(&app).await
        };
        assert!(unseen <= unread);
        let page = app.page(1, Range::Newest, 0).await;
        assert_eq!(page.unread_count, unread);
        assert_eq!(page.seen.map(|seen| seen.unseen_count), has_seen.then_some(unseen));
    }
    let head = app.request(&InboxHeads { users: vec![user(1)] }).await.unwrap()[0];
    assert_eq!(head.seen, app.page(1, Range::Newest, 0).await.seen);
    app.check_inboxes().await;
}

#[tokio::test]
async fn users_cannot_mark_or_archive_what_is_not_theirs() {
    let app = App::spawn().await;
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    app.event("payment_completed", r#"{"user_id":2}"#).await;
    app.is_settled().await;
    let theirs = app.inbox(2).await[0].notification_id;
    let refused = |refused| match refused {
        RequestError::Refused(refusal) => assert_eq!(refusal.code, Code::NotFound),
        other => panic!("{other:?}"),
    };
    for owner in [1, 99] {
        let seen = MarkSeen { user_id: user(owner), notification_id: theirs };
        refused(app.request(&seen).await.unwrap_err());
        let archive = ArchiveNotification { user_id: user(owner), notification_id: theirs };
        refused(app.request(&archive).await.unwrap_err());
    }
    let page = app.page(1, Range::Newest, 10).await;
    assert_eq!((page.unread_count, page.seen), (1, None));
}
