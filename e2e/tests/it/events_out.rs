//! Reads the events for backends from the stream `EVENTS_OUT`.

use async_nats::jetstream::{self, consumer::pull};
use e2e::{
    Stack,
    documented::{self, Sender},
    within,
};
use futures_util::StreamExt;
use serde_json::Value;

/// The events of a subject in the stream, from the first one on.
pub struct Events {
    channel: &'static str,
    messages: pull::Ordered,
}

impl Events {
    pub async fn of(stack: &Stack, subject: &str, channel: &'static str) -> Self {
        let jetstream = jetstream::new(stack.backend().await);
        let stream = jetstream.get_stream("EVENTS_OUT").await.unwrap();
        let config = pull::OrderedConfig { filter_subject: subject.to_owned(), ..Default::default() };
        Self { channel, messages: stream.create_consumer(config).await.unwrap().messages().await.unwrap() }
    }

    /// The next event, checked against its document.
    pub async fn next(&mut self) -> Value {
        within("an event", self.wait()).await
    }

    /// The same, without a time limit.
    pub async fn wait(&mut self) -> Value {
        let message = self.messages.next().await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        documented::check(self.channel, Sender::Server, &event).unwrap();
        let id = message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str();
        assert_eq!(id, event["event_id"].as_str().unwrap());
        event
    }
}
