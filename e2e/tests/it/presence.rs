//! Presence: who sees whom, and that it is right again after failures.

use crate::{
    crowds::with,
    events_out::Events,
    raw::{self, FIN, TEXT},
    wait_for_unread,
};
use contract::presence::LEASE;
use e2e::{Answer, Flow, Kind, Options, Socket, Stack, documented, documented::Sender, eventually, within};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::Signal;
use tokio::io::AsyncWriteExt;

const ADA: i64 = 1;
const BEN: i64 = 2;
const EVE: i64 = 3;

fn path(conversation: i64) -> String {
    format!("/ws/presence/{conversation}/")
}

/// The next frames of a presence channel until one is about this user with this state.
async fn until(socket: &mut Socket, user: i64, online: bool) -> Value {
    loop {
        let frame = socket.next().await;
        assert_eq!(frame["type"], "presence", "{frame}");
        if frame["user_id"] == user && frame["online"] == online {
            return frame;
        }
    }
}

async fn show(stack: &Stack, user: i64, shown: bool) -> Answer {
    stack.call("PUT", "/api/me/presence", user, Some(json!({"shown": shown}))).await
}

/// The text of a user's answer about these users.
async fn presence(stack: &Stack, user: i64, of: &str) -> String {
    stack.get(&format!("/api/presence?user_ids={of}"), user).await.to_string()
}

/// Waits until a user sees this.
async fn sees(stack: &Stack, user: i64, of: &str, expected: &Value) {
    let expected = expected.to_string();
    eventually("the presence", async || (presence(stack, user, of).await == expected).then_some(())).await;
}

fn online(user: i64) -> Value {
    json!({"items": [{"user_id": user, "online": true}]})
}

fn offline(user: i64) -> Value {
    json!({"items": [{"user_id": user, "online": false}]})
}

#[tokio::test]
async fn a_channel_shows_the_others_and_each_change_and_a_rejoin_the_complete_state() {
    let stack = Stack::with(Options { counts: [2, 1, 2, 2], ..Options::default() }).await;
    let id = stack.conversation(&[ADA, BEN, EVE]).await;
    let mut ada = stack.socket_at(0, &path(id), ADA).await;
    for user in [BEN, EVE] {
        let expected = json!({"type": "presence", "conversation_id": id, "user_id": user, "online": false});
        assert_eq!(ada.next().await, expected);
    }
    // Any socket makes its user present, on any gateway.
    let ben = stack.socket_at(1, &format!("/ws/chat/{id}/"), BEN).await;
    let frame = ada.next().await;
    assert_eq!(frame, json!({"type": "presence", "conversation_id": id, "user_id": BEN, "online": true}));

    let mut several = stack.socket_at(1, "/ws/", EVE).await;
    assert_eq!(ada.next().await["user_id"], EVE);
    let channel = format!("presence/{id}");
    for reference in [1, 2] {
        several.send(json!({"op": "subscribe", "channel": channel, "ref": reference})).await;
        assert_eq!(several.next().await, json!({"op": "ok", "ref": reference}));
        for user in [ADA, BEN] {
            let data = json!({"type": "presence", "conversation_id": id, "user_id": user, "online": true});
            assert_eq!(several.next().await, json!({"op": "event", "channel": channel, "data": data}));
        }
        several.send(json!({"op": "unsubscribe", "channel": channel, "ref": "u"})).await;
        assert_eq!(several.next().await["ref"], "u");
    }

    // A reload is not an absence, also once the time has passed after which one is published.
    let closed = Instant::now();
    ben.close().await;
    let ben = stack.socket_at(1, &format!("/ws/chat/{id}/"), BEN).await;
    let quiet = Duration::from_secs(11).saturating_sub(closed.elapsed());
    assert!(tokio::time::timeout(quiet, ada.next()).await.is_err(), "the reload was an absence");
    let left = Instant::now();
    ben.close().await;
    let frame = ada.next().await;
    assert_eq!((&frame["user_id"], &frame["online"]), (&json!(BEN), &json!(false)));
    assert!(left.elapsed() >= Duration::from_secs(10), "{:?}", left.elapsed());
    let seen = frame["last_seen"].as_str().unwrap();
    assert!(seen.ends_with(":00.000000Z") && (&seen[15..16] == "0" || &seen[15..16] == "5"), "{seen}");
    let stored = json!({"items": [{"user_id": BEN, "online": false, "last_seen": seen}]});
    sees(&stack, ADA, "2", &stored).await;
    let reply = stack.request("presence.who", &json!({"user_ids": [BEN, ADA]})).await.unwrap();
    documented::check("presenceForBackendsReply", Sender::Server, &reply).unwrap();
    assert_eq!(reply["items"], json!([stored["items"][0], {"user_id": ADA, "online": true}]));
    ada.expect_silence().await;
}

