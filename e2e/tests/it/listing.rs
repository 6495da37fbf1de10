//! What backends read of a conversation: its messages, and for moderators the former texts.

use e2e::{
    Answer, Kind, Options, Stack,
    documented::{self, Sender},
};
use serde_json::{Value, json};

const ADA: i64 = 1;
const BEN: i64 = 2;
/// A key of a backend that writes, and one of a backend that moderates.
const CHAT: &str = "the-secret-of-the-backend-that-writes";
const MODERATION: &str = "the-secret-of-the-backend-that-moderates";

/// A conversation with messages of Ada: the first is edited, the second deleted.
async fn talk(stack: &Stack) -> (i64, Vec<i64>) {
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = format!("/api/conversations/{conversation}/messages");
    let mut ids = Vec::new();
    for text in ["first", "second", "third", "fourth"] {
        let sent = stack.post(&path, ADA, json!({"message": text})).await.expect(201);
        ids.push(sent["message_id"].as_i64().unwrap());
    }
    let edit = json!({"message": "1st"});
    stack.call("PATCH", &format!("{path}/{}", ids[0]), ADA, Some(edit)).await.expect(200);
    stack.call("DELETE", &format!("{path}/{}", ids[1]), ADA, None).await.expect(204);
    (conversation, ids)
}

/// The contents of former texts.
fn texts(versions: &Value) -> Vec<&str> {
    versions.as_array().unwrap().iter().map(|version| version["content"].as_str().unwrap()).collect()
}

/// The ids and former texts of the items of a page.
fn items(page: &Value) -> Vec<(i64, Option<Vec<&str>>)> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| (item["message_id"].as_i64().unwrap(), item.get("versions").map(texts))).collect()
}

#[tokio::test]
async fn backends_list_messages_and_moderators_also_former_texts() {
    let stack = Stack::start().await;
    let (conversation, ids) = talk(&stack).await;
    let ask = async |subject: &'static str, channel: &str, body: Value| {
        let mut request = json!({"conversation_id": conversation});
        request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let reply = stack.request(subject, &request).await;
        if let Ok(reply) = &reply {
            documented::check(channel, Sender::Client, &request).unwrap();
            documented::check(&format!("{channel}Reply"), Sender::Server, reply).unwrap();
        }
        reply
    };
    let list = async |body: Value| ask("chat.messages.list", "listMessages", body).await;
    let versions = async |body: Value| ask("chat.messages.versions", "listVersions", body).await;
    let plain = |ids: &[i64]| -> Vec<_> { ids.iter().map(|id| (*id, None)).collect() };

    // Newest first, without former texts.
    let page = list(json!({"limit": 3})).await.unwrap();
    assert_eq!(items(&page), plain(&[ids[3], ids[2], ids[1]]));
    assert_eq!(page["next"], ids[1]);
    let page = list(json!({"limit": 3, "before": ids[1]})).await.unwrap();
    assert_eq!((items(&page), &page["next"]), (plain(&ids[..1]), &Value::Null));
    // After a message, oldest first; both together are a range.
    let page = list(json!({"after": 0, "limit": 3})).await.unwrap();
    assert_eq!((items(&page), &page["next"]), (plain(&ids[..3]), &json!(ids[2])));
    let page = list(json!({"after": ids[2]})).await.unwrap();
    assert_eq!((items(&page), &page["next"]), (plain(&ids[3..]), &Value::Null));
    let page = list(json!({"after": ids[0], "before": ids[3]})).await.unwrap();
    assert_eq!((items(&page), &page["next"]), (plain(&ids[1..3]), &Value::Null));

    let former = versions(json!({"before": ids[2]})).await.unwrap();
    assert_eq!(items(&former), [(ids[1], Some(vec!["second"])), (ids[0], Some(vec!["first"]))]);
    let former = versions(json!({"after": ids[0], "limit": 1, "versions": true})).await.unwrap();
    assert_eq!(items(&former), [(ids[1], Some(vec!["second"]))]);

    for body in [json!({"limit": 51}), json!({"limit": 0}), json!({"after": -1}), json!({"before": 0})] {
        for refused in [list(body.clone()).await, versions(body.clone()).await] {
            assert!(refused.is_err_and(|error| error.starts_with("invalid_request: ")), "{body}");
        }
    }
    // Not silently ignored.
    let refused = list(json!({"versions": true})).await.unwrap_err();
    assert!(refused.starts_with("forbidden: ") && refused.contains("chat.messages.versions"), "{refused}");
    assert_eq!(items(&list(json!({"versions": false, "limit": 1})).await.unwrap()), plain(&ids[3..]));
}

#[tokio::test]
async fn over_http_former_texts_need_a_scope_of_their_own() {
    let keys = format!("writer:{CHAT}:chat,moderator:{MODERATION}:moderation");
    let stack = Stack::with(Options { env: vec![("BACKEND_KEYS", keys)], ..Options::default() }).await;
    let (conversation, ids) = talk(&stack).await;
    let read = async |key: &str, path: &str| {
        let url = format!("http://{}/backend/conversations/{conversation}/{path}", stack.host(0));
        Answer::of(stack.http().get(url).bearer_auth(key)).await
    };
    let range = format!("after={}&before={}", ids[0], ids[3]);
    let page = read(CHAT, &format!("messages?{range}&limit=1")).await.expect(200);
    assert_eq!((items(&page), &page["next"]), (vec![(ids[1], None)], &json!(ids[1])));
    let page = read(MODERATION, &format!("versions?{range}")).await.expect(200);
    assert_eq!(items(&page), [(ids[1], Some(vec!["second"])), (ids[2], None)]);
    let newest = read(MODERATION, "versions?limit=1").await.expect(200);
    assert_eq!((items(&newest), &newest["next"]), (vec![(ids[3], None)], &json!(ids[3])));

    read(CHAT, "versions").await.expect_problem(403, "forbidden");
    read(MODERATION, "messages").await.expect_problem(403, "forbidden");
    for path in ["messages?limit=51", "versions?limit=0", "messages?after=-1", "versions?before=x"] {
        let key = if path.starts_with('m') { CHAT } else { MODERATION };
        read(key, path).await.expect_problem(400, "invalid_request");
    }
    let refused = read(CHAT, "messages?versions=true").await;
    refused.expect_problem(403, "forbidden");
    assert!(refused.body["detail"].as_str().unwrap().contains("/versions"), "{refused:?}");
    let metrics = stack.metrics(Kind::Gateway, 0).await;
    let route =
        "backend_calls_total{route=\"/backend/conversations/{conversation_id}/versions\",status=\"200\"} 2";
    assert!(metrics.contains(route), "{metrics}");
}
