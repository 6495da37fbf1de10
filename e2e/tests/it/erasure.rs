//! Erasure and export of a user's data.

use async_nats::jetstream;
use e2e::{
    Kind, Options, Stack,
    documented::{self, Sender},
    eventually,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use std::collections::BTreeSet;

const ADA: i64 = 1;
const BEN: i64 = 2;
const EVE: i64 = 3;

async fn database(stack: &Stack) -> PgPool {
    PgPool::connect(&stack.database.url()).await.unwrap()
}

/// Every row of every table of our schemas, as text.
async fn dump(database: &PgPool) -> Vec<(String, String)> {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "select table_schema::text, table_name::text from information_schema.tables
         where table_schema in ('chat', 'notify') and table_type = 'BASE TABLE'",
    )
    .fetch_all(database)
    .await
    .unwrap();
    let mut rows = Vec::new();
    for (schema, table) in tables {
        let query = format!("select t::text from {schema}.{table} t");
        for row in sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(database).await.unwrap() {
            rows.push((format!("{schema}.{table}"), row.get(0)));
        }
    }
    rows
}

/// Every message of a stream, with its headers.
async fn stored(stack: &Stack, stream: &str) -> Vec<String> {
    let jetstream = jetstream::new(stack.backend().await);
    let mut stream = jetstream.get_stream(stream).await.unwrap();
    let (first, last) = {
        let state = &stream.info().await.unwrap().state;
        (state.first_sequence, state.last_sequence)
    };
    let mut messages = Vec::new();
    for seq in first..=last {
        if let Ok(message) = stream.get_raw_message(seq).await {
            messages.push(format!("{:?} {}", message.headers, String::from_utf8_lossy(&message.payload)));
        }
    }
    messages
}

/// The events `users.erased` with this id, once there are so many.
async fn erased(stack: &Stack, erasure: &Value, count: usize) -> Vec<Value> {
    eventually("users.erased", async || {
        let events = stored(stack, "EVENTS_OUT").await;
        let body = |event: &String| serde_json::from_str::<Value>(&event[event.rfind(" {")? + 1..]).ok();
        let events: Vec<Value> =
            events.iter().filter_map(body).filter(|event| event["erasure_id"] == *erasure).collect();
        (events.len() == count).then_some(events)
    })
    .await
}

/// A text that occurs nowhere else.
fn secret() -> String {
    format!("secret{:016x}", fastrand::u64(..))
}

