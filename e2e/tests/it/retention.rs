//! Retention of messages.

use e2e::{Kind, Options, Stack, eventually};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

const ADA: i64 = 1;
const BEN: i64 = 2;

#[tokio::test]
async fn old_messages_are_deleted_and_the_first_that_stays_counts_as_unread() {
    let env = vec![("MESSAGE_DAYS", "30".to_owned())];
    let mut stack = Stack::with(Options { env, ..Options::default() }).await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = format!("/api/conversations/{conversation}/messages");
    let mut ids = Vec::new();
    for number in 1..=6 {
        let body = json!({"message": number.to_string(), "client_id": number.to_string()});
        ids.push(stack.post(&path, ADA, body).await.expect(201)["message_id"].clone());
    }
    // The fifth is deleted: where nobody read the rest, the sixth is the first unread one.
    stack.call("DELETE", &format!("{path}/{}", ids[4]), ADA, None).await.expect(204);
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    sqlx::query("update chat.messages set created_at = created_at - interval '31 days' where seq <= 4")
        .execute(&mut database)
        .await
        .unwrap();
    // A commit of a message that is gone is not published, and keeps none of the others from being published.
    sqlx::query("insert into chat.outbox (conversation_ids, message_ids, change) values ($1, '{1000000}', 9), ($1, '{1000000}', null)")
        .bind([conversation])
        .execute(&mut database)
        .await
        .unwrap();
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    // The first pass comes soon after the start.
    stack.kill(Kind::Chat, 0).await;
    stack.restart(Kind::Chat, 0);
    let read = ben.next_of("read").await;
    assert_eq!((&read["message_id"], &read["unread_count"]), (&ids[4], &json!(1)));

    let texts = |page: &Value| -> Vec<i64> {
        page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_i64().unwrap()).collect()
    };
    for after in [json!(0), ids[1].clone(), ids[3].clone()] {
        let page = stack.get(&format!("{path}?after={after}"), BEN).await;
        assert_eq!((texts(&page), &page["first_seq"]), (vec![5, 6], &json!(5)), "after {after}");
        let mut resumed =
            stack.socket(&format!("/ws/chat/{conversation}/?after={after}&changes=0"), BEN).await;
        assert_eq!(resumed.next_of("message").await["seq"], 5);
        assert_eq!(resumed.next_of("message").await["seq"], 6);
    }
    eventually("the notification counts the rest", async || {
        let unread = stack.get("/api/unread", BEN).await;
        (unread == json!({"conversations": 1, "messages": 1, "notifications": 1})).then_some(())
    })
    .await;

    // What is deleted is not found, and changes nothing.
    for (method, body) in [("GET", None), ("PATCH", Some(json!({"message": "x"}))), ("DELETE", None)] {
        let answer = stack.call(method, &format!("{path}/{}", ids[0]), ADA, body).await;
        assert_eq!(answer.body["code"], "not_found", "{method}");
    }
    // A repeat that comes this late is a new message.
    let repeat = stack.post(&path, ADA, json!({"message": "1", "client_id": "1"})).await.expect(201);
    assert_eq!(repeat["seq"], 7);
}
