//! Publishes an event to Vyzio Realtime, and waits until JetStream has stored it.

use async_nats::{ConnectOptions, ServerAddr, jetstream};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), async_nats::Error> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let servers = url.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
    // async-nats does not read the credentials in the address by itself.
    let options = match (servers[0].username(), servers[0].password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
        _ => ConnectOptions::new(),
    };
    // One connection for each process: it reconnects by itself, and tasks can share it.
    let client = options.connect(servers).await?;
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(Duration::from_secs(5));

    let event = json!({"event_id": "payment-789-completed", "user_id": 456, "data": {"payment_id": 789}});
    publish(&jetstream, "payment_completed", &event).await?;

    client.drain().await?;
    Ok(())
}

/// Returns after the event is stored. A repeat is safe because the event has an `event_id`.
async fn publish(
    jetstream: &jetstream::Context,
    kind: &str,
    event: &Value,
) -> Result<(), jetstream::context::PublishError> {
    let mut attempt = 0;
    loop {
        let sent = jetstream.publish(format!("events.{kind}"), event.to_string().into()).await;
        // The first await sends the event, the second one waits for the acknowledgement.
        let stored = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(_) => return Ok(()),
            Err(error) if attempt == 2 => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200 << attempt)).await,
        }
        attempt += 1;
    }
}