#[tokio::test]
async fn nothing_names_an_erased_user_or_has_a_text_of_theirs() {
    let stack = Stack::with(Options { counts: [2, 1, 1, 1], ..Options::default() }).await;
    let mut secrets: Vec<String> = (0..50).map(|_| secret()).collect();
    let name = secrets[0].clone();
    let ada = e2e::token_with(json!({"user_id": ADA, "username": name, "iat": testkit::token::now() - 60}));
    let post = async |path: String, body: Value| {
        let url = format!("http://{}{path}", stack.host(0));
        let response = stack.http().post(url).bearer_auth(&ada).json(&body).send().await.unwrap();
        response.json::<Value>().await.unwrap()
    };
    let with_ben = stack.conversation(&[ADA, BEN]).await;
    let with_both = stack.conversation(&[ADA, BEN, EVE]).await;
    let mut messages = Vec::new();
    for (index, text) in secrets[1..].iter().enumerate() {
        let conversation = if index % 3 == 0 { with_both } else { with_ben };
        let path = format!("/api/conversations/{conversation}/messages");
        let body = if index > 12 && index % 5 == 0 {
            // The text is made from the data.
            let data = json!({"starts_at": "2026-12-01T14:30:00Z", "place": text, "state": "proposed"});
            json!({"kind": "appointment", "data": data})
        } else {
            json!({"message": text})
        };
        messages.push(post(path, body).await);
    }
    // Some are edited or deleted before: their former texts are stored.
    for (index, message) in messages.iter().enumerate().take(12) {
        let id = (&message["conversation_id"], &message["message_id"]);
        let (subject, mut body) =
            ("chat.messages.update", json!({"conversation_id": id.0, "message_id": id.1}));
        if index % 4 == 3 {
            body["reason"] = json!("spam");
            stack.request("chat.messages.remove", &body).await.unwrap();
        } else {
            let text = secret();
            body["message"] = json!(text);
            secrets.push(text);
            stack.request(subject, &body).await.unwrap();
        }
    }
    let of_ben = format!("/api/conversations/{with_ben}/messages");
    stack.post(&of_ben, BEN, json!({"message": "an answer"})).await.expect(201);
    let event = secret();
    let payment = json!({"user_id": ADA, "data": {"note": event}}).to_string();
    secrets.push(event);
    let backend = stack.backend().await;
    jetstream::new(backend).publish("events.payment_completed", payment.into()).await.unwrap().await.unwrap();
    let setting = secret();
    let types = json!({setting.clone(): {"mail": false}});
    let preferences =
        json!({"user_id": ADA, "types": types, "quiet": {"from": "22:00", "to": "08:00", "tz": "UTC"}});
    stack.request("notify.preferences.set", &preferences).await.unwrap();
    secrets.push(setting);
    let database = database(&stack).await;
    eventually("her name in the notifications", async || {
        let named: i64 =
            sqlx::query_scalar("select count(*) from notify.notifications where message like $1")
                .bind(format!("%{name}%"))
                .fetch_one(&database)
                .await
                .unwrap();
        (named >= 2).then_some(())
    })
    .await;
    eventually("every secret to be stored", async || {
        let rows = dump(&database).await;
        let is_stored = |secret: &String| rows.iter().any(|(_, row)| row.contains(secret));
        secrets.iter().all(is_stored).then_some(())
    })
    .await;

    // Some messages are too old and gone, but notifications name their sender. An earlier release stored others.
    sqlx::query(
        "with path as (select set_config('search_path', 'chat', true))
         select chat.expire_messages($1, clock_timestamp(), 5) from path",
    )
    .bind(with_both)
    .execute(&database)
    .await
    .unwrap();
    let old = "update notify.notifications set sender_id = null where notification_id % 2 = 0 and conversation_id = $1";
    sqlx::query(old).bind(with_ben).execute(&database).await.unwrap();

    let mut ben = stack.socket_at(1, &format!("/ws/chat/{with_ben}/"), BEN).await;
    let socket = format!("ws://{}/ws/notifications/?token={ada}", stack.host(0));
    let mut hers = e2e::Socket::open(&socket).await;
    let erase = json!({"user_id": ADA, "reason": "her request"});
    let erasure = stack.request("users.erase", &erase).await.unwrap()["erasure_id"].clone();
    assert_eq!(stack.request("users.erase", &erase).await.unwrap()["erasure_id"], erasure);
    assert_eq!(hers.closed().await, Some(4401), "her sessions are revoked");
    // G4: open sockets receive the erasure as changes.
    let frame = ben.next_of("changed").await;
    let message = &frame["message"];
    assert_eq!(
        (&message["content"], &message["deleted_by"], &message["sender_username"]),
        (&json!(""), &json!("erasure"), &json!("user-1"))
    );
    let events = erased(&stack, &erasure, 1).await;
    assert_eq!(events[0]["user_id"], ADA);
    documented::check("erased", Sender::Server, &events[0]).unwrap();

    // G1.
    for stream in ["CHAT", "EVENTS", "DEADLETTERS", "EVENTS_OUT"] {
        for message in stored(&stack, stream).await {
            assert!(!secrets.iter().any(|secret| message.contains(secret)), "{stream}: {message}");
        }
    }
    for (table, row) in dump(&database).await {
        assert!(!secrets.iter().any(|secret| row.contains(secret)), "{table}: {row}");
    }
    // Others' conversations stay whole.
    let page = stack.get(&format!("{of_ben}?after=0&limit=100"), BEN).await;
    let items = page["items"].as_array().unwrap();
    let seqs: Vec<i64> = items.iter().map(|item| item["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=i64::try_from(items.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(items.iter().filter(|item| item["content"] == "an answer").count(), 1);
    let unread: Value = stack.get("/api/unread", EVE).await;
    assert_eq!(unread, json!({"conversations": 0, "messages": 0, "notifications": 0}));

    // Erasing twice is the same as erasing once.
    let after = dump_without_erasures(&database).await;
    assert_eq!(stack.request("users.erase", &erase).await.unwrap()["erasure_id"], erasure);
    let events = erased(&stack, &erasure, 2).await;
    assert_ne!(events[0]["event_id"], events[1]["event_id"]);
    assert_eq!(dump_without_erasures(&database).await, after);
}

async fn dump_without_erasures(database: &PgPool) -> BTreeSet<(String, String)> {
    dump(database).await.into_iter().filter(|(table, _)| table != "chat.erasures").collect()
}

async fn wait_for_stage(database: &PgPool, stage: &str) {
    let query = "select count(*) from chat.erasures where stage = $1";
    eventually(stage, async || {
        let found: i64 = sqlx::query_scalar(query).bind(stage).fetch_one(database).await.unwrap();
        (found == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_erasure_continues_after_any_kill() {
    let mut stack = Stack::start().await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let path = format!("/api/conversations/{conversation}/messages");
    let text = secret();
    for number in 0..20 {
        stack.post(&path, ADA, json!({"message": format!("{text} {number}")})).await.expect(201);
    }
    super::wait_for_unread(&stack, BEN, 1, 20).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    // Without notify-service, it can't end.
    stack.kill(Kind::Notify, 0).await;
    let erasure = stack.request("users.erase", &json!({"user_id": ADA})).await.unwrap();
    let database = database(&stack).await;
    wait_for_stage(&database, "messages").await;
    stack.kill(Kind::Chat, 0).await;
    stack.restart(Kind::Chat, 0);
    for number in 1..=20 {
        let frame = ben.next_of("changed").await;
        assert_eq!((&frame["change"], &frame["message"]["content"]), (&json!(number), &json!("")));
    }
    wait_for_stage(&database, "streams").await;
    stack.kill(Kind::Chat, 0).await;
    stack.restart(Kind::Chat, 0);
    stack.restart(Kind::Notify, 0);
    erased(&stack, &erasure["erasure_id"], 1).await;
    assert_eq!(super::unread(&stack, BEN).await, Vec::<Value>::new());
    let rows = dump(&database).await;
    assert!(!rows.iter().any(|(_, row)| row.contains(&text) || row.contains("name-1")), "{rows:?}");
}

#[tokio::test]
async fn an_export_has_everything_of_a_user_and_no_text_of_others() {
    let stack = Stack::start().await;
    let mut expected = BTreeSet::from(["Position : 48.5, 2".to_owned()]);
    let place = json!({"latitude": 48.5, "longitude": 2, "label": "Chez Ada"});
    let mut located = json!({"kind": "location", "data": place});
    for (peer, count) in [(BEN, 130), (EVE, 2)] {
        let conversation = stack.conversation(&[ADA, peer]).await;
        let path = format!("/api/conversations/{conversation}/messages");
        for number in 0..count {
            let text = format!("from Ada to {peer}: {number}");
            stack.post(&path, ADA, json!({"message": text})).await.expect(201);
            expected.insert(text);
        }
        if peer == BEN {
            let answered = stack.get(&path, ADA).await["items"][0]["message_id"].clone();
            located["reply_to"] = answered;
            stack.post(&path, ADA, located.clone()).await.expect(201);
        }
        stack.post(&path, peer, json!({"message": "a text of others"})).await.expect(201);
    }
    super::wait_for_unread(&stack, ADA, 2, 1).await;
    stack.call("PUT", &format!("/api/blocks/{EVE}"), ADA, None).await.expect(204);
    stack.post("/api/reports", ADA, json!({"user_id": EVE, "reason": "her reason"})).await.expect(201);
    let preferences =
        json!({"types": {"*": {"mail": false}}, "quiet": {"from": "22:00", "to": "08:00", "tz": "UTC"}});
    stack.call("PUT", "/api/me/preferences", ADA, Some(preferences.clone())).await.expect(200);

    let mut items = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut body = json!({"user_id": ADA});
        if !after.is_null() {
            body["after"] = after;
        }
        let page = stack.request("users.export", &body).await.unwrap();
        documented::check("exportUserReply", Sender::Server, &page).unwrap();
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    let of_kind =
        |kind: &str| -> Vec<Value> { items.iter().filter_map(|item| item.get(kind).cloned()).collect() };
    let texts: Vec<String> =
        of_kind("message").iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), expected.len(), "each once");
    assert_eq!(texts.into_iter().collect::<BTreeSet<_>>(), expected);
    let has_all =
        |message: &Value| located.as_object().unwrap().iter().all(|(name, value)| message[name] == *value);
    assert!(of_kind("message").iter().any(has_all), "the kind, the data and the reply");
    assert_eq!(of_kind("user"), [json!({"user_id": ADA, "username": "name-1"})]);
    assert_eq!(of_kind("conversation").len(), 2);
    assert_eq!(of_kind("block")[0]["user_id"], EVE);
    assert_eq!(of_kind("report")[0]["reason"], "her reason");
    assert_eq!(of_kind("notification").len(), 2);
    assert_eq!(of_kind("preferences"), [preferences]);
    assert!(!json!(items).to_string().contains("a text of others"), "{items:?}");

    for after in ["x", "messages-1", "blocks-x", "users-1"] {
        let body = json!({"user_id": ADA, "after": after});
        let error = stack.request("users.export", &body).await.unwrap_err();
        assert!(error.starts_with("invalid_request: "), "{error}");
    }
    let nobody = stack.request("users.export", &json!({"user_id": 99})).await.unwrap();
    assert_eq!(nobody, json!({"items": [], "next": null}));
    for body in [json!({"user_id": 0}), json!({"user_id": ADA, "reason": ""})] {
        let error = stack.request("users.erase", &body).await.unwrap_err();
        assert!(error.starts_with("invalid_request: "), "{error}");
    }
}

#[tokio::test]
async fn the_page_of_personal_data_names_every_table_and_stream() {
    let stack = Stack::start().await;
    let page = std::fs::read_to_string("../docs/personal-data.md").unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select distinct table_schema || '.' || table_name from information_schema.columns
         where table_schema in ('chat', 'notify')
           and (column_name ~ '(user|sender|reporter|blocked|reader|participant|recipient|owner)'
                or data_type in ('text', 'bytea', 'jsonb', 'json'))",
    )
    .fetch_all(&database(&stack).await)
    .await
    .unwrap();
    assert!(tables.len() > 8, "{tables:?}");
    let backend = stack.backend().await;
    let mut names = jetstream::new(backend).stream_names();
    let mut streams = Vec::new();
    while let Some(name) = names.next().await {
        streams.push(name.unwrap());
    }
    assert!(streams.len() >= 5, "{streams:?}");
    for place in tables.iter().filter(|table| !table.ends_with("._sqlx_migrations")).chain(&streams) {
        assert!(page.contains(&format!("| `{place}` |")), "docs/personal-data.md lacks {place}");
    }
}
