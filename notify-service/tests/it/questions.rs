//! What gateways ask.

use crate::app::{App, user};
use contract::{
    Code, Lang, NotificationId,
    log::Range,
    notify::{InboxHeads, PageNotifications, RememberLanguages},
};
use service::RequestError;

async fn with_notifications(count: i64) -> App {
    let app = App::spawn().await;
    for n in 1..=count {
        app.event("payment_completed", format!(r#"{{"user_id":1,"data":{{"n":{n}}}}}"#)).await;
    }
    app.is_settled().await;
    app
}

#[tokio::test]
async fn pages_lead_through_the_inbox_in_both_directions() {
    let app = with_notifications(7).await;
    let ids: Vec<i64> = app.inbox(1).await.iter().map(|shown| shown.notification_id.get()).collect();
    let seqs = async |range, limit| {
        let page = app.page(1, range, limit).await;
        assert_eq!((page.head.seq, page.head.id, page.unread_count), (7, ids[6], 7));
        assert!(page.page.items.iter().all(|shown| shown.unread_count == 7));
        (page.page.items.iter().map(|shown| shown.seq).collect::<Vec<_>>(), page.page.next)
    };
    assert_eq!(seqs(Range::Newest, 3).await, (vec![7, 6, 5], Some(ids[4])));
    assert_eq!(seqs(Range::Before(ids[4]), 3).await, (vec![4, 3, 2], Some(ids[1])));
    assert_eq!(seqs(Range::Before(ids[1]), 3).await, (vec![1], None));
    assert_eq!(seqs(Range::After(0), 4).await, (vec![1, 2, 3, 4], Some(ids[3])));
    assert_eq!(seqs(Range::After(ids[3]), 3).await, (vec![5, 6, 7], None));
    assert_eq!(seqs(Range::After(ids[6]), 3).await, (vec![], None));
    assert_eq!(seqs(Range::After(-1), 1_000).await.0.len(), 7);
    assert_eq!(seqs(Range::Newest, 0).await, (vec![], None));
    let nobody = app.page(99, Range::Newest, 10).await;
    assert_eq!((nobody.page.items.len(), nobody.head.seq, nobody.unread_count), (0, 0, 0));
}

#[tokio::test]
async fn a_page_ends_where_it_would_be_too_large() {
    let app = App::spawn().await;
    for n in 0..40 {
        let data = serde_json::json!({"n": n, "fill": "x".repeat(60 * 1024)});
        app.event("payment_completed", serde_json::json!({"user_id": 1, "data": data}).to_string()).await;
    }
    app.is_settled().await;
    let page = app.page(1, Range::Newest, 200).await.page;
    assert!((5..20).contains(&page.items.len()) && page.next.is_some(), "{} items", page.items.len());
    assert_eq!(app.inbox(1).await.len(), 40, "the pages together hold all");
}

#[tokio::test]
async fn what_was_read_is_counted_told_and_listed_once() {
    let app = with_notifications(4).await;
    let mut watch = app.watch(1).await;
    let ids: Vec<NotificationId> = app.inbox(1).await.iter().map(|shown| shown.notification_id).collect();
    let read = app.read(1, ids[1]).await.unwrap().unwrap();
    assert_eq!((read.notification_id, read.unread_count, read.all), (ids[1], 3, false));
    assert_eq!(watch.read().await, read);
    let head = app.ask(&InboxHeads { users: vec![user(1)] }).await.unwrap()[0];
    assert_eq!((head.last_read, app.page(1, Range::Newest, 0).await.last_read), (Some(read), Some(read)));
    assert_eq!(app.read(1, ids[1]).await.unwrap().unwrap(), read, "again is the same, and told nobody");

    let unread = PageNotifications { user_id: user(1), range: Range::Newest, limit: 50, unread: true };
    let listed = async || -> Vec<i64> {
        let page = app.ask(&unread).await.unwrap();
        page.page.items.iter().map(|shown| shown.seq).collect()
    };
    assert_eq!(listed().await, [4, 3, 1]);
    let all = app.read_all(1).await.unwrap();
    assert_eq!((all.notification_id, all.unread_count, all.all), (ids[3], 0, true));
    assert_eq!(watch.read().await, all, "nothing was told in between");
    assert_eq!(app.page(1, Range::Newest, 0).await.last_read, Some(all));
    assert!(listed().await.is_empty());
    assert_eq!(app.read_all(1).await.unwrap().unread_count, 0);
    assert!(app.read_all(99).await.is_none(), "an empty inbox");
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    assert_eq!(watch.shown().await.unread_count, 1, "reading all again told nobody");
    app.check_inboxes().await;
}

#[tokio::test]
async fn nobody_reads_another_users_notification() {
    let app = with_notifications(1).await;
    let id = app.inbox(1).await[0].notification_id;
    app.event("payment_completed", r#"{"user_id":2}"#).await;
    app.is_settled().await;
    for (who, which) in [(2, id), (99, id), (1, NotificationId::new(i64::MAX).unwrap())] {
        match app.read(who, which).await {
            Err(RequestError::Refused(refusal)) => assert_eq!(refusal.code, Code::NotFound),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(app.page(1, Range::Newest, 1).await.unread_count, 1);
}

#[tokio::test]
async fn the_language_last_seen_counts_for_what_comes() {
    let app = App::spawn().await;
    app.seen_with(&[(1, "en"), (2, "de"), (1, "fr"), (3, "en-US")]).await;
    app.event("payment_completed", r#"{"user_ids":[1,2,3,4]}"#).await;
    app.is_settled().await;
    app.seen_with(&[(3, "fr"), (4, "en")]).await;
    app.event("payment_completed", r#"{"user_ids":[3,4]}"#).await;
    app.is_settled().await;
    let mut titles = Vec::new();
    for id in 1..=4 {
        titles.push(app.inbox(id).await.into_iter().map(|shown| shown.title).collect::<Vec<_>>());
    }
    let (fr, en) = ("Paiement confirmé", "Payment confirmed");
    assert_eq!(titles, [vec![fr], vec![fr], vec![en, fr], vec![fr, en]], "a notification's text is fixed");
    // A flood, and what is no language, change nothing.
    let many = RememberLanguages { seen: vec![(user(1), Lang::parse("en").unwrap()); 501] };
    assert!(
        matches!(app.ask(&many).await, Err(RequestError::Refused(refusal)) if refusal.code == Code::InvalidRequest)
    );
    let wrong =
        app.bus.client().request("notify.languages", r#"{"seen":[[1,"<b>en</b>"]]}"#.into()).await.unwrap();
    assert_eq!(wrong.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "400");
    let stored: Option<String> =
        sqlx::query_scalar("select lang from inboxes where user_id = 1").fetch_one(&app.pool).await.unwrap();
    assert_eq!(stored.as_deref(), Some("fr"));
}

#[tokio::test]
async fn the_service_is_there_for_nats_micro() {
    let app = with_notifications(1).await;
    app.page(1, Range::Newest, 1).await;
    assert!(app.bus.client().request("notify.heads", "no JSON".into()).await.is_ok());
    let ask = async |what: &str| -> serde_json::Value {
        let answer = app.bus.client().request(format!("$SRV.{what}.notify-service"), "".into()).await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    };
    assert_eq!(ask("PING").await["name"], "notify-service");
    let subjects = |answer: &serde_json::Value| -> Vec<String> {
        let endpoints = answer["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["subject"].as_str().unwrap().to_owned()).collect()
    };
    let ours = ["notify.heads", "notify.languages", "notify.notifications.page", "notify.notifications.read"];
    let mut named = subjects(&ask("INFO").await);
    named.sort_unstable();
    // Besides, a process asks itself on a subject of its own whether its endpoints move.
    assert!(named.remove(0).starts_with("_INBOX.notify-service."));
    assert_eq!(named, ours);
    let stats = ask("STATS").await;
    let of = |subject: &str| {
        let at = subjects(&stats).iter().position(|known| known == subject).unwrap();
        let endpoint = &stats["endpoints"][at];
        (endpoint["num_requests"].as_u64(), endpoint["num_errors"].as_u64())
    };
    assert_eq!(of("notify.notifications.page"), (Some(1), Some(0)));
    assert_eq!(of("notify.heads"), (Some(1), Some(1)));
}

#[tokio::test]
async fn heads_are_told_of_many_inboxes_at_once() {
    let app = with_notifications(3).await;
    app.page(5, Range::Newest, 0).await;
    let heads = app.ask(&InboxHeads { users: vec![user(1), user(2), user(5)] }).await.unwrap();
    assert_eq!(heads.len(), 1);
    assert_eq!((heads[0].user_id, heads[0].seq, heads[0].unread_count), (user(1), 3, 3));
    let many = InboxHeads { users: (1..=501).map(user).collect() };
    match app.ask(&many).await {
        Err(RequestError::Refused(refusal)) => assert_eq!(refusal.code, Code::InvalidRequest),
        other => panic!("{other:?}"),
    }
}
