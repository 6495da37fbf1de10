//! Preferences, and what users have seen and archived.

use crate::unread;
use async_nats::jetstream;
use e2e::{
    Options, Stack,
    documented::{self, Sender},
    eventually,
};
use serde_json::{Value, json};

async fn stack() -> Stack {
    let env = vec![("REMINDERS", "push:20s/3m mail:15m/2h".to_owned())];
    Stack::with(Options { env, ..Options::one_of_each() }).await
}

#[tokio::test]
async fn a_user_sets_preferences_and_a_backend_changes_them() {
    let stack = stack().await;
    let get = async || stack.get("/api/me/preferences", 1).await;
    let set =
        async |method: &str, body: Value| stack.call(method, "/api/me/preferences", 1, Some(body)).await;
    let nothing = json!({"types": {}, "quiet": null, "defaults": {}, "mandatory": ["payment_completed"]});
    assert_eq!(get().await, nothing);

    // Types and channels that do not exist are kept (law F5).
    let quiet = json!({"from": "22:00", "to": "08:00", "tz": "Europe/Paris"});
    let types = json!({"listing_published": {"mail": false, "fax": true}, "future": {"push": true}});
    let all = set("PUT", json!({"types": types, "quiet": quiet})).await.expect(200);
    assert_eq!((&all["types"], &all["quiet"]), (&types, &quiet));
    assert_eq!(get().await, all);

    let change = json!({"types": {"listing_published": {"fax": null}, "future": null, "*": {"push": false}}});
    let changed = set("PATCH", change).await.expect(200);
    let types = json!({"listing_published": {"mail": false}, "*": {"push": false}});
    assert_eq!((&changed["types"], &changed["quiet"]), (&types, &quiet), "the rest stays");

    let question = json!({"user_id": 1, "types": {"listing_published": {"mail": true}}, "quiet": null});
    documented::check("setPreferences", Sender::Client, &question).unwrap();
    let answer = stack.request("notify.preferences.set", &question).await.unwrap();
    documented::check("preferencesReply", Sender::Server, &answer).unwrap();
    assert_eq!(
        (&answer["types"]["listing_published"]["mail"], &answer["quiet"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(stack.request("notify.preferences.get", &json!({"user_id": 1})).await.unwrap(), answer);
    let path = "/backend/users/1/preferences";
    assert_eq!(stack.call_as_backend("GET", path, None).await.expect(200), answer);
    let off = json!({"types": {"*": {"mail": false}}});
    let changed = stack.call_as_backend("PATCH", path, Some(off)).await.expect(200);
    assert_eq!(changed["types"]["*"], json!({"push": false, "mail": false}));

    // Without a name, everything goes.
    assert_eq!(set("PUT", json!({})).await.expect(200), nothing);
    assert_eq!(stack.get("/api/me/preferences", 2).await["types"], json!({}), "another user's are separate");
}

#[tokio::test]
async fn invalid_preferences_are_refused_and_change_nothing() {
    let stack = stack().await;
    let call = async |body: Value| stack.call("PATCH", "/api/me/preferences", 1, Some(body)).await;
    for body in [
        json!({"types": {"": {"mail": true}}}),
        json!({"types": {"no spaces": {"mail": true}}}),
        json!({"types": {"a": {"Mail": true}}}),
        json!({"quiet": {"from": "22:00", "to": "22:00", "tz": "UTC"}}),
        json!({"quiet": {"from": "24:00", "to": "08:00", "tz": "UTC"}}),
        json!({"quiet": {"from": "22:00", "to": "08:00", "tz": "Mars/Olympus"}}),
    ] {
        call(body).await.expect_problem(400, "invalid_request");
    }
    let many = |first: usize, count: usize| {
        let types = (first..first + count).map(|n| (format!("type_{n}"), json!({"mail": false})));
        json!({"types": types.collect::<serde_json::Map<_, _>>()})
    };
    call(many(0, 201)).await.expect_problem(400, "invalid_request");
    call(many(0, 200)).await.expect(200);
    call(many(200, 1)).await.expect_problem(400, "invalid_request");
    assert_eq!(stack.get("/api/me/preferences", 1).await["types"].as_object().unwrap().len(), 200);
}

/// Publishes events for a user. Returns the ids of all unread notifications.
async fn publish(stack: &Stack, user: i64, count: usize) -> Vec<i64> {
    let before = unread(stack, user).await.len();
    let jetstream = jetstream::new(stack.backend().await);
    for _ in 0..count {
        let event = json!({"user_id": user, "data": {}}).to_string();
        jetstream.publish("events.payment_completed", event.into()).await.unwrap().await.unwrap();
    }
    let is_complete = async || unread(stack, user).await.len() == before + count;
    eventually("the notifications", is_complete).await;
    let ids = unread(stack, user).await;
    let mut ids: Vec<i64> = ids.iter().map(|item| item["notification_id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn what_is_seen_is_counted_and_reaches_other_devices() {
    let stack = stack().await;
    let counts = async || stack.get("/api/notifications/unread_count", 1).await;
    let ids = publish(&stack, 1, 4).await;
    assert_eq!(counts().await, json!({"unread_count": 4, "unseen_count": 4}));
    // As before, as long as nothing is seen.
    assert!(unread(&stack, 1).await.iter().all(|item| item.get("unseen_count").is_none()));

    let mut phone = stack.socket("/ws/notifications/?after=latest", 1).await;
    let mut old = stack.socket("/ws/notifications/", 1).await;
    let seen = stack.post("/api/notifications/seen", 1, json!({"notification_id": ids[1]})).await.expect(200);
    assert_eq!(seen, json!({"notification_id": ids[1], "unseen_count": 2}));
    let frame = json!({"type": "seen", "notification_id": ids[1], "unseen_count": 2});
    assert_eq!(phone.next_of("seen").await, frame);
    assert_eq!(counts().await, json!({"unread_count": 4, "unseen_count": 2}));

    // Backwards, it stays; a notification of another user is not found.
    let back = stack.post("/api/notifications/seen", 1, json!({"notification_id": ids[0]})).await.expect(200);
    assert_eq!(back, seen);
    let other = publish(&stack, 2, 1).await;
    stack
        .post("/api/notifications/seen", 1, json!({"notification_id": other[0]}))
        .await
        .expect_problem(404, "not_found");

    // Reads change both counts, and say so; new notifications are unseen.
    stack.post(&format!("/api/notifications/{}/read", ids[3]), 1, json!({})).await.expect(204);
    let read = phone.next_of("read").await;
    assert_eq!((&read["unread_count"], &read["unseen_count"]), (&json!(3), &json!(1)));
    publish(&stack, 1, 1).await;
    let shown = phone.next_of("payment_completed").await;
    assert_eq!((&shown["unread_count"], &shown["unseen_count"]), (&json!(4), &json!(2)));
    phone.send(json!({"type": "seen", "notification_id": shown["notification_id"]})).await;
    assert_eq!(phone.next_of("seen").await["unseen_count"], 0);
    // The guide's page shows every frame, so it receives only notifications.
    assert_eq!(old.next().await["type"], "payment_completed");
    // A socket that resumes learns what was seen meanwhile.
    let mut tablet = stack.socket(&format!("/ws/notifications/?after={}", shown["notification_id"]), 1).await;
    assert_eq!(tablet.next_of("seen").await["notification_id"], shown["notification_id"]);
}

#[tokio::test]
async fn an_archived_notification_is_read_and_left_out() {
    let stack = stack().await;
    let ids = publish(&stack, 1, 3).await;
    let mut socket = stack.socket("/ws/notifications/?after=latest", 1).await;
    stack.post(&format!("/api/notifications/{}/archive", ids[1]), 1, json!({})).await.expect(204);
    let read = socket.next_of("read").await;
    assert_eq!((&read["notification_id"], &read["unread_count"]), (&json!(ids[1]), &json!(2)));
    let listed = async |query: &str| {
        let page = stack.get(&format!("/api/notifications{query}"), 1).await;
        let items = page["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["notification_id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, [ids[2], ids[0]]);
    assert_eq!(listed("?archived=true").await, [ids[2], ids[1], ids[0]]);
    let all = stack.get("/api/notifications?archived=true", 1).await;
    let archived: Vec<bool> =
        all["items"].as_array().unwrap().iter().map(|item| item.get("archived_at").is_some()).collect();
    assert_eq!(archived, [false, true, false]);
    // Again, and by somebody else.
    stack.post(&format!("/api/notifications/{}/archive", ids[1]), 1, json!({})).await.expect(204);
    let other = stack.post(&format!("/api/notifications/{}/archive", ids[0]), 2, json!({})).await;
    other.expect_problem(404, "not_found");
    assert_eq!(stack.get("/api/notifications/unread_count", 1).await["unread_count"], 2);
}
