//! Idempotency keys and types of events.

use crate::app::App;

fn cloud(id: &str, source: &str, kind: &str, user: i64) -> String {
    let data = serde_json::json!({"user_id": user});
    serde_json::json!({"specversion": "1.0", "id": id, "source": source, "type": kind, "data": data})
        .to_string()
}

#[tokio::test]
async fn cloud_events_of_two_sources_with_one_id_both_notify() {
    let app = App::spawn().await;
    app.event("payment_completed", cloud("1", "/billing", "payment_completed", 7)).await;
    app.event("listing_published", cloud("1", "/listings", "listing_published", 7)).await;
    app.event("payment_completed", cloud("1", "/billing", "payment_completed", 7)).await;
    // The same event in binary form, and a plain event with the same id.
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/billing"),
        ("ce-type", "payment_completed"),
    ];
    app.event_with("payment_completed", &headers, r#"{"user_id":7}"#).await;
    app.event("payment_completed", r#"{"user_id":7,"event_id":"1","data":{"plain":1}}"#).await;
    app.is_settled().await;
    let mut shown: Vec<String> =
        app.inbox(7).await.into_iter().map(|shown| format!("{} {}", shown.kind, shown.data)).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["listing_published {}", "payment_completed {\"plain\":1}", "payment_completed {}"]);
    app.dead_letters(0).await;
}

#[tokio::test]
async fn a_redelivery_across_an_update_notifies_once() {
    let app = App::spawn().await;
    app.event("payment_completed", r#"{"user_id":1,"event_id":"e1"}"#).await;
    app.event_with("payment_completed", &[("Nats-Msg-Id", "m1")], r#"{"user_id":1}"#).await;
    app.is_settled().await;
    // The keys are those of the previous release.
    let keys: Vec<String> = sqlx::query_scalar("select event_key from notifications order by seq")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    assert_eq!(keys, ["id:e1", "id:m1"]);
}

#[tokio::test]
async fn an_event_that_states_another_type_is_a_dead_letter() {
    let app = App::spawn().await;
    let one = r#"{"user_id":1}"#;
    app.event_with("payment_completed", &[("ce-type", "listing_published")], one).await;
    app.event_with("payment_completed", &[("CE-Type", "message_received")], one).await;
    app.event("payment_completed", cloud("1", "/a", "listing_published", 1)).await;
    app.event("payment_completed", r#"{"user_id":1,"type":"listing_published"}"#).await;
    let both = [("ce-type", "listing_published")];
    app.event_with("payment_completed", &both, cloud("2", "/a", "payment_completed", 1)).await;
    // Stating the same type is valid.
    app.event("payment_completed", r#"{"user_id":2,"type":"payment_completed"}"#).await;
    app.event_with("payment_completed", &[("ce-type", "payment_completed")], r#"{"user_id":2}"#).await;
    app.event("payment_completed", cloud("3", "/a", "payment_completed", 2)).await;
    app.is_settled().await;
    for letter in app.dead_letters(5).await {
        let reason = letter.headers.as_ref().unwrap().get("Reason").unwrap().as_str().to_owned();
        assert!(reason.contains("type") && reason.contains("payment_completed"), "{reason}");
    }
    assert_eq!((app.inbox(1).await.len(), app.inbox(2).await.len()), (0, 3));
}
