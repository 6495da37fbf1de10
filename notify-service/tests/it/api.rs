//! Requests of gateways.

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
async fn pages_cover_the_inbox_in_both_directions() {
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
async fn a_page_ends_before_it_is_too_large() {
    let app = App::spawn().await;
    for n in 0..40 {
        let data = serde_json::json!({"n": n, "fill": "x".repeat(60 * 1024)});
        app.event("payment_completed", serde_json::json!({"user_id": 1, "data": data}).to_string()).await;
    }
    app.is_settled().await;
    let page = app.page(1, Range::Newest, 200).await.page;
    assert!((5..20).contains(&page.items.len()) && page.next.is_some(), "{} items", page.items.len());
    assert_eq!(app.inbox(1).await.len(), 40, "the pages together are complete");
}

#[tokio::test]
async fn a_read_notification_is_counted_and_published_once() {
    let app = with_notifications(4).await;
    let mut watch = app.watch(1).await;
    let ids: Vec<NotificationId> = app.inbox(1).await.iter().map(|shown| shown.notification_id).collect();
    let read = app.read(1, ids[1]).await.unwrap().unwrap();
    assert_eq!((read.notification_id, read.unread_count, read.all), (ids[1], 3, false));
    assert_eq!(watch.read().await, read);
    let head = app.request(&InboxHeads { users: vec![user(1)] }).await.unwrap()[0];
    assert_eq!((head.last_read, app.page(1, Range::Newest, 0).await.last_read), (Some(read), Some(read)));
    assert_eq!(
        app.read(1, ids[1]).await.unwrap().unwrap(),
        read,
        "repeating it gives the same reply and publishes nothing"
    );

    let unread = PageNotifications {
        user_id: user(1),
        range: Range::Newest,
        limit: 50,
        unread: true,
        hides_archived: false,
    };
    let listed = async || -> Vec<i64> {
        let page = app.request(&unread).await.unwrap();
        page.page.items.iter().map(|shown| shown.seq).collect()
    };
    assert_eq!(listed().await, [4, 3, 1]);
    let all = app.read_all(1).await.unwrap();
    assert_eq!((all.notification_id, all.unread_count, all.all), (ids[3], 0, true));
    assert_eq!(watch.read().await, all, "nothing was published in between");
    assert_eq!(app.page(1, Range::Newest, 0).await.last_read, Some(all));
    assert!(listed().await.is_empty());
    assert_eq!(app.read_all(1).await.unwrap().unread_count, 0);
    assert!(app.read_all(99).await.is_none(), "an empty inbox");
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    assert_eq!(watch.shown().await.unread_count, 1, "reading all again publishes nothing");
    app.check_inboxes().await;
}

#[tokio::test]
async fn users_cannot_mark_notifications_of_others() {
    let app = with_notifications(1).await;
    let id = app.inbox(1).await[0].notification_id;
    app.event("payment_completed", r#"{"user_id":2}"#).await;
    app.is_settled().await;
    for (reader, notification) in [(2, id), (99, id), (1, NotificationId::new(i64::MAX).unwrap())] {
        match app.read(reader, notification).await {
            Err(RequestError::Refused(refusal)) => assert_eq!(refusal.code, Code::NotFound),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(app.page(1, Range::Newest, 1).await.unread_count, 1);
}

#[tokio::test]
async fn new_notifications_use_the_last_known_language() {
    let app = App::spawn().await;
    app.report_languages(&[(1, "en"), (2, "de"), (1, "fr"), (3, "en-US")]).await;
    app.event("payment_completed", r#"{"user_ids":[1,2,3,4]}"#).await;
    app.is_settled().await;
    app.report_languages(&[(3, "fr"), (4, "en")]).await;
    app.event("payment_completed", r#"{"user_ids":[3,4]}"#).await;
    app.is_settled().await;
    let mut titles = Vec::new();
    for id in 1..=4 {
        titles.push(app.inbox(id).await.into_iter().map(|shown| shown.title).collect::<Vec<_>>());
    }
    let (fr, en) = ("Paiement confirmé", "Payment confirmed");
    assert_eq!(titles, [vec![fr], vec![fr], vec![en, fr], vec![fr, en]], "a notification's text is fixed");
    // Too many users, or an invalid language, change nothing.
    let many = RememberLanguages { seen: vec![(user(1), Lang::parse("en").unwrap()); 501] };
    assert!(
        matches!(app.request(&many).await, Err(RequestError::Refused(refusal)) if refusal.code == Code::InvalidRequest)
    );
    let wrong =
        app.bus.client().request("notify.languages", r#"{"seen":[[1,"<b>en</b>"]]}"#.into()).await.unwrap();
    assert_eq!(wrong.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "400");
    let stored: Option<String> =
        sqlx::query_scalar("select lang from inboxes where user_id = 1").fetch_one(&app.pool).await.unwrap();
    assert_eq!(stored.as_deref(), Some("fr"));
}

#[tokio::test]
async fn the_service_supports_nats_micro() {
    let app = with_notifications(1).await;
    app.page(1, Range::Newest, 1).await;
    assert!(app.bus.client().request("notify.heads", "no JSON".into()).await.is_ok());
    let request = async |verb: &str| -> serde_json::Value {
        let reply = app.bus.client().request(format!("$SRV.{verb}.notify"), "".into()).await;
        serde_json::from_slice(&reply.unwrap().payload).unwrap()
    };
    assert_eq!(request("PING").await["name"], "notify");
    let subjects = |reply: &serde_json::Value| -> Vec<String> {
        let endpoints = reply["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["subject"].as_str().unwrap().to_owned()).collect()
    };
    let ours = [
        "notify.erasure.delete",
        "notify.erasure.rename",
        "notify.heads",
        "notify.languages",
        "notify.notifications.archive",
        "notify.notifications.page",
        "notify.notifications.read",
        "notify.notifications.seen",
        "notify.preferences.get",
        "notify.preferences.set",
        "presence.shown.get",
        "presence.shown.set",
        "presence.who",
    ];
    let mut named = subjects(&request("INFO").await);
    named.sort_unstable();
    // In addition, each process checks its endpoints by requests to itself, on its own subject.
    assert!(named.remove(0).starts_with("_INBOX.notify-service."));
    assert_eq!(named, ours);
    let stats = request("STATS").await;
    let counts = |subject: &str| {
        let at = subjects(&stats).iter().position(|known| known == subject).unwrap();
        let endpoint = &stats["endpoints"][at];
        (endpoint["num_requests"].as_u64(), endpoint["num_errors"].as_u64())
    };
    assert_eq!(counts("notify.notifications.page"), (Some(1), Some(0)));
    assert_eq!(counts("notify.heads"), (Some(1), Some(1)));
}

#[tokio::test]
async fn one_request_returns_the_heads_of_many_inboxes() {
    let app = with_notifications(3).await;
    app.page(5, Range::Newest, 0).await;
    let heads = app.request(&InboxHeads { users: vec![user(1), user(2), user(5)] }).await.unwrap();
    assert_eq!(heads.len(), 1);
    assert_eq!((heads[0].user_id, heads[0].seq, heads[0].unread_count), (user(1), 3, 3));
    let many = InboxHeads { users: (1..=501).map(user).collect() };
    match app.request(&many).await {
        Err(RequestError::Refused(refusal)) => assert_eq!(refusal.code, Code::InvalidRequest),
        other => panic!("{other:?}"),
    }
}
