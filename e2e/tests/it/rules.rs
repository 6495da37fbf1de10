//! Rules between users (cursors, blocks, rates, names), paging through lists that change, and restored logs.

use crate::wait_for_unread;
use e2e::{Options, Socket, Stack, eventually, token_with};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use std::time::{SystemTime, UNIX_EPOCH};

fn ids(page: &Value) -> Vec<i64> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["conversation_id"].as_i64().unwrap()).collect()
}

/// Creates a conversation of these users about a listing.
async fn conversation_about(stack: &Stack, users: &[i64], listing: i64) -> i64 {
    let (caller, others) = users.split_first().unwrap();
    let new = json!({"participant_ids": others, "listing_id": listing});
    let answer = stack.post("/api/conversations", *caller, new).await;
    answer.expect(201)["conversation_id"].as_i64().unwrap()
}

async fn send_message(stack: &Stack, id: i64, user: i64) {
    let path = format!("/api/conversations/{id}/messages");
    stack.post(&path, user, json!({"message": "hello"})).await.expect(201);
}

#[tokio::test]
async fn an_id_of_others_is_treated_like_one_that_does_not_exist() {
    let stack = Stack::start().await;
    let (mine, theirs) =
        (conversation_about(&stack, &[1, 2], 1).await, conversation_about(&stack, &[3, 4], 1).await);
    let newer = conversation_about(&stack, &[1, 2], 2).await;
    let nothing = i64::MAX;
    for _ in 0..2 {
        for side in ["before", "after"] {
            let answer =
                async |cursor: i64| stack.get(&format!("/api/conversations?{side}={cursor}"), 1).await;
            assert_eq!(answer(theirs).await, answer(nothing).await, "{side}");
        }
        assert_eq!(ids(&stack.get(&format!("/api/conversations?before={newer}"), 1).await), [mine]);
        send_message(&stack, theirs, 3).await; // The conversation moves to the top, which has no effect on others.
    }
    // Ids of a message in another conversation and of a notification in another inbox.
    send_message(&stack, mine, 1).await;
    wait_for_unread(&stack, 4, 1, 2).await;
    let message =
        stack.get(&format!("/api/conversations/{theirs}/messages"), 3).await["items"][0]["message_id"]
            .clone();
    let notification = stack.get("/api/notifications", 4).await["items"][0]["notification_id"].clone();
    for (message, notification) in [(message, notification), (json!(nothing), json!(nothing))] {
        let read = json!({"message_id": message});
        let path = format!("/api/conversations/{mine}/read");
        stack.post(&path, 1, read).await.expect_problem(404, "not_found");
        let report = json!({"message_id": message, "reason": "spam"});
        stack.post("/api/reports", 1, report).await.expect_problem(404, "not_found");
        let path = format!("/api/notifications/{notification}/read");
        stack.post(&path, 1, json!({})).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_conversations_that_did_not_move() {
    let stack = Stack::start().await;
    let mut all = Vec::new();
    for listing in 1..=5 {
        all.push(conversation_about(&stack, &[1, 2], listing).await);
    }
    let page = async |cursor: &Value| {
        let before = if cursor.is_null() { String::new() } else { format!("&before={cursor}") };
        stack.get(&format!("/api/conversations?limit=2{before}"), 1).await
    };
    let first = page(&Value::Null).await;
    assert_eq!(ids(&first), [all[4], all[3]]);
    // The conversation at the cursor moves, and one below it.
    send_message(&stack, all[3], 2).await;
    send_message(&stack, all[1], 2).await;
    let second = page(&first["next"]).await;
    assert_eq!(ids(&second), [all[2], all[0]]);
    assert_eq!(second["next"], Value::Null);
    // `after` returns the conversations that have moved since.
    let moved = stack.get(&format!("/api/conversations?after={}", first["next"]), 1).await;
    assert_eq!(ids(&moved), [all[4], all[3], all[1]]);
}

#[tokio::test]
async fn a_blocked_user_cannot_open_a_conversation() {
    let stack = Stack::start().await;
    conversation_about(&stack, &[1, 2], 1).await;
    stack.call("PUT", "/api/blocks/1", 2, None).await.expect(204);
    for new in [
        json!({"participant_ids": [2], "listing_id": 2, "title": "you will be sorry"}),
        json!({"participant_ids": [2, 3], "title": "you, too"}),
        json!({"participant_ids": [2], "listing_id": 1}),
    ] {
        stack.post("/api/conversations", 1, new).await.expect_problem(403, "blocked");
    }
    assert_eq!(stack.get("/api/conversations", 2).await["items"].as_array().unwrap().len(), 1);
    // The user who blocks can, and after the block the other user can again.
    conversation_about(&stack, &[2, 1], 3).await;
    stack.call("DELETE", "/api/blocks/1", 2, None).await.expect(204);
    conversation_about(&stack, &[1, 2], 2).await;
}

#[tokio::test]
async fn new_conversations_have_a_rate_of_their_own() {
    let env = vec![("CONVERSATION_RATE", "1".to_owned()), ("CONVERSATION_BURST", "3".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    // All at once, because another one is allowed every second.
    let open = |listing: i64| {
        stack.post("/api/conversations", 1, json!({"participant_ids": [2], "listing_id": listing}))
    };
    let answers = join_all((1..=10).map(open)).await;
    let (opened, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert!(opened.len() >= 3 && !refused.is_empty(), "{} of 10 were refused", refused.len());
    refused.iter().for_each(|answer| answer.expect_problem(429, "rate_limited"));
    stack.get("/api/conversations", 1).await;
}

#[tokio::test]
async fn an_invisible_message_is_refused() {
    let stack = Stack::start().await;
    let id = conversation_about(&stack, &[1, 2], 1).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    for text in
        ["\u{200b}", "\u{feff}", "\u{2060}\u{200d}", "\u{2800}", "\u{3164}", "\u{ad}", "\u{180e}", "\u{85}"]
    {
        ada.say(text).await;
        assert_eq!(ada.next().await["code"], "invalid_message", "{text:?}");
        let path = format!("/api/conversations/{id}/messages");
        stack.post(&path, 1, json!({"message": text})).await.expect_problem(400, "invalid_message");
    }
    ada.say("👨\u{200d}👩\u{200d}👧").await;
    assert_eq!(ada.next().await["content"], "👨\u{200d}👩\u{200d}👧");
}

fn token_with_name(user: i64, name: &str, age: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    token_with(json!({"user_id": user, "username": name, "iat": now - age}))
}

async fn username_of(stack: &Stack, id: i64, user: i64) -> String {
    let conversation = stack.get(&format!("/api/conversations/{id}"), 2).await;
    let people = conversation["participants"].as_array().unwrap();
    let person = people.iter().find(|person| person["user_id"] == user).unwrap();
    person["username"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn invisible_characters_are_removed_from_names_and_titles() {
    let stack = Stack::start().await;
    let new = json!({"participant_ids": [2], "title": "x\u{202e}\ny"});
    let opened = stack.post("/api/conversations", 1, new).await.expect(201);
    assert_eq!(opened["title"], "x y");
    let id = opened["conversation_id"].as_i64().unwrap();
    let token = token_with_name(1, "An\u{200b}n\u{202e}", 0);
    let mut ann = Socket::open(&format!("ws://{}/ws/chat/{id}/?token={token}", stack.host(0))).await;
    ann.say("hello").await;
    assert_eq!(ann.next().await["sender_username"], "Ann");
    assert_eq!(username_of(&stack, id, 1).await, "Ann");
    wait_for_unread(&stack, 2, 1, 1).await;
    let shown = &stack.get("/api/notifications", 2).await["items"][0]["message"];
    assert!(shown.as_str().unwrap().starts_with("Ann "), "{shown}");
}

#[tokio::test]
async fn the_name_in_the_newest_token_wins() {
    let stack = Stack::start().await;
    let id = conversation_about(&stack, &[1, 2], 1).await;
    let open = async |token: String| {
        Socket::open(&format!("ws://{}/ws/chat/{id}/?token={token}", stack.host(0))).await
    };
    let mut old = open(token_with_name(1, "Ann", 60)).await;
    let mut new = open(token_with_name(1, "Anna", 0)).await;
    new.say("from the new token").await;
    assert_eq!(new.next().await["sender_username"], "Anna");
    assert_eq!(old.next().await["sender_username"], "Anna");
    old.say("from the old token").await;
    assert_eq!(old.next().await["sender_username"], "Anna");
    assert_eq!(username_of(&stack, id, 1).await, "Anna");
    open(token_with_name(1, "Ann", 60)).await;
    assert_eq!(username_of(&stack, id, 1).await, "Anna");
}

#[tokio::test]
async fn a_log_that_went_back_closes_its_sockets_and_restarts() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    let id = conversation_about(&stack, &[1, 2], 1).await;
    let path = format!("/ws/chat/{id}/");
    for _ in 0..3 {
        send_message(&stack, id, 1).await;
    }
    let mut ben = stack.socket(&format!("{path}?after=0"), 2).await;
    let mut last = 0;
    for seq in 1..=3 {
        let shown = ben.next_of("message").await;
        assert_eq!(shown["seq"], seq);
        last = shown["message_id"].as_i64().unwrap();
    }
    // Simulates a restore to the time before the last two messages.
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    for back in [
        format!("delete from chat.messages where conversation_id = {id} and seq > 1"),
        format!(
            "update chat.conversations set last_seq = 1, last_message_id = (
                 select message_id from chat.messages where conversation_id = {id}) where conversation_id = {id}"
        ),
        format!("update chat.participants set read_seq = least(read_seq, 1) where conversation_id = {id}"),
    ] {
        postgres.execute(sqlx::AssertSqlSafe(back)).await.unwrap();
    }
    // The gateway compares its channels with the services after every reconnection to NATS.
    stack.nats.kill().await;
    stack.nats.restart().await.unwrap();
    assert_eq!(ben.closed().await, Some(1012));
    stack.ready().await;
    let mut ben = stack.socket(&format!("{path}?after={last}"), 2).await;
    send_message(&stack, id, 1).await;
    assert_eq!(ben.next_of("message").await["seq"], 2);
    // A different history is detected without a comparison.
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let back = format!("update chat.conversations set last_seq = 0 where conversation_id = {id}");
    postgres.execute(sqlx::AssertSqlSafe(back)).await.unwrap();
    send_message(&stack, id, 1).await;
    assert_eq!(ben.closed().await, Some(1012));
    let is_counted = || async {
        let restarted = stack.metric(e2e::Kind::Gateway, 0, "gateway_logs_restarted_total").await;
        (restarted >= 2.0).then_some(())
    };
    eventually("the restarted logs to be counted", is_counted).await;
}
