//! A request that was reported as failed is not executed later. A locked conversation delays no other.

use e2e::{Answer, Kind, Options, Stack, eventually, within};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use std::time::{Duration, Instant};
use testkit::Signal;

/// Waits until chat-service has dropped `count` late requests on a subject.
async fn wait_for_dropped(stack: &Stack, subject: &str, count: f64) {
    let metric = format!("nats_requests_late_total{{subject=\"{subject}\"}}");
    let is_dropped = || async { (stack.metric(Kind::Chat, 0, &metric).await >= count).then_some(()) };
    eventually("late requests to be dropped", is_dropped).await;
}

#[tokio::test]
async fn a_late_send_is_not_stored() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut guide = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let messages = format!("/api/conversations/{id}/messages");
    stack.signal(Kind::Chat, 0, Signal::Stop);
    let post = stack.post(&messages, 2, json!({"message": "late over HTTP"}));
    guide.say("late over a socket").await;
    let (posted, refused) = tokio::join!(post, guide.next());
    posted.expect_problem(503, "unavailable");
    assert_eq!(refused["code"], "unavailable");
    stack.signal(Kind::Chat, 0, Signal::Cont);
    wait_for_dropped(&stack, "chat.messages.pack", 1.0).await;
    guide.say("in time").await;
    let shown = guide.next().await;
    assert_eq!((&shown["content"], &shown["seq"]), (&json!("in time"), &json!(1)));
    assert_eq!(stack.get(&messages, 1).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_backends_late_send_is_not_stored() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let backend = stack.backend().await;
    let send = |text: &str| json!({"conversation_id": id, "sender_id": 1, "message": text}).to_string();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Vyzio-Deadline", "1000000000000");
    backend.publish_with_headers("chat.messages.send", headers, send("late").into()).await.unwrap();
    let answer = backend.request("chat.messages.send", send("in time").into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["seq"], 1, "{answer}");
    wait_for_dropped(&stack, "chat.messages.send", 1.0).await;
    let messages = stack.get(&format!("/api/conversations/{id}/messages"), 1).await;
    assert_eq!(messages["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_send_that_failed_while_postgres_was_frozen_is_not_stored() {
    let stack = Stack::with(Options { own_postgres: true, ..Options::one_of_each() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let postgres = stack.postgres.as_ref().unwrap();
    ada.say("before").await;
    assert_eq!(ada.next().await["seq"], 1);
    postgres.stop();
    ada.say("late").await;
    assert_eq!(ada.next().await["code"], "unavailable");
    postgres.cont();
    stack.ready().await;
    ada.say("in time").await;
    let shown = ada.next().await;
    assert_eq!((&shown["content"], &shown["seq"]), (&json!("in time"), &json!(2)));
}

#[tokio::test]
async fn a_block_or_report_that_failed_is_not_executed_later() {
    let stack = Stack::with(Options::one_of_each()).await;
    for round in 1..=2 {
        stack.signal(Kind::Chat, 0, Signal::Stop);
        let block = stack.call("PUT", "/api/blocks/2", 1, None);
        let unblock = stack.call("DELETE", "/api/blocks/3", 1, None);
        let report = stack.post("/api/reports", 1, json!({"user_id": 2, "reason": "late"}));
        let answers: [Answer; 3] = tokio::join!(block, unblock, report).into();
        answers.iter().for_each(|answer| answer.expect_problem(503, "unavailable"));
        stack.signal(Kind::Chat, 0, Signal::Cont);
        wait_for_dropped(&stack, "chat.blocks.set", f64::from(2 * round)).await;
        wait_for_dropped(&stack, "chat.reports.make", f64::from(round)).await;
        assert_eq!(stack.get("/api/blocks", 1).await["items"], json!([]));
    }
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let reports: i64 =
        sqlx::query_scalar("select count(*) from chat.reports").fetch_one(&mut postgres).await.unwrap();
    assert_eq!(reports, 0);
}

/// Number of Postgres processes that wait for a lock.
async fn waiting(postgres: &mut PgConnection) -> i64 {
    let waiting = "select count(*) from pg_stat_activity
                   where wait_event_type = 'Lock' and datname = current_database()";
    sqlx::query_scalar(waiting).fetch_one(postgres).await.unwrap()
}

#[tokio::test]
async fn a_locked_conversation_delays_no_other() {
    let stack = Stack::with(Options::one_of_each()).await;
    let users: Vec<i64> = (1..=12).collect();
    let (locked, free) = (stack.conversation(&users).await, stack.conversation(&[1, 2]).await);
    let mut sockets = Vec::new();
    for user in &users {
        sockets.push(stack.socket(&format!("/ws/chat/{locked}/"), *user).await);
    }
    let mut other = stack.socket(&format!("/ws/chat/{free}/"), 1).await;
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let mut transaction = postgres.begin().await.unwrap();
    let lock = format!("select from chat.conversations where conversation_id = {locked} for update");
    transaction.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    let began = Instant::now();
    for (socket, user) in sockets.iter_mut().zip(&users) {
        socket.send(json!({"message": "waits", "client_id": user.to_string()})).await;
    }
    // Fewer on a slow machine, because the sends that wait are refused after 5 s.
    let mut seq = 0;
    while seq < 3 || (seq < 20 && began.elapsed() < Duration::from_secs(2)) {
        seq += 1;
        other.say("waits for nothing").await;
        let frame = other.next().await;
        assert_eq!(frame["seq"], seq, "{frame}");
        let waiting = waiting(&mut transaction).await;
        assert!(waiting <= 2, "{waiting} Postgres processes wait");
    }
    transaction.commit().await.unwrap();
    // Each sender receives all messages in the same order, without a gap.
    for socket in &mut sockets {
        for seq in 1..=users.len() {
            assert_eq!(socket.next().await["seq"], seq);
        }
    }
}

#[tokio::test]
async fn a_send_to_a_conversation_that_stays_locked_is_refused_and_not_stored_later() {
    let stack = Stack::with(Options::one_of_each()).await;
    let id = stack.conversation(&[1, 2]).await;
    let (mut ada, mut ben) = (
        stack.socket(&format!("/ws/chat/{id}/"), 1).await,
        stack.socket(&format!("/ws/chat/{id}/"), 2).await,
    );
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let mut transaction = postgres.begin().await.unwrap();
    let lock = format!("select from chat.conversations where conversation_id = {id} for update");
    transaction.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    ada.say("late").await;
    assert_eq!(within("the refusal", ada.next()).await["code"], "unavailable");
    ada.say("in time").await;
    // The second message waits for the lock when the lock is released.
    let mut watch = PgConnection::connect(&stack.database.url()).await.unwrap();
    within("the message to wait for the lock", async {
        while waiting(&mut watch).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    transaction.commit().await.unwrap();
    for socket in [&mut ada, &mut ben] {
        let shown = socket.next().await;
        assert_eq!((&shown["content"], &shown["seq"]), (&json!("in time"), &json!(1)));
    }
}

#[tokio::test]
async fn a_send_that_shares_a_batch_with_sends_to_a_locked_conversation_is_answered() {
    let stack = Stack::with(Options::one_of_each()).await;
    let users: Vec<i64> = (1..=4).collect();
    let (locked, free) = (stack.conversation(&users).await, stack.conversation(&[5, 6]).await);
    let mut postgres = PgConnection::connect(&stack.database.url()).await.unwrap();
    let mut transaction = postgres.begin().await.unwrap();
    let lock = format!("select from chat.conversations where conversation_id = {locked} for update");
    transaction.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    let send = async |id: i64, user: i64| {
        stack.post(&format!("/api/conversations/{id}/messages"), user, json!({"message": "hello"})).await
    };
    let waiting = async |count: f64| {
        let waiting = || async { stack.metric(Kind::Gateway, 0, "gateway_sends_waiting").await };
        eventually("sends that wait", || async { (waiting().await == count).then_some(()) }).await;
    };
    // No batch is answered meanwhile, so the last sends share one: the gateway has at most two in progress.
    stack.signal(Kind::Chat, 0, Signal::Stop);
    let blocked = join_all(users.iter().map(|user| send(locked, *user)));
    let sent = async {
        waiting(4.0).await;
        let resume = async {
            waiting(5.0).await;
            stack.signal(Kind::Chat, 0, Signal::Cont);
        };
        tokio::join!(send(free, 5), resume).0
    };
    let (blocked, sent) = tokio::join!(blocked, sent);
    assert_eq!(sent.status, 201, "{sent:?}");
    assert!(blocked.iter().all(|answer| answer.status == 503), "{blocked:?}");
}
