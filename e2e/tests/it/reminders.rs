//! Reminders of what users have not read, from a message to the event for backends.

use crate::{events_out::Events, wait_for_unread};
use e2e::{Kind, Options, Stack, eventually};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// The shortest delays. A quick one and one that follows.
const STEPS: &str = "push:5s/7d:settle mail:8s/7d:every=1h";

async fn stack(notify: usize, steps: &str) -> Stack {
    let env = vec![("REMINDERS", steps.to_owned())];
    Stack::with(Options { counts: [1, 1, notify, 1], env, ..Options::one_of_each() }).await
}

async fn send(stack: &Stack, conversation: i64, sender: i64, text: &str) -> Value {
    let path = format!("/api/conversations/{conversation}/messages");
    stack.post(&path, sender, json!({"message": text})).await.expect(201)
}

async fn reminders(stack: &Stack) -> Events {
    Events::of(stack, "notify.reminder", "reminderForBackends").await
}

#[tokio::test]
async fn an_unread_message_causes_one_reminder_of_each_step_and_reading_it_settles_them() {
    // Long enough to read a message in time on a busy machine.
    let stack = stack(1, "push:20s/7d:settle mail:24s/7d:every=1h").await;
    let (unread, read) = (stack.conversation(&[1, 2]).await, stack.conversation(&[1, 3]).await);
    let in_time = send(&stack, read, 1, "read in time").await;
    let first = send(&stack, unread, 1, "the text is secret").await;
    wait_for_unread(&stack, 3, 1, 1).await;
    let body = json!({"message_id": in_time["message_id"]});
    stack.post(&format!("/api/conversations/{read}/read"), 3, body).await.expect(204);
    wait_for_unread(&stack, 2, 1, 1).await;
    let mut events = reminders(&stack).await;
    let push = events.next().await;
    let item = &push["items"][0];
    assert_eq!((&push["step"], &push["user_id"], &push["lang"]), (&json!("push"), &json!(2), &json!("fr")));
    assert_eq!((&push["present"], &push["more"]), (&json!(false), &json!(0)));
    assert_eq!(push["unread"], json!({"notifications": 1}));
    assert_eq!((&item["type"], &item["title"]), (&json!("message_received"), &json!("Nouveau message")));
    assert_eq!(item["data"]["message_id"], first["message_id"]);
    assert!(!push.to_string().contains("secret"), "{push}");
    let notification = &crate::unread(&stack, 2).await[0];
    assert_eq!(push["event_id"], format!("reminder-push-2-{}", notification["notification_id"]));

    // Later messages do not move the start, and cause no other reminder of the episode.
    send(&stack, unread, 1, "another").await;
    let mail = events.next().await;
    assert_eq!((&mail["step"], &mail["user_id"]), (&json!("mail"), &json!(2)));
    assert_eq!(mail["items"][0]["since"], item["since"]);

    wait_for_unread(&stack, 2, 1, 2).await;
    let last = send(&stack, unread, 1, "the last").await;
    stack
        .post(&format!("/api/conversations/{unread}/read"), 2, json!({"message_id": last["message_id"]}))
        .await
        .expect(204);
    let settled = Events::of(&stack, "notify.settled", "settledForBackends").await.next().await;
    assert_eq!(settled["reminders"], json!([push["event_id"]]), "only pushes are settled");
    assert_eq!((&settled["user_id"], &settled["conversation_id"]), (&json!(2), &json!(unread)));
    // A third user's reminder comes after whatever would have come before.
    let other = stack.conversation(&[1, 4]).await;
    send(&stack, other, 1, "hello").await;
    assert_eq!(events.next().await["user_id"], 4, "no second push");
}

/// Law F1: preferences are read when the reminder is issued, not when the wait starts.
#[tokio::test]
async fn an_opt_out_during_the_wait_counts() {
    // Long enough to set the preferences in time on a busy machine.
    let stack = stack(1, "push:20s/7d mail:20s/7d").await;
    let conversation = stack.conversation(&[1, 2, 3]).await;
    send(&stack, conversation, 1, "hello").await;
    wait_for_unread(&stack, 2, 1, 1).await;
    let off = json!({"user_id": 2, "types": {"message_received": {"mail": false}}});
    let set = stack.request("notify.preferences.set", &off).await.unwrap();
    assert_eq!(set["types"], off["types"], "{set}");
    let mut events = reminders(&stack).await;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let event = events.next().await;
        seen.insert((event["user_id"].as_i64().unwrap(), event["step"].as_str().unwrap().to_owned()));
    }
    let expected = [(2, "push"), (3, "mail"), (3, "push")].map(|(user, step)| (user, step.to_owned()));
    assert_eq!(seen, BTreeSet::from(expected));
}

