use e2e::Stack;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn an_invalid_frame_gets_an_error_and_the_socket_stays_open() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let mut ada = stack.socket(&format!("/ws/chat/{id}/"), 1).await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let long = json!({"message": "é".repeat(4_001), "client_id": "long"}).to_string();
    for (frame, code) in [
        ("", "invalid_json"),
        ("null", "invalid_message"),
        (deep.as_str(), "invalid_json"),
        (r#"{"message": "a\u0000b"}"#, "invalid_message"),
        (r#"{"message": "\ud800"}"#, "invalid_message"),
        (r#"{"message": ""}"#, "invalid_message"),
        (r#"{"message": {"$gt": ""}}"#, "invalid_message"),
        (r#"{"type": "read", "message_id": 99999999999999999999999}"#, "invalid_message"),
        (r#"{"type": "read", "message_id": 9223372036854775807}"#, "not_found"),
        (long.as_str(), "message_too_long"),
    ] {
        ada.send_text(frame).await;
        let error = ada.next().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{frame:.40}");
    }
    ada.send(json!({"message": "é".repeat(4_000)})).await;
    assert_eq!(ada.next().await["seq"], 1, "no earlier message was stored");
    let mut typist = stack.socket(&format!("/ws/typing/{id}/"), 1).await;
    typist.send_text(r#"{"is_typing": "yes"}"#).await;
    assert_eq!(typist.next().await["code"], "invalid_message");
    let mut inbox = stack.socket("/ws/notifications/", 1).await;
    inbox.send_text(r#"{"type": "read", "notification_id": 5}"#).await;
    // The marker of her own message may arrive first.
    assert_eq!(inbox.next_of("error").await["code"], "not_found");
}

#[tokio::test]
async fn frames_of_the_wrong_kind_or_size_close_the_socket() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/ws/chat/{id}/");
    let mut ada = stack.socket(&path, 1).await;
    ada.send_raw(Message::Binary(vec![1, 2, 3].into())).await;
    assert_eq!(ada.closed().await, Some(1003));
    let mut ada = stack.socket(&path, 1).await;
    ada.send_raw(Message::Text("x".repeat(1024 * 1024).into())).await;
    assert_eq!(ada.closed().await, Some(1009));
    let mut ada = stack.socket(&path, 1).await;
    ada.send_raw(Message::Text("x".repeat(64 * 1024).into())).await;
    assert_eq!(ada.next().await["code"], "invalid_json", "64 KiB are allowed");
}
