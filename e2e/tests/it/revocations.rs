//! Revocations of sessions, also after NATS restarts or the bucket is lost.

use async_nats::jetstream::{self, kv};
use e2e::{Kind, Options, Socket, Stack, eventually, token_with};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn issued(user: i64, at: u64) -> String {
    token_with(json!({"user_id": user, "iat": at}))
}

async fn open(stack: &Stack, gateway: usize, token: &str) -> Socket {
    Socket::open(&format!("ws://{}/ws/notifications/?token={token}", stack.host(gateway))).await
}

async fn revoke(stack: &Stack, request: Value) -> Value {
    let reply = stack.backend().await.request("sessions.revoke", request.to_string().into()).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

/// Writes a revocation into the bucket, so that gateways learn of it only from there.
async fn revoke_in_bucket(stack: &Stack, user: i64) {
    let backend = jetstream::new(stack.backend().await);
    let put = || async {
        let bucket = backend.get_key_value("REVOCATIONS").await.ok()?;
        bucket.put(user.to_string(), now().to_string().into()).await.ok()
    };
    eventually("the bucket to store a revocation", put).await;
}

#[tokio::test]
async fn a_socket_with_a_newer_token_stays_open_after_nats_restarts() {
    let mut stack = Stack::with(Options { counts: [1, 1, 1, 1], servers: 1, ..Options::default() }).await;
    revoke(&stack, json!({"user_id": 1})).await;
    let mut newer = open(&stack, 0, &issued(1, now() + 2)).await;
    // A socket with a refreshed token counts as a socket of the newer token.
    let mut refreshed = open(&stack, 0, &issued(3, now() - 60)).await;
    // Issued as far in the future as the leeway allows, because the revocation must be older.
    refreshed.send(json!({"type": "auth", "token": issued(3, now() + 5)})).await;
    assert_eq!(refreshed.next().await["type"], "auth");
    revoke(&stack, json!({"user_id": 3})).await;
    for user in [10, 11] {
        let mut witness = open(&stack, 0, &issued(user, now() - 60)).await;
        stack.nats.kill().await;
        stack.nats.restart().await.unwrap();
        // Gateways read the bucket in order: once this revocation takes effect, they have read the older ones again.
        revoke_in_bucket(&stack, user).await;
        assert_eq!(witness.closed().await, Some(4401));
        newer.expect_silence().await;
        refreshed.expect_silence().await;
    }
    // The older token stays refused.
    assert_eq!(open(&stack, 0, &issued(1, now() - 60)).await.closed().await, Some(4401));
}

#[tokio::test]
async fn a_revocation_may_name_a_token_that_stays_valid() {
    let mut stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let at = now() - 60;
    let named = |jti: &str| token_with(json!({"user_id": 1, "iat": at, "jti": jti}));
    let (kept, ended) = (named("kept"), named("ended"));
    let (mut kept_here, mut kept_there) = (open(&stack, 0, &kept).await, open(&stack, 1, &kept).await);
    let (mut here, mut there) = (open(&stack, 0, &ended).await, open(&stack, 1, &ended).await);
    let answer = revoke(&stack, json!({"user_id": 1, "except_jti": "kept"})).await;
    assert!(answer["revoked_before"].is_string(), "{answer}");
    assert_eq!((here.closed().await, there.closed().await), (Some(4401), Some(4401)));
    kept_here.expect_silence().await;
    kept_there.expect_silence().await;
    stack.terminate(Kind::Gateway, 1).await;
    stack.restart(Kind::Gateway, 1);
    stack.ready().await;
    for gateway in 0..2 {
        open(&stack, gateway, &kept).await.expect_silence().await;
        assert_eq!(open(&stack, gateway, &ended).await.closed().await, Some(4401));
    }
    // The next revocation names no token. It applies even within the same second.
    revoke(&stack, json!({"user_id": 1})).await;
    assert_eq!(kept_here.closed().await, Some(4401));
    for gateway in 0..2 {
        let refused = || async {
            let url = format!("http://{}/api/unread", stack.host(gateway));
            let call = stack.http().get(url).bearer_auth(&kept).send().await.unwrap();
            (call.status() == 401).then_some(())
        };
        eventually("the token to be refused", refused).await;
    }
    for wrong in
        [json!({"user_id": 1, "except_jti": ""}), json!({"user_id": 1, "except_jti": "x".repeat(5_000)})]
    {
        let backend = stack.backend().await;
        let answer = backend.request("sessions.revoke", wrong.to_string().into()).await.unwrap();
        let headers = answer.headers.expect("a refusal has headers");
        assert_eq!(headers.get("Nats-Service-Error-Code").map(|code| code.as_str()), Some("400"));
    }
}

#[tokio::test]
async fn a_login_in_the_second_of_the_revocation_works_if_the_revocation_names_its_token() {
    let stack = Stack::start().await;
    for round in 0..5 {
        let jti = format!("login-{round}");
        revoke(&stack, json!({"user_id": 1, "except_jti": &jti})).await;
        let fresh = token_with(json!({"user_id": 1, "iat": now(), "jti": &jti}));
        let mut socket = open(&stack, 0, &fresh).await;
        socket.expect_silence().await;
        // Other tokens issued in that second may be older than the revocation.
        if round == 0 {
            let answer = revoke(&stack, json!({"user_id": 1})).await;
            let older = token_with(json!({"user_id": 1, "iat": now() - 1, "jti": "older"}));
            assert_eq!(open(&stack, 0, &older).await.closed().await, Some(4401), "{answer}");
            assert_eq!(socket.closed().await, Some(4401));
        }
    }
}

/// Recreates the bucket before the gateway starts. Each user in it is revoked `times` times.
async fn fill(stack: &Stack, history: i64, users: i64, times: usize) {
    let backend = jetstream::new(stack.backend().await);
    backend.delete_key_value("REVOCATIONS").await.unwrap();
    let config = kv::Config { bucket: "REVOCATIONS".to_owned(), history, ..kv::Config::default() };
    backend.create_key_value(config).await.unwrap();
    let ids: Vec<i64> = (1..=users).collect();
    for ids in ids.chunks(1_000) {
        for _ in 0..times {
            let mut acks = Vec::new();
            for id in ids {
                let subject = format!("$KV.REVOCATIONS.{id}");
                acks.push(backend.publish(subject, now().to_string().into()).await.unwrap());
            }
            try_join_all(acks.into_iter().map(std::future::IntoFuture::into_future)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_gateway_starts_with_a_bucket_that_keeps_a_history() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    stack.kill(Kind::Gateway, 0).await;
    fill(&stack, 5, 10, 3).await;
    stack.restart(Kind::Gateway, 0);
    stack.ready().await;
    assert_eq!(open(&stack, 0, &issued(10, now() - 60)).await.closed().await, Some(4401));
}

#[tokio::test]
async fn a_gateway_starts_in_time_with_fifty_thousand_revocations() {
    let mut stack = Stack::with(Options::one_of_each()).await;
    stack.kill(Kind::Gateway, 0).await;
    fill(&stack, 1, 50_000, 1).await;
    stack.restart(Kind::Gateway, 0);
    stack.ready().await;
    for user in [1, 25_000, 50_000] {
        assert_eq!(open(&stack, 0, &issued(user, now() - 60)).await.closed().await, Some(4401));
    }
    stack.socket("/ws/notifications/", 50_001).await.expect_silence().await;
}

#[tokio::test]
async fn a_gateway_restores_a_deleted_bucket_of_revocations_from_memory() {
    let mut stack = Stack::with(Options { counts: [2, 1, 1, 1], servers: 1, ..Options::default() }).await;
    let token = |jti: &str| token_with(json!({"user_id": 2, "iat": now() - 60, "jti": jti}));
    revoke(&stack, json!({"user_id": 1})).await;
    revoke(&stack, json!({"user_id": 2, "except_jti": "kept"})).await;
    let mut witness = open(&stack, 1, &issued(3, now() - 60)).await;
    let backend = jetstream::new(stack.backend().await);
    backend.delete_key_value("REVOCATIONS").await.unwrap();
    let restored = || async {
        let bucket = backend.get_key_value("REVOCATIONS").await.ok()?;
        let known = bucket.get("1").await.ok()??;
        (!known.is_empty() && bucket.get("2").await.ok()?.is_some()).then_some(())
    };
    eventually("the bucket with its revocations", restored).await;
    // Every gateway follows the new bucket.
    revoke_in_bucket(&stack, 3).await;
    assert_eq!(witness.closed().await, Some(4401));
    stack.terminate(Kind::Gateway, 1).await;
    stack.restart(Kind::Gateway, 1);
    stack.ready().await;
    assert_eq!(open(&stack, 1, &issued(1, now() - 60)).await.closed().await, Some(4401));
    assert_eq!(open(&stack, 1, &token("ended")).await.closed().await, Some(4401));
    open(&stack, 1, &token("kept")).await.expect_silence().await;
}
