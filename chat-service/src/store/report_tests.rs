//! Reports keep a message as it was reported, on a real Postgres.

use super::{
    tests::{conversation, database, in_time, send, user},
    *,
};
use contract::{
    ConversationId,
    chat::{Data, DeletedBy, Message, Send},
};
use serde_json::value::RawValue;

fn data(json: &str) -> Data {
    Data::new(RawValue::from_string(json.to_owned()).unwrap())
}

/// An offer of the first user.
fn offer(conversation_id: ConversationId) -> Send {
    let (kind, data) = (Some("offer".to_owned()), Some(data("{\"amount\":1}")));
    Send { kind, data, ..send(conversation_id, 1, "offer") }
}

#[tokio::test]
async fn a_late_report_has_the_message_as_it_was_reported() {
    let database = database().await;
    let pool = &database.pool;
    let conversation_id = conversation(pool, &[1, 2]).await;
    let plain = |text| send(conversation_id, 1, text);
    let sends = [plain("edited before"), plain("edited"), plain("deleted"), offer(conversation_id)];
    store_messages(pool, &in_time(&sends), true).await.unwrap();
    let change = async |message: &Message, kind: Kind<'_>| {
        let message_id = message.message_id;
        let change = Change { conversation_id, message_id, user: None, kind, if_change: None };
        let changed = change_message(pool, &change, 90, &[]).await.unwrap();
        assert!(matches!(changed, Changed::Made { .. }), "{changed:?}");
    };
    let log = async || page(pool, conversation_id, contract::log::Range::After(0), 9).await.unwrap();
    change(&log().await[0], Kind::Edit("earlier")).await;
    let reported = log().await;
    for message in &reported {
        reports::report(pool, user(2), user(1), Some(message), "rude").await.unwrap();
    }
    reports::report(pool, user(2), user(1), None, "rude").await.unwrap();
    change(&reported[1], Kind::Edit("later")).await;
    change(&reported[2], Kind::Delete(DeletedBy::Sender, None)).await;
    change(&reported[3], Kind::Data(&data("{\"amount\":2}"), Some("other"))).await;
    change(&reported[3], Kind::Delete(DeletedBy::Sender, None)).await;

    let mut transaction = pool.begin().await.unwrap();
    let unpublished = reports::lock_unpublished(&mut transaction, 0.0, 9).await.unwrap();
    let unpublished: Vec<_> = unpublished.into_iter().map(|report| report.message).collect();
    let expected = reported.into_iter().map(|message| Message { client_id: None, ..message });
    assert_eq!(unpublished, expected.map(Some).chain([None]).collect::<Vec<_>>());
    // A plain message has neither a kind nor data.
    let kept: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("select kind, data from reports order by report_id").fetch_all(pool).await.unwrap();
    let offer = (Some("offer".to_owned()), Some("{\"amount\":1}".to_owned()));
    assert_eq!(kept, [(None, None), (None, None), (None, None), offer, (None, None)]);
}

#[tokio::test]
async fn a_report_of_an_earlier_release_has_the_data_of_the_message() {
    let database = database().await;
    let pool = &database.pool;
    let conversation_id = conversation(pool, &[1, 2]).await;
    store_messages(pool, &in_time(&[offer(conversation_id)]), true).await.unwrap();
    let insert = "insert into reports (reporter_id, user_id, conversation_id, message_id, content, reason)
                  select 2, 1, conversation_id, message_id, content, 'rude' from messages";
    sqlx::query(insert).execute(pool).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let unpublished = reports::lock_unpublished(&mut transaction, 0.0, 9).await.unwrap();
    let message = unpublished[0].message.as_ref().unwrap();
    assert_eq!(message.kind.as_deref(), Some("offer"));
    assert_eq!(message.data, Some(data("{\"amount\":1}")));
}
