//! Slow inboxes, slow batches and deleted streams don't block other work.

use crate::app::{App, eventually};
use contract::streams::EVENTS_STREAM;

#[tokio::test]
async fn a_locked_inbox_does_not_delay_others() {
    let app = App::spawn().await;
    app.event("payment_completed", r#"{"user_ids":[1,2]}"#).await;
    app.is_settled().await;
    let mut lock = app.pool.begin().await.unwrap();
    sqlx::query("select from inboxes where user_id = 1 for update").execute(&mut *lock).await.unwrap();
    for n in 1..=8 {
        app.event("payment_completed", format!(r#"{{"user_id":{n}}}"#)).await;
    }
    for (user, count) in [(2, 2), (3, 1), (8, 1)] {
        eventually("the others", async || app.inbox(user).await.len() == count).await;
    }
    lock.rollback().await.unwrap();
    app.is_settled().await;
    assert_eq!(app.inbox(1).await.len(), 2);
    app.check_inboxes().await;
}

#[tokio::test]
async fn a_batch_that_takes_too_long_is_halved() {
    let mut app = App::spawn().await;
    app.stop().await;
    // Each insert is slow: all in one transaction exceed the time limit.
    sqlx::raw_sql(
        "create function slow() returns trigger language plpgsql as $$
        begin perform pg_sleep(0.1); return new; end $$;
        create trigger slow before insert on notifications for each row execute function slow()",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    for n in 0..120 {
        app.event("payment_completed", format!(r#"{{"user_id":{}}}"#, n % 3 + 1)).await;
    }
    app.start().await;
    app.is_settled().await;
    assert_eq!(app.rows().await, 120);
    app.check_inboxes().await;
}

#[tokio::test]
async fn deleted_streams_and_consumers_are_recreated() {
    let app = App::spawn().await;
    let mut count = 0;
    for what in ["streams", "consumers"] {
        for stream in [EVENTS_STREAM, "CHAT"] {
            if what == "streams" {
                app.jetstream.delete_stream(stream).await.unwrap();
            } else {
                app.jetstream.get_stream(stream).await.unwrap().delete_consumer("notify").await.unwrap();
            }
        }
        for stream in [EVENTS_STREAM, "CHAT"] {
            eventually("the stream", async || app.jetstream.get_stream(stream).await.is_ok()).await;
        }
        count += 1;
        app.event("payment_completed", r#"{"user_id":1}"#).await;
        app.message(7, 10 + count, 2, &[1]).await;
        eventually("both", async || app.inbox(1).await.len() as i64 == 2 * count).await;
    }
    app.is_settled().await;
    app.replica.as_ref().unwrap().is_ready().await;
}
