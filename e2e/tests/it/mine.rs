//! A user's own settings of conversations: muted, archived, pinned.

use e2e::{
    Socket, Stack,
    documented::{self, Sender},
    eventually,
};
use serde_json::{Value, json};

/// The conversations in a user's list.
async fn listed(stack: &Stack, query: &str, user: i64) -> Vec<Value> {
    let page = stack.get(&format!("/api/conversations{query}"), user).await;
    page["items"].as_array().unwrap().iter().map(|item| item["conversation_id"].clone()).collect()
}

async fn set(stack: &Stack, id: i64, user: i64, changes: Value) {
    stack.call("PUT", &format!("/api/conversations/{id}/mine"), user, Some(changes)).await.expect(204);
}

/// A notification socket that understands extensions.
async fn device(stack: &Stack, user: i64) -> Socket {
    stack.socket("/ws/notifications/?after=latest", user).await
}

#[tokio::test]
async fn settings_reach_the_users_other_devices_and_nobody_else() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let (mut phone, mut old) = (device(&stack, 1).await, stack.socket("/ws/notifications/", 1).await);
    let (mut all, mut other) = (stack.socket("/ws/", 1).await, device(&stack, 2).await);
    all.send(json!({"op": "subscribe", "channel": "notifications", "ref": 1})).await;
    assert_eq!(all.next().await["op"], "ok");

    set(&stack, id, 1, json!({"muted_until": "forever", "pinned": true})).await;
    let mine = json!({"type": "mine", "conversation_id": id, "muted_until": "forever", "pinned": true});
    assert_eq!(phone.next().await, mine);
    assert_eq!(all.next().await["data"], mine);
    set(&stack, id, 1, json!({"archived": true, "muted_until": "2999-01-01T00:00:00+01:00"})).await;
    let mine = json!({
        "type": "mine", "conversation_id": id, "muted_until": "2998-12-31T23:00:00.000000Z", "archived": true,
        "pinned": true
    });
    assert_eq!(phone.next().await, mine);
    let path = format!("/api/conversations/{id}");
    let seen = stack.get(&path, 1).await;
    for field in ["muted_until", "archived", "pinned"] {
        assert_eq!(seen[field], mine[field]);
    }
    for of_other in [stack.get(&path, 2).await, stack.get("/api/conversations", 2).await["items"][0].clone()]
    {
        assert_eq!(of_other["conversation_id"], id);
        let fields = ["muted_until", "archived", "pinned"];
        assert!(fields.iter().all(|field| of_other.get(field).is_none()), "{of_other}");
    }
    // A backend sees the conversation as the first participant does, but for these settings.
    let backend = stack.backend().await;
    let same = json!({"participants": [{"user_id": 1}, {"user_id": 2}], "listing_id": seen["listing_id"]});
    let answer = backend.request("chat.conversations.create", same.to_string().into()).await.unwrap();
    let of_backend: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(of_backend["conversation_id"], id);
    assert!(of_backend.get("muted_until").is_none() && of_backend.get("pinned").is_none(), "{of_backend}");

    set(&stack, id, 1, json!({"archived": false, "muted_until": null, "pinned": false})).await;
    assert_eq!(phone.next().await, json!({"type": "mine", "conversation_id": id}));
    let fields = ["muted_until", "archived", "pinned"];
    let seen = stack.get(&path, 1).await;
    assert!(fields.iter().all(|field| seen.get(field).is_none()), "{seen}");
    old.expect_silence().await;
    other.expect_silence().await;
}

