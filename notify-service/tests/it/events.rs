//! Events of other backends.

use crate::app::{App, eventually, within};
use contract::log::Range;
use contract::streams::{DEADLETTERS_STREAM, EVENTS_STREAM};

#[tokio::test]
async fn an_event_becomes_the_notification_of_the_contract() {
    let app = App::spawn().await;
    let mut watch = app.watch(456).await;
    app.event("payment_completed", r#"{"user_id":456,"data":{"payment_id":789}}"#).await;
    let json = watch.json().await;
    let start = r#"{"type":"payment_completed","notification_id":"#;
    let rest = r#""seq":1,"title":"Paiement confirmé","message":"Votre paiement a été traité","data":{"payment_id":789},"created_at":""#;
    let end = r#"Z","is_read":false,"unread_count":1}"#;
    assert!(json.starts_with(start) && json.contains(rest) && json.ends_with(end), "{json}");
    let stored = app.inbox(456).await;
    assert_eq!(serde_json::to_string(&stored[0]).unwrap(), json);
}

#[tokio::test]
async fn many_users_are_notified_in_their_own_languages() {
    let app = App::spawn().await;
    app.report_languages(&[(2, "en-GB")]).await;
    let users: Vec<i64> = (1..=1_000).collect();
    app.event("listing_published", serde_json::json!({"user_ids": users}).to_string()).await;
    app.event("listing_published", r#"{"user_ids":[1,2],"lang":"en","title":"Yours"}"#).await;
    app.is_settled().await;
    assert_eq!(app.rows().await, 1_002);
    let titles = async |id| -> Vec<String> {
        app.inbox(id).await.into_iter().map(|shown| format!("{}: {}", shown.title, shown.message)).collect()
    };
    assert_eq!(
        titles(1).await,
        ["Annonce publiée: Votre annonce est maintenant visible", "Yours: Your listing is now visible"]
    );
    assert_eq!(
        titles(2).await,
        ["Listing published: Your listing is now visible", "Yours: Your listing is now visible"]
    );
    app.check_inboxes().await;
}

#[tokio::test]
async fn an_event_with_the_same_id_notifies_a_user_once() {
    let app = App::spawn().await;
    app.event("payment_completed", r#"{"user_id":1,"event_id":"e1"}"#).await;
    app.event("payment_completed", r#"{"user_ids":[1,2],"event_id":"e1"}"#).await;
    app.event_with("payment_completed", &[("Nats-Msg-Id", "e1")], r#"{"user_id":1}"#).await;
    app.event_with("payment_completed", &[("Nats-Msg-Id", "e2")], r#"{"user_id":1}"#).await;
    app.event("payment_completed", r#"{"user_id":1,"event_id":"e2"}"#).await;
    let cloud = r#"{"specversion":"1.0","id":"e1","type":"payment_completed","data":{"user_id":2}}"#;
    app.event("payment_completed", cloud).await;
    app.is_settled().await;
    assert_eq!((app.inbox(1).await.len(), app.inbox(2).await.len()), (2, 1));
    app.check_inboxes().await;
}

#[tokio::test]
async fn a_redelivered_event_notifies_once_and_is_published_again() {
    let mut app = App::spawn().await;
    app.stop().await;
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    app.message(7, 10, 2, &[1]).await;
    // A copy of NATS from before the acknowledgements, to which it is reset after the service has stored the events.
    app.nats.kill().await;
    let kept = tempfile::tempdir().unwrap();
    copy(app.nats.folder(), kept.path());
    app.nats.restart().await.unwrap();
    app.start().await;
    app.is_settled().await;
    app.stop().await;
    app.nats.kill().await;
    std::fs::remove_dir_all(app.nats.folder()).unwrap();
    copy(kept.path(), app.nats.folder());
    app.nats.restart().await.unwrap();
    eventually("our connection", async || app.bus.round_trip().await.is_ok()).await;
    let mut watch = app.watch(1).await;
    app.start().await;
    let mut seqs = [watch.shown().await.seq, watch.shown().await.seq];
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2], "both are published again");
    app.is_settled().await;
    assert_eq!(app.rows().await, 2);
    app.check_inboxes().await;
}

#[tokio::test]
async fn messages_that_reappear_after_nats_was_killed_are_processed() {
    let mut app = App::spawn().await;
    app.stop().await;
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    app.event("payment_completed", "not json").await;
    app.message(7, 10, 2, &[1]).await;
    publish_raw(&app, b"NATS/1.0\r\nX Name: a\r\n\r\n", br#"{"user_id":3}"#).await;
    // A copy of the messages, which is restored after the consumers have acknowledged them.
    app.nats.kill().await;
    let kept = tempfile::tempdir().unwrap();
    let streams = app.nats.folder().join("data/jetstream/$G/streams");
    for stream in [EVENTS_STREAM, "CHAT"] {
        copy(&streams.join(stream).join("msgs"), &kept.path().join(stream));
    }
    app.nats.restart().await.unwrap();
    app.start().await;
    app.is_settled().await;
    app.stop().await;
    // A clean shutdown, so that the state of the consumers is on disk.
    app.nats.shut_down(std::time::Duration::from_secs(20)).await;
    for stream in [EVENTS_STREAM, "CHAT"] {
        let messages = streams.join(stream).join("msgs");
        std::fs::remove_dir_all(&messages).unwrap();
        copy(&kept.path().join(stream), &messages);
    }
    app.nats.restart().await.unwrap();
    eventually("our connection", async || app.bus.round_trip().await.is_ok()).await;
    // As if the first event had never been processed: NATS may have lost its last writes, and reused sequences below
    // the ack floor.
    sqlx::query("delete from notifications where type = 'payment_completed'")
        .execute(&app.pool)
        .await
        .unwrap();
    for (name, left) in [(EVENTS_STREAM, 3), ("CHAT", 1)] {
        let mut stream = app.jetstream.get_stream(name).await.unwrap();
        let consumer = stream.consumer_info("notify").await.unwrap();
        let waits = consumer.num_pending + consumer.num_ack_pending as u64;
        assert_eq!(
            (stream.info().await.unwrap().state.messages, waits),
            (left, 0),
            "{name}: in the stream, but not pending"
        );
    }
    app.start().await;
    app.is_settled().await;
    let kinds: Vec<String> = app.inbox(1).await.into_iter().map(|shown| shown.kind).collect();
    assert_eq!(kinds, ["message_received", "payment_completed"], "existing notifications are not repeated");
    app.dead_letters(2).await;
    let (_, metrics) = crate::app::get(app.replica.as_ref().unwrap().admin, "/metrics").await;
    assert!(metrics.contains("rescued_messages_total"), "{metrics}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_invalid_event_is_one_unchanged_dead_letter() {
    let app = App::spawn().await;
    let good = |n: i64| format!(r#"{{"user_id":1,"event_id":"good-{n}"}}"#);
    let many: Vec<i64> = (1..=1_500).collect();
    let bad: Vec<Vec<u8>> = [
        "not json",
        "",
        "[]",
        "{}",
        r#"{"user_id":"456"}"#,
        r#"{"user_id":-5}"#,
        r#"{"user_id":9223372036854775808}"#,
        &serde_json::json!({"user_ids": many}).to_string(),
        r#"{"user_id":1,"data":[]}"#,
        r#"{"user_id":1,"data":{"a":"\u0000"}}"#,
        r#"{"user_id":1,"title":"\u0000","message":"x"}"#,
        &format!(r#"{{"user_id":1,"data":{{"a":"{}"}}}}"#, "x".repeat(900 * 1024)),
        &format!(r#"{{"user_id":1,"data":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000)),
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([b"\xff\xfe{}".to_vec()])
    .collect();
    for (n, body) in bad.iter().enumerate() {
        app.event("payment_completed", good(n as i64)).await;
        app.event("payment_completed", body.clone()).await;
    }
    app.event("unheard.of", r#"{"user_id":1}"#).await;
    app.event_with("read", &[("X-Trace", "t1"), ("Nats-Msg-Id", "m1")], r#"{"user_id":1}"#).await;
    app.is_settled().await;
    let letters = app.dead_letters(bad.len() + 2).await;
    for (n, body) in bad.iter().enumerate() {
        let letter = letters.iter().find(|letter| letter.payload == body.as_slice());
        let letter = letter.unwrap_or_else(|| panic!("no dead letter for body {n}"));
        let header = |name: &str| letter.headers.as_ref().unwrap().get(name).unwrap().as_str().to_owned();
        assert_eq!(letter.subject.as_str(), "deadletters.payment_completed");
        assert_eq!(header("Original-Subject"), "events.payment_completed");
        assert!(header("Reason").len() > 10, "{:?}", header("Reason"));
    }
    let subject = |wanted: &str| letters.iter().find(|letter| letter.subject.as_str() == wanted).unwrap();
    subject("deadletters.unheard.of");
    let headers = subject("deadletters.read").headers.clone().unwrap();
    assert_eq!(headers.get("X-Trace").unwrap().as_str(), "t1");
    assert_eq!(headers.get("Original-Nats-Msg-Id").unwrap().as_str(), "m1");
    assert_eq!(app.inbox(1).await.len(), bad.len());
    let (_, metrics) = crate::app::get(app.replica.as_ref().unwrap().admin, "/metrics").await;
    assert!(metrics.contains("deadletters_total"), "{metrics}");
    app.check_inboxes().await;
}

#[tokio::test]
async fn an_event_that_postgres_rejects_is_a_dead_letter_and_delays_no_other() {
    let mut app = App::spawn().await;
    // A constraint that parsing doesn't check.
    sqlx::query("alter table notifications add check (title <> 'poison')").execute(&app.pool).await.unwrap();
    app.stop().await;
    app.event("a", r#"{"user_id":1,"title":"first","message":"m"}"#).await;
    app.event("a", r#"{"user_id":1,"title":"poison","message":"m"}"#).await;
    app.event("a", r#"{"user_id":1,"title":"last","message":"m"}"#).await;
    app.start().await;
    app.is_settled().await;
    let mut titles: Vec<String> = app.inbox(1).await.into_iter().map(|shown| shown.title).collect();
    titles.sort_unstable(); // Retried events have no order.
    assert_eq!(titles, ["first", "last"]);
    let letters = app.dead_letters(1).await;
    assert!(letters[0].headers.as_ref().unwrap().get("Reason").unwrap().as_str().contains("can't be stored"));
    app.check_inboxes().await;
}

#[tokio::test]
async fn streams_are_created_and_changes_of_operators_are_kept() {
    let mut app = App::spawn().await;
    app.stop().await;
    let mut config = app.jetstream.get_stream(EVENTS_STREAM).await.unwrap().cached_info().config.clone();
    config.max_bytes = 5_000_000;
    app.jetstream.update_stream(config).await.unwrap();
    app.start().await;
    for (stream, bytes) in [(EVENTS_STREAM, 5_000_000), (DEADLETTERS_STREAM, 1 << 30)] {
        let stream = app.jetstream.get_stream(stream).await.unwrap();
        assert_eq!(stream.cached_info().config.max_bytes, bytes);
    }
}

#[tokio::test]
async fn old_notifications_are_removed_and_counts_stay_exact() {
    let mut app = App::spawn().await;
    for n in 1..=5 {
        app.event("payment_completed", format!(r#"{{"user_ids":[1,2],"event_id":"{n}"}}"#)).await;
    }
    app.is_settled().await;
    let inbox = app.inbox(1).await;
    app.read(1, inbox[0].notification_id).await.unwrap();
    app.stop().await;
    sqlx::query("update notifications set created_at = now() - interval '181 days' where seq <= 3")
        .execute(&app.pool)
        .await
        .unwrap();
    app.start().await;
    eventually("old notifications to be removed", async || app.rows().await == 4).await;
    let page = app.page(1, Range::After(0), 50).await;
    let seqs: Vec<i64> = page.page.items.iter().map(|shown| shown.seq).collect();
    assert_eq!((seqs, page.unread_count, page.head.seq), (vec![4, 5], 2, 5));
    app.event("payment_completed", r#"{"user_id":1}"#).await;
    app.is_settled().await;
    assert_eq!(app.page(1, Range::Newest, 1).await.page.items[0].seq, 6);
}

/// Publishes with headers that client libraries don't send.
async fn publish_raw(app: &App, headers: &[u8], body: &[u8]) {
    let sent = app.nats.publish_raw(None, "events.payment_completed", headers, body);
    within("JetStream", sent).await.unwrap();
}

#[tokio::test]
async fn headers_that_break_the_connection_are_dead_letters() {
    let app = App::spawn().await;
    let body = br#"{"user_id":1}"#;
    publish_raw(&app, b"NATS/1.0\r\nX-Name: Ren\xe9\r\n\r\n", body).await;
    publish_raw(&app, b"NATS/1.0\r\nX Name: a\r\n\r\n", body).await;
    app.event("payment_completed", r#"{"user_id":2}"#).await;
    app.is_settled().await;
    let letters = app.dead_letters(2).await;
    for letter in &letters {
        let headers = letter.headers.as_ref().unwrap();
        assert_eq!(&letter.payload[..], body);
        assert!(headers.get("Reason").unwrap().as_str().contains("can't be read"));
        assert!(headers.get("Original-Headers").is_some());
    }
    assert_eq!(app.inbox(2).await.len(), 1);
    app.replica.as_ref().unwrap().is_ready().await;
}

#[tokio::test]
async fn headers_that_end_the_client_end_the_process_and_the_next_one_continues() {
    let mut app = App::spawn().await;
    publish_raw(&app, b"NATS/1.0\r\nX-Name: a\rb\r\n\r\n", br#"{"user_id":1}"#).await;
    app.event("payment_completed", r#"{"user_id":2}"#).await;
    let ended = app.replica.take().unwrap().ended().await.unwrap_err();
    assert_eq!(ended.to_string(), "the NATS client has ended");
    app.start().await;
    app.is_settled().await;
    app.dead_letters(1).await;
    assert_eq!(app.inbox(2).await.len(), 1);
}

#[tokio::test]
async fn the_catalogue_is_reloaded_on_sighup_if_it_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(folder.path().join("fr.ftl"), text).unwrap();
    write("offer_made = Offre\n    .message = Une offre de { $amount } €\n");
    let app = App::spawn_with(|config| config.catalogue_dir = Some(folder.path().to_owned())).await;
    let hang_up = || {
        let pid = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    let mut watch = app.watch(1).await;
    app.event("offer_made", r#"{"user_id":1,"data":{"amount":12}}"#).await;
    assert_eq!(watch.shown().await.message, "Une offre de 12 €");

    write("offer_made = Offre\n"); // No message.
    hang_up();
    app.event("offer_made", r#"{"user_id":1,"data":{"amount":13}}"#).await;
    assert_eq!(watch.shown().await.message, "Une offre de 13 €");

    write("offer_made = Offre\n    .message = { $amount } € pour vous\n");
    hang_up();
    // A signal has no acknowledgement: polls until the new text appears.
    within("the new text", async {
        loop {
            app.event("offer_made", r#"{"user_id":1,"data":{"amount":14}}"#).await;
            if watch.shown().await.message == "14 € pour vous" {
                break;
            }
        }
    })
    .await;
    app.event("offer_made", r#"{"user_id":1}"#).await;
    let letter = &app.dead_letters(1).await[0];
    let reason = letter.headers.as_ref().unwrap().get("Reason").unwrap().as_str();
    assert_eq!(reason, "the text of this type can't be made without \"amount\" in \"data\"");
}
