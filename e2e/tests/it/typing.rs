use e2e::{Options, Stack};
use serde_json::json;

#[tokio::test]
async fn typing_starts_and_ends_once_and_only_for_the_others() {
    let stack = Stack::with(Options { counts: [2, 1, 1, 2], ..Options::default() }).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/typing/{id}/");
    let (mut ada, mut ben) = (stack.socket_at(0, &path, 1).await, stack.socket_at(1, &path, 2).await);
    for _ in 0..20 {
        ada.send(json!({"is_typing": true})).await;
    }
    let start = ben.next().await;
    assert_eq!(
        start,
        json!({"type": "typing", "conversation_id": id, "user_id": 1, "username": "name-1", "is_typing": true})
    );
    // Who joins is told.
    let mut late = stack.socket_at(0, &path, 2).await;
    assert_eq!(late.next().await, start);
    ada.send(json!({"is_typing": false})).await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert_eq!(late.next().await["is_typing"], false);
    ben.expect_silence().await;
    ada.expect_silence().await;
}

#[tokio::test]
async fn typing_ends_by_silence_and_by_leaving() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/typing/{id}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let tab = stack.socket(&path, 1).await;
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    let started = std::time::Instant::now();
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(started.elapsed().as_millis() > 5_900, "ended after {:?}", started.elapsed());
    ada.send(json!({"is_typing": true})).await;
    assert_eq!(ben.next().await["is_typing"], true);
    ada.close().await;
    // The user has another tab open: nothing ends yet. With the last one it does.
    ben.expect_silence().await;
    let left = std::time::Instant::now();
    tab.close().await;
    assert_eq!(ben.next().await["is_typing"], false);
    assert!(left.elapsed().as_millis() < 3_000, "ended after {:?}", left.elapsed());
}