#[tokio::test]
async fn an_archived_conversation_returns_with_its_next_message_unless_it_is_muted() {
    let stack = Stack::start().await;
    let (quiet, loud) = (stack.conversation(&[1, 2]).await, stack.conversation(&[1, 3]).await);
    set(&stack, quiet, 1, json!({"archived": true, "muted_until": "forever"})).await;
    set(&stack, loud, 1, json!({"archived": true})).await;
    assert_eq!(listed(&stack, "", 1).await, [0; 0]);
    assert_eq!(listed(&stack, "?archived=true", 1).await, [loud, quiet]);
    assert_eq!(listed(&stack, "", 2).await, [quiet]);

    for (id, sender) in [(quiet, 2), (loud, 3)] {
        let path = format!("/api/conversations/{id}/messages");
        stack.post(&path, sender, json!({"message": "hello"})).await.expect(201);
    }
    assert_eq!(listed(&stack, "", 1).await, [loud]);
    assert_eq!(listed(&stack, "?archived=true", 1).await, [quiet]);
    // The end of the mute changes nothing: what came before it stays archived.
    set(&stack, quiet, 1, json!({"muted_until": null, "pinned": true})).await;
    assert_eq!(listed(&stack, "?archived=true&pinned=true", 1).await, [quiet]);
    let path = format!("/api/conversations/{quiet}/messages");
    stack.post(&path, 2, json!({"message": "again"})).await.expect(201);
    assert_eq!(listed(&stack, "", 1).await, [quiet, loud]);
    assert_eq!(listed(&stack, "?pinned=true", 1).await, [quiet]);
}

#[tokio::test]
async fn a_muted_conversation_notifies_silently() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2, 3]).await;
    set(&stack, id, 2, json!({"muted_until": "forever"})).await;
    let send = async |text: &str| {
        let path = format!("/api/conversations/{id}/messages");
        let sent = stack.post(&path, 1, json!({"message": text})).await.expect(201);
        sent["message_id"].clone()
    };
    let data = async |user: i64, message: &Value| {
        eventually("the notification", async || {
            let page = stack.get("/api/notifications", user).await;
            let data = page["items"][0]["data"].clone();
            (data["message_id"] == *message).then_some(data)
        })
        .await
    };
    let first = send("one").await;
    let loud = json!({"conversation_id": id, "message_id": first, "count": 1});
    assert_eq!(data(3, &first).await, loud, "a notification of a user who has muted nothing stays the same");
    let mut muted = loud.clone();
    muted["muted"] = json!(true);
    assert_eq!(data(2, &first).await, muted);
    set(&stack, id, 2, json!({"muted_until": null})).await;
    let second = send("two").await;
    assert_eq!(data(2, &second).await, json!({"conversation_id": id, "message_id": second, "count": 2}));
}

#[tokio::test]
async fn strangers_and_wrong_settings_are_refused() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/api/conversations/{id}/mine");
    let put = async |user, changes| stack.call("PUT", &path, user, Some(changes)).await;
    put(3, json!({"pinned": true})).await.expect_problem(403, "forbidden");
    for wrong in [json!({"muted_until": "tomorrow"}), json!({"muted_until": true}), json!({"archived": 1})] {
        put(1, wrong).await.expect_problem(400, "invalid_message");
    }
    let wrong = stack.call("GET", "/api/conversations?archived=maybe", 1, None).await;
    wrong.expect_problem(400, "invalid_request");
    put(1, json!({})).await.expect(204);
}

#[tokio::test]
async fn settings_are_exported_and_erased() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    set(&stack, id, 1, json!({"muted_until": "forever", "archived": true, "pinned": true})).await;
    set(&stack, id, 2, json!({"pinned": true})).await;
    let exported = async |user: i64| {
        let page = stack.request("users.export", &json!({"user_id": user})).await.unwrap();
        documented::check("exportUserReply", Sender::Server, &page).unwrap();
        let items = page["items"].as_array().unwrap();
        items.iter().find_map(|item| item.get("conversation").cloned()).unwrap()
    };
    let settings = |record: &Value| {
        ["muted_until", "archived", "pinned"].map(|field| record.get(field).cloned().unwrap_or_default())
    };
    assert_eq!(settings(&exported(1).await), [json!("forever"), json!(true), json!(true)]);
    stack.request("users.erase", &json!({"user_id": 1})).await.unwrap();
    eventually("the settings to be erased", async || {
        (settings(&exported(1).await) == [Value::Null, Value::Null, Value::Null]).then_some(())
    })
    .await;
    assert_eq!(settings(&exported(2).await), [Value::Null, Value::Null, json!(true)]);
}