#[tokio::test]
async fn a_hidden_page_is_an_absence_and_a_visible_one_a_presence() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[ADA, BEN]).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    assert_eq!(ada.next().await["online"], false);
    let mut ben = stack.socket(&format!("/ws/chat/{id}/"), BEN).await;
    assert_eq!(ada.next().await["online"], true);
    ben.send(json!({"type": "visible", "visible": false})).await;
    assert_eq!(ada.next().await["online"], false);
    ben.send(json!({"type": "visible", "visible": true})).await;
    assert_eq!(ada.next().await["online"], true);
    let mut several = stack.socket("/ws/", BEN).await;
    several.send(json!({"op": "visible", "visible": false, "ref": 1})).await;
    assert_eq!(several.next().await, json!({"op": "ok", "ref": 1}));
    several.send(json!({"op": "visible", "ref": 2})).await;
    assert_eq!(several.next().await["code"], "invalid_message");
    ada.expect_silence().await;
}

/// A tab that is hidden when it reconnects says so in its first frame.
#[tokio::test]
async fn a_hidden_page_that_reconnects_is_no_presence() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[ADA, BEN, EVE]).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    for _ in [BEN, EVE] {
        assert_eq!(ada.next().await["online"], false);
    }
    // The first frame is sent with the handshake, so that it cannot come too late.
    let visible = |visible: bool, reference: i64| {
        let frame = json!({"op": "visible", "visible": visible, "ref": reference});
        raw::frame(FIN | TEXT, frame.to_string().as_bytes())
    };
    let handshake = raw::handshake(&stack, "/ws/", BEN);
    let mut hidden = raw::connect(&stack, None).await;
    hidden.write_all(&[handshake.as_bytes(), &visible(false, 1)].concat()).await.unwrap();
    raw::head(&mut hidden).await;
    for expected in ["hello", "ok"] {
        let (_, payload) = raw::next(&mut hidden).await.unwrap();
        let frame: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(frame["op"], expected, "{frame}");
    }
    let _silent = stack.socket("/ws/", EVE).await;
    assert_eq!(ada.next().await["user_id"], EVE, "a socket without a frame counts as visible after a second");
    hidden.write_all(&visible(true, 2)).await.unwrap();
    assert_eq!(ada.next().await["user_id"], BEN);
}

/// P1–P3: whoever hides, blocks, is blocked, or was never seen looks the same, byte for byte, and strangers are left
/// out.
#[tokio::test]
async fn a_user_who_hides_or_blocks_looks_like_one_who_was_never_seen() {
    let stack = Stack::start().await;
    let never = 4;
    let id = stack.conversation(&[ADA, BEN]).await;
    stack.conversation(&[ADA, never]).await;
    let _ben = stack.socket("/ws/", BEN).await;
    let _eve = stack.socket("/ws/", EVE).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    until(&mut ada, BEN, true).await;
    sees(&stack, ADA, "2,3,1,99", &online(BEN)).await;
    let unknown = presence(&stack, ADA, "4").await.replace("\"user_id\":4", "\"user_id\":2");
    assert_eq!(unknown, offline(BEN).to_string());
    let frame = json!({"type": "presence", "conversation_id": id, "user_id": BEN, "online": false});

    let block = async |method: &str, by: i64, of: i64| {
        stack.call(method, &format!("/api/blocks/{of}"), by, None).await.expect(204);
    };
    for case in ["hides", "blocks", "is blocked", "the asker hides"] {
        let set = async |on: bool| match case {
            "hides" => _ = show(&stack, BEN, !on).await.expect(204),
            "blocks" => block(if on { "PUT" } else { "DELETE" }, BEN, ADA).await,
            "is blocked" => block(if on { "PUT" } else { "DELETE" }, ADA, BEN).await,
            _ => _ = show(&stack, ADA, !on).await.expect(204),
        };
        set(true).await;
        assert_eq!(ada.next().await, frame, "{case}");
        assert_eq!(presence(&stack, ADA, "2").await, unknown, "{case}");
        let mut again = stack.socket(&path(id), ADA).await;
        assert_eq!(again.next().await, frame, "{case}");
        again.expect_silence().await;
        set(false).await;
        assert_eq!(ada.next().await["online"], true, "{case}");
        assert_eq!(again.next().await["online"], true, "{case}");
    }
    show(&stack, BEN, false).await.expect(204);
    assert_eq!(stack.get("/api/me/presence", BEN).await, json!({"shown": false}));
    let reply = stack.request("presence.who", &json!({"user_ids": [BEN]})).await.unwrap();
    assert_eq!(reply, json!({"items": [{"user_id": BEN, "hidden": true}]}));
    // P5: the stored time is removed.
    let database = sqlx::PgPool::connect(&stack.database.url()).await.unwrap();
    let seen: bool = sqlx::query_scalar("select seen_at is not null from notify.inboxes where user_id = 2")
        .fetch_one(&database)
        .await
        .unwrap();
    assert!(!seen);
    let export = stack.request("users.export", &json!({"user_id": BEN})).await.unwrap();
    documented::check("exportUserReply", Sender::Server, &export).unwrap();
    assert!(export["items"].as_array().unwrap().contains(&json!({"presence": {"shown": false}})), "{export}");
}