/// A time of an event, in seconds since 1970.
async fn seconds(stack: &Stack, time: &Value) -> f64 {
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    let seconds = sqlx::query_scalar("select extract(epoch from $1::text::timestamptz)::float8");
    seconds.bind(time.as_str().unwrap()).fetch_one(&mut database).await.unwrap()
}

/// Reads events until this reminder is among them, and returns it. There is at most one of each user and step.
async fn until(
    events: &mut Events,
    told: &mut BTreeMap<(i64, String), Value>,
    user: i64,
    step: &str,
) -> Value {
    loop {
        if let Some(event) = told.get(&(user, step.to_owned())) {
            return event.clone();
        }
        let event = events.next().await;
        let key = (event["user_id"].as_i64().unwrap(), event["step"].as_str().unwrap().to_owned());
        assert!(told.insert(key, event.clone()).is_none(), "a second reminder: {event}");
    }
}

/// Law R5 with real sockets: a user with a visible page is reminded when the page is closed, or at the present delay.
#[tokio::test]
async fn a_user_who_leaves_is_reminded_then_and_one_who_stays_at_the_present_delay() {
    let stack = stack(1, "push:5s/7d late:5s/25s").await;
    let (leaver, stayer, hidden, absent, hider) = (2, 3, 4, 5, 6);
    // Who hides is present, but no event says so.
    stack.call("PUT", "/api/me/presence", hider, Some(json!({"shown": false}))).await.expect(204);
    let _hides = stack.socket("/ws/", hider).await;
    let leaving = stack.socket("/ws/", leaver).await;
    let _stays = stack.socket("/ws/", stayer).await;
    let mut in_background = stack.socket("/ws/", hidden).await;
    in_background.send(json!({"op": "visible", "visible": false, "ref": 1})).await;
    assert_eq!(in_background.next().await, json!({"op": "ok", "ref": 1}));
    let users = json!({"user_ids": [leaver, stayer, hidden]});
    eventually("notify-service to know who is present", async || {
        let reply = stack.request("presence.who", &users).await.ok()?;
        let online = reply["items"].as_array()?.iter().map(|item| item["online"] == true);
        online.eq([true, true, false]).then_some(())
    })
    .await;
    for user in [leaver, stayer, hidden, absent, hider] {
        let conversation = stack.conversation(&[1, user]).await;
        send(&stack, conversation, 1, "hello").await;
        wait_for_unread(&stack, user, 1, 1).await;
    }

    let (mut events, mut told) = (reminders(&stack).await, BTreeMap::new());
    for user in [hidden, absent] {
        assert_eq!(until(&mut events, &mut told, user, "push").await["present"], false);
    }
    // The away delay of everybody is over.
    let is_told = |told: &BTreeMap<(i64, String), Value>, user| told.contains_key(&(user, "push".to_owned()));
    for user in [leaver, hider] {
        assert!(!is_told(&told, user), "a user who is present was reminded at the away delay");
    }
    let left_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    leaving.close().await;
    let push = until(&mut events, &mut told, leaver, "push").await;
    assert_eq!(push["present"], false);
    let told_after = seconds(&stack, &push["occurred_at"]).await - left_at;
    assert!(told_after >= 10.0, "a page may be reloaded for 10 s: {told_after} s");

    assert_eq!(until(&mut events, &mut told, hider, "late").await["present"], false);
    let late = until(&mut events, &mut told, stayer, "late").await;
    assert_eq!(late["present"], true);
    let since = &late["items"][0]["since"];
    let delay = seconds(&stack, &late["occurred_at"]).await - seconds(&stack, since).await;
    assert!(delay >= 25.0, "{delay} s");
    assert!(!is_told(&told, stayer), "a user who is present was reminded at the away delay");
}

/// Law R6: the way of a mute from the conversation to the reminder.
#[tokio::test]
async fn a_muted_conversation_causes_no_reminder_and_the_next_episode_after_the_mute_does() {
    let stack = stack(1, "push:5s/7d").await;
    let (muted, loud) = (stack.conversation(&[1, 2]).await, stack.conversation(&[1, 3]).await);
    let mute = async |until: Value| {
        let path = format!("/api/conversations/{muted}/mine");
        stack.call("PUT", &path, 2, Some(json!({"muted_until": until}))).await.expect(204);
    };
    mute(json!("forever")).await;
    let first = send(&stack, muted, 1, "hello").await;
    wait_for_unread(&stack, 2, 1, 1).await;
    assert_eq!(crate::unread(&stack, 2).await[0]["data"]["muted"], true);
    // What is sent later is due later.
    send(&stack, loud, 1, "hello").await;
    let mut events = reminders(&stack).await;
    assert_eq!(events.next().await["user_id"], 3);

    let read = json!({"message_id": first["message_id"]});
    stack.post(&format!("/api/conversations/{muted}/read"), 2, read).await.expect(204);
    mute(Value::Null).await;
    let second = send(&stack, muted, 1, "hello again").await;
    let event = events.next().await;
    assert_eq!(event["user_id"], 2);
    let data = json!({"conversation_id": muted, "message_id": second["message_id"], "count": 1});
    assert_eq!(event["items"][0]["data"], data);
}

