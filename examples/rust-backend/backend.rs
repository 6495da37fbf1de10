//! A backend that moderates: reads what users report, and thanks each of them with a notification.
//!
//! A report is acknowledged after its event is stored, and the event is named after the report: so each reporter is
//! thanked exactly once, wherever this is killed.

use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::{self, consumer::PullConsumer},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let servers = url.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
    // The client does not look for the user in the address by itself.
    let options = match (servers[0].username(), servers[0].password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
        _ => ConnectOptions::new(),
    };
    // Where NATS has the accounts of deploy/nats, the user `moderation` hears only such answers.
    let options = options.custom_inbox_prefix("_INBOX.moderation");
    let jetstream = jetstream::new(options.connect(servers).await?);
    let stream = jetstream.get_stream("EVENTS_OUT").await?;
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("moderation".to_owned()),
        filter_subject: "chat.reported".to_owned(),
        ..Default::default()
    };
    let reports: PullConsumer = stream.get_or_create_consumer("moderation", config).await?;
    let mut reports = reports.messages().await?;
    while let Some(report) = reports.next().await {
        let report = report?;
        let said: Value = serde_json::from_slice(&report.payload)?;
        println!("user {} reports user {}: {}", said["reporter_id"], said["user_id"], said["reason"]);
        let thanks = json!({
            "event_id": format!("report-{}-received", said["report_id"]),
            "user_id": said["reporter_id"],
            "title": "Signalement reçu",
            "message": "Merci, nous regardons cela.",
            "data": {"report_id": said["report_id"]},
        });
        // The first await sends it, the second one waits until it is stored.
        jetstream.publish("events.report_received", thanks.to_string().into()).await?.await?;
        report.ack().await?;
    }
    Ok(())
}