#[tokio::test]
async fn limits_and_strangers_are_refused() {
    let env = vec![("PRESENCE_PEOPLE", "2".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let of_three = stack.conversation(&[ADA, BEN, EVE]).await;
    let of_two = stack.conversation(&[ADA, BEN]).await;
    assert_eq!(stack.socket(&path(of_three), ADA).await.closed().await, Some(4400));
    assert_eq!(stack.socket(&path(of_two), EVE).await.closed().await, Some(4403));
    let mut several = stack.socket("/ws/", ADA).await;
    several.send(json!({"op": "subscribe", "channel": format!("presence/{of_three}"), "ref": 1})).await;
    assert_eq!(several.next().await["code"], "invalid_request");
    several
        .send(json!({"op": "subscribe", "channel": format!("presence/{}", of_two + 1000), "ref": 2}))
        .await;
    assert_eq!(several.next().await["code"], "forbidden");
    for query in
        ["", "?user_ids=", "?user_ids=x", "?user_ids=1,,2", &format!("?user_ids=1{}", ",1".repeat(100))]
    {
        let answer = stack.call("GET", &format!("/api/presence{query}"), ADA, None).await;
        answer.expect_problem(400, "invalid_request");
    }
    assert_eq!(presence(&stack, ADA, "99").await, json!({"items": []}).to_string());
    for _ in 0..10 {
        show(&stack, ADA, true).await.expect(204);
    }
    show(&stack, ADA, true).await.expect_problem(429, "rate_limited");
    let too_many = json!({"user_ids": (1..=1001).collect::<Vec<_>>()});
    let error = stack.request("presence.who", &too_many).await.unwrap_err();
    assert!(error.starts_with("invalid_request: "), "{error}");
}

#[tokio::test]
async fn an_operator_can_switch_presence_off_or_hide_it_by_default() {
    let env = vec![("PRESENCE", "off".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let id = stack.conversation(&[ADA, BEN]).await;
    assert_eq!(stack.socket(&path(id), ADA).await.closed().await, Some(4400));
    for (method, path) in [("GET", "/api/presence?user_ids=2"), ("GET", "/api/me/presence")] {
        stack.call(method, path, ADA, None).await.expect_problem(400, "invalid_request");
    }
    show(&stack, ADA, false).await.expect_problem(400, "invalid_request");
    drop(stack);

    let env = vec![("PRESENCE_DEFAULT", "hidden".to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    stack.conversation(&[ADA, BEN]).await;
    let _ben = stack.socket("/ws/", BEN).await;
    assert_eq!(stack.get("/api/me/presence", BEN).await, json!({"shown": false}));
    show(&stack, ADA, true).await.expect(204);
    // Until then, user 2 seems to be offline anyway.
    eventually("user 2", async || {
        (stack.metric(Kind::Notify, 0, "presence_users").await == 1.0).then_some(())
    })
    .await;
    sees(&stack, ADA, "2", &offline(BEN)).await;
    show(&stack, BEN, true).await.expect(204);
    sees(&stack, ADA, "2", &online(BEN)).await;
}

/// P4. The client of user 2 can't reconnect.
#[tokio::test]
async fn the_users_of_a_killed_gateway_lapse_within_15_seconds() {
    let mut stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let id = stack.conversation(&[ADA, BEN, EVE]).await;
    let mut ada = stack.socket_at(0, &path(id), ADA).await;
    let (_ben, _eve) = (stack.socket_at(1, "/ws/", BEN).await, stack.socket_at(1, "/ws/", EVE).await);
    let _stays = stack.socket_at(0, "/ws/", EVE).await;
    until(&mut ada, BEN, true).await;
    sees(&stack, ADA, "3", &online(EVE)).await;
    stack.kill(Kind::Gateway, 1).await;
    let killed = Instant::now();
    until(&mut ada, BEN, false).await;
    // A lease of 15 s, and some time for a busy machine.
    assert!(killed.elapsed() < Duration::from_secs(25), "{:?}", killed.elapsed());
    assert_eq!(presence(&stack, ADA, "3").await, online(EVE).to_string(), "also at the other gateway");
    // A service that starts anew asks the gateways.
    stack.kill(Kind::Typing, 0).await;
    stack.kill(Kind::Notify, 0).await;
    stack.restart(Kind::Typing, 0);
    stack.restart(Kind::Notify, 0);
    stack.ready().await;
    sees(&stack, ADA, "3", &online(EVE)).await;
    let _ben = stack.socket_at(0, "/ws/", BEN).await;
    until(&mut ada, BEN, true).await;
}

/// P4, and law R5 of reminders: a service that was suspended takes nobody for absent.
#[tokio::test]
async fn a_service_that_was_suspended_ends_no_lease() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[ADA, BEN]).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    let ben = stack.socket("/ws/", BEN).await;
    until(&mut ada, BEN, true).await;
    sees(&stack, ADA, "2", &online(BEN)).await;
    for kind in [Kind::Typing, Kind::Notify] {
        stack.signal(kind, 0, Signal::Stop);
    }
    // Longer than a lease.
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    for kind in [Kind::Typing, Kind::Notify] {
        stack.signal(kind, 0, Signal::Cont);
        let paused = async || (stack.metric(kind, 0, "presence_pauses_total").await >= 1.0).then_some(());
        eventually("the service to notice", paused).await;
        assert_eq!(stack.metric(kind, 0, "presence_lapses_total").await, 0.0, "{kind:?}");
    }
    sees(&stack, ADA, "2", &online(BEN)).await;
    ben.close().await;
    until(&mut ada, BEN, false).await;
}

/// Users who come and leave while a service is cut off from NATS are known once it is back.
#[tokio::test]
async fn after_a_cut_services_ask_for_what_they_missed() {
    let options = Options { proxied: true, ..Options::one_of_each() };
    let stack = Stack::with(options).await;
    let id = stack.conversation(&[ADA, BEN, EVE]).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    let ben = stack.socket("/ws/", BEN).await;
    until(&mut ada, BEN, true).await;
    for kind in [Kind::Typing, Kind::Notify] {
        let links = stack.links_of(kind, 0);
        links.nats.iter().for_each(|link| link.set(Flow::Refuse));
        links.nats.iter().for_each(e2e::Proxy::reset);
    }
    ben.close().await;
    let _eve = stack.socket("/ws/", EVE).await;
    // Until the gateway has published that user 2 left.
    let batches = "gateway_presence_batches_total";
    let before = stack.metric(Kind::Gateway, 0, batches).await;
    eventually("a batch", async || (stack.metric(Kind::Gateway, 0, batches).await > before).then_some(()))
        .await;
    for kind in [Kind::Typing, Kind::Notify] {
        stack.links_of(kind, 0).nats.iter().for_each(|link| link.set(Flow::Pass));
    }
    within("both changes", async {
        let mut left = vec![(BEN, false), (EVE, true)];
        while !left.is_empty() {
            let frame = ada.next().await;
            left.retain(|(user, online)| frame["user_id"] != *user || frame["online"] != *online);
        }
    })
    .await;
    let snapshots = "presence_snapshots_total{outcome=\"done\"}";
    for kind in [Kind::Typing, Kind::Notify] {
        let is_asked = async || (stack.metric(kind, 0, snapshots).await >= 1.0).then_some(());
        eventually("a snapshot", is_asked).await;
    }
    sees(&stack, ADA, "3", &online(EVE)).await;
}

/// The next frames of a presence channel, which are all about this user with this state.
async fn only(socket: &mut Socket, user: i64, online: bool) {
    let frame = socket.next().await;
    assert_eq!((&frame["user_id"], &frame["online"]), (&json!(user), &json!(online)), "{frame}");
    socket.expect_silence().await;
}

/// Users who all come at once, and leave at once. Each of ten sockets watches one of them.
async fn crowd(users: i64) {
    let mut options = with(&[
        ("HANDSHAKE_RATE", "100000"),
        ("HANDSHAKE_BURST", "100000"),
        ("IDLE_SECONDS", "3600"), // Sockets of the crowd do not answer pings.
    ]);
    options.counts = [1, 1, 2, 2];
    let stack = Stack::with(options).await;
    let (first, mut watchers) = (100, Vec::new());
    for watcher in 1..=10 {
        let watched = first + watcher * users / 11;
        let id = stack.conversation(&[watcher, watched]).await;
        let mut socket = stack.socket(&path(id), watcher).await;
        assert_eq!(socket.next().await["online"], false);
        watchers.push((socket, watched));
    }
    let published = async || {
        let of = |replica| stack.metric(Kind::Typing, replica, "presence_published_total");
        of(0).await + of(1).await
    };
    let [batches, present] = ["gateway_presence_batches_total", "presence_users"];
    let all = |users: i64| users as f64 + 10.0;
    eventually("the watchers", async || stack.metric(Kind::Notify, 0, present).await == all(0)).await;
    let (began, batches_before, news_before) =
        (Instant::now(), stack.metric(Kind::Gateway, 0, batches).await, published().await);
    let opening = stream::iter(first..first + users).map(|user| raw::open(&stack, "/ws/", user, None));
    let sockets: Vec<_> = opening.buffer_unordered(100).collect().await;
    let opened = began.elapsed();
    for replica in [0, 1] {
        eventually("everybody", async || stack.metric(Kind::Notify, replica, present).await == all(users))
            .await;
    }
    for (socket, watched) in &mut watchers {
        only(socket, *watched, true).await;
    }
    let took = began.elapsed();
    let sent = stack.metric(Kind::Gateway, 0, batches).await - batches_before;
    println!(
        "{users} users came within {opened:?} and were known after {took:?}: one frame for each of {} watchers, {sent} \
         batches of the gateway, {} events of two replicas of typing-service",
        watchers.len(),
        published().await - news_before
    );
    // On a slow machine, users come one after another, and each may be in a batch of its own.
    let most = took.as_secs_f64() / 0.025 + 2.0;
    if most > all(users) {
        println!("skipped the number of batches: the machine is too slow");
    } else {
        assert!(sent < most, "{sent} batches of at most {most}");
    }
    drop(sockets);
    for (socket, watched) in &mut watchers {
        only(socket, *watched, false).await;
    }
    for replica in [0, 1] {
        eventually("nobody", async || stack.metric(Kind::Notify, replica, present).await == all(0)).await;
    }
    for (socket, _) in &mut watchers {
        socket.expect_silence().await;
    }
}

/// However many users come at once, a socket receives one frame about each that it watches, and nothing else.
#[tokio::test]
async fn users_who_come_at_once_cost_one_frame_for_each_watcher() {
    crowd(198).await;
}

#[tokio::test]
#[ignore = "opens 10,000 sockets, so `ulimit -n` must allow more"]
async fn ten_thousand_users_who_come_at_once_cost_one_frame_for_each_watcher() {
    crowd(10_000).await;
}

/// The users among these who are present according to notify-service, once it answers.
async fn who(stack: &Stack, users: &[i64]) -> Vec<i64> {
    let (backend, body) = (stack.backend().await, json!({"user_ids": users}).to_string());
    eventually("an answer about presence", async || {
        let reply = backend.request("presence.who", body.clone().into()).await.ok()?;
        let reply: Value = serde_json::from_slice(&reply.payload).ok()?;
        let items = reply["items"].as_array()?.iter().filter(|item| item["online"] == true);
        Some(items.map(|item| item["user_id"].as_i64().unwrap()).collect())
    })
    .await
}

/// P4 and P6 when NATS is silent for four times the length of a lease, towards the services that follow presence and,
/// with `whole`, towards the gateway, too. Users who stay neither seem to leave nor are reminded as if they had left.
async fn a_long_cut(whole: bool) {
    let (dan, fay, gil) = (4, 5, 6);
    // The sockets of this test answer no pings during the cut.
    let env = vec![("REMINDERS", "push:5s/7d".to_owned()), ("IDLE_SECONDS", "3600".to_owned())];
    let stack = Stack::with(Options { proxied: true, env, ..Options::one_of_each() }).await;
    let id = stack.conversation(&[ADA, BEN, EVE, dan]).await;
    let mut ada = stack.socket(&path(id), ADA).await;
    for _ in 0..3 {
        assert_eq!(ada.next().await["online"], false);
    }
    let ben = stack.socket("/ws/", BEN).await;
    only(&mut ada, BEN, true).await;
    let _dan = stack.socket("/ws/", dan).await;
    only(&mut ada, dan, true).await;
    assert_eq!(who(&stack, &[BEN, EVE, dan, fay]).await, [BEN, dan]);
    // One of two users with an unread message is present.
    let remind = async |user: i64| {
        let id = stack.conversation(&[EVE, user]).await;
        let path = format!("/api/conversations/{id}/messages");
        stack.post(&path, EVE, json!({"message": "hello"})).await.expect(201);
        wait_for_unread(&stack, user, 1, 1).await;
    };
    remind(dan).await;
    remind(fay).await;
    let cut = [Kind::Typing, Kind::Notify, Kind::Gateway];
    let links = || cut[..2 + usize::from(whole)].iter().flat_map(|kind| &stack.links_of(*kind, 0).nats);
    links().for_each(|link| link.set(Flow::Stall));
    ben.close().await;
    let _eve = stack.socket("/ws/", EVE).await;
    // The cut itself is what takes time.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let snapshots = "presence_snapshots_total{outcome=\"done\"}";
    let asked = async |kind| stack.metric(kind, 0, snapshots).await;
    let before = (asked(Kind::Typing).await, asked(Kind::Notify).await);
    let healed = Instant::now();
    links().for_each(|link| link.set(Flow::Pass));
    within("both changes", async {
        let mut left = vec![(BEN, false), (EVE, true)];
        while !left.is_empty() {
            let frame = ada.next().await;
            let known = left
                .iter()
                .position(|(user, online)| frame["user_id"] == *user && frame["online"] == *online);
            left.remove(known.unwrap_or_else(|| panic!("{frame} in place of one of {left:?}")));
        }
    })
    .await;
    println!("right again {:?} after the cut (whole: {whole})", healed.elapsed());
    assert_eq!(who(&stack, &[BEN, EVE, dan, fay]).await, [EVE, dan]);
    sees(&stack, ADA, "4", &online(dan)).await;
    for (kind, before) in [(Kind::Typing, before.0), (Kind::Notify, before.1)] {
        eventually("a snapshot", async || asked(kind).await > before).await;
    }
    for kind in [Kind::Typing, Kind::Notify] {
        assert_eq!(stack.metric(kind, 0, "presence_lapses_total").await, 0.0, "{kind:?}");
    }
    // Later reminders come after whatever would have come before.
    remind(gil).await;
    let mut events = Events::of(&stack, "notify.reminder", "reminderForBackends").await;
    for user in [fay, gil] {
        let event = events.next().await;
        assert_eq!((&event["user_id"], &event["present"]), (&json!(user), &json!(false)), "{event}");
    }
    ada.expect_silence().await;
}

#[tokio::test]
#[ignore = "takes over a minute"]
async fn after_a_minute_without_nats_presence_is_right_again_and_nobody_seems_to_have_left() {
    tokio::join!(a_long_cut(false), a_long_cut(true));
}

#[tokio::test]
#[ignore = "takes over a minute"]
async fn a_backend_is_told_a_minute_after_a_user_came() {
    let env = vec![("TELL", "presence".to_owned())];
    let stack = Stack::with(Options { env, ..Options::one_of_each() }).await;
    let came = Instant::now();
    let _ben = stack.socket("/ws/", BEN).await;
    let hidden = stack.socket("/ws/", EVE).await;
    show(&stack, EVE, false).await.expect(204);
    let mut events = Events::of(&stack, "presence.changed", "presenceChanged").await;
    let event = tokio::time::timeout(Duration::from_secs(90), events.wait()).await.unwrap();
    assert!(came.elapsed() > Duration::from_secs(59), "{:?}", came.elapsed());
    assert_eq!((&event["user_id"], &event["online"]), (&json!(BEN), &json!(true)));
    drop(hidden);
}

#[tokio::test]
async fn old_pages_receive_nothing_new() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[ADA, BEN]).await;
    let mut pages = Vec::new();
    for page in [format!("/ws/chat/{id}/"), "/ws/notifications/".to_owned(), format!("/ws/typing/{id}/")] {
        pages.push(stack.socket(&page, ADA).await);
    }
    // An old page makes its user present.
    let mut ben = stack.socket(&path(id), BEN).await;
    until(&mut ben, ADA, true).await;
    show(&stack, ADA, false).await.expect(204);
    assert_eq!(ben.next().await["online"], false);
    for page in &mut pages {
        page.expect_silence().await;
    }
}