/// A number from the environment, or a small one for every run of the tests.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Laws R1 to R4, whatever is killed. The run of `CONTRIBUTING.md` takes minutes and has thousands of users.
#[tokio::test]
async fn three_replicas_that_are_killed_remind_each_user_once() {
    let (seconds, users) = (number("REMINDER_SECONDS", 9), number("REMINDER_USERS", 60) as i64);
    let mut stack = stack(3, STEPS).await;
    let start = Instant::now();
    let killing = Duration::from_secs(seconds);
    // Users get their message during the whole time; a third of them reads it at some time.
    let (mut sent, mut killed) = (0, 0);
    let mut reads = Vec::new();
    while start.elapsed() < killing || sent < users {
        let due = if start.elapsed() >= killing {
            users
        } else {
            (users as f64 * start.elapsed().as_secs_f64() / killing.as_secs_f64()).ceil() as i64
        };
        let next: Vec<i64> = (sent..due.min(users)).map(|user| user + 100).collect();
        sent = due.min(users);
        let messages: Vec<(i64, Value)> = stream::iter(next)
            .map(|user| {
                let stack = &stack;
                async move {
                    // Each from another sender, because clients have limits.
                    let sender = user + 1_000_000;
                    let conversation = stack.conversation(&[sender, user]).await;
                    (user, send(stack, conversation, sender, "hello").await)
                }
            })
            .buffer_unordered(16)
            .collect()
            .await;
        reads.extend(messages.into_iter().filter(|(user, _)| user % 3 == 0));
        if reads.len() > 20 || sent == users {
            for (user, message) in reads.drain(..) {
                let path = format!("/api/conversations/{}/read", message["conversation_id"]);
                stack.post(&path, user, json!({"message_id": message["message_id"]})).await.expect(204);
            }
        }
        let replica = killed % 3;
        stack.kill(Kind::Notify, replica).await;
        stack.restart(Kind::Notify, replica);
        killed += 1;
        let next = start + Duration::from_secs(killed as u64);
        tokio::time::sleep_until(next.max(Instant::now())).await;
    }
    let mut events = reminders(&stack).await;
    let expected = (100..100 + users).filter(|user| user % 3 != 0).count();
    let mut told: BTreeMap<(i64, String), Value> = BTreeMap::new();
    let unread =
        |told: &BTreeMap<(i64, String), Value>| told.keys().filter(|(user, _)| user % 3 != 0).count();
    // Further reminders would come before those of a user whose message is the last one.
    let (mut has_last, last) = (false, 99);
    while unread(&told) < 2 * expected || told.keys().filter(|(user, _)| *user == last).count() < 2 {
        if !has_last && unread(&told) == 2 * expected {
            has_last = true;
            let conversation = stack.conversation(&[1, last]).await;
            send(&stack, conversation, 1, "the last one").await;
        }
        let event = events.next().await;
        let key = (event["user_id"].as_i64().unwrap(), event["step"].as_str().unwrap().to_owned());
        let before = told.insert(key.clone(), event.clone());
        assert!(before.is_none_or(|before| before == event), "{key:?} has two reminders: {event}");
    }
    // What was read was not read when it was reminded of, and the delay was over.
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    for ((user, step), event) in &told {
        let delay = if step == "push" { 5.0 } else { 8.0 };
        let (on_time, was_unread): (bool, bool) = sqlx::query_as(
            "select $2::text::timestamptz >= since + make_interval(secs => $3),
                coalesce(read_at > $2::text::timestamptz, true)
            from notify.notifications where user_id = $1 order by notification_id limit 1",
        )
        .bind(user)
        .bind(event["occurred_at"].as_str().unwrap())
        .bind(delay)
        .fetch_one(&mut database)
        .await
        .unwrap();
        assert!(on_time && was_unread, "{event}");
    }
    println!("{users} users, {killed} kills: {} reminders", told.len());
}
