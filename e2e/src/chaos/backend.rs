//! Another backend of the marketplace, which publishes events and sends messages for users.

use super::{
    ledger::{Promise, Published},
    rules::{Fault, Rule},
    world::{Counters, Phase, World},
};
use crate::{BACKEND_KEY, Stack};
use async_nats::{HeaderMap, jetstream};
use contract::chat::Message;
use fastrand::Rng;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Timeout of an ack.
const ACK_TIMEOUT: Duration = Duration::from_secs(4);

pub struct Backend {
    world: Arc<World>,
    rng: Rng,
    client: async_nats::Client,
    jetstream: jetstream::Context,
    users: Vec<i64>,
    /// Conversations with their participants.
    conversations: Vec<(i64, Vec<i64>)>,
    name: String,
    published: u64,
}

impl Backend {
    /// Creates backend number `number`, connected to this stack's NATS.
    ///
    /// # Errors
    /// If NATS can't be reached.
    pub async fn new(
        world: Arc<World>,
        seed: u64,
        number: usize,
        stack: &Stack,
        conversations: Vec<(i64, Vec<i64>)>,
        users: Vec<i64>,
    ) -> anyhow::Result<Self> {
        let client = stack
            .nats_options("operator")
            .retry_on_initial_connect()
            .ping_interval(Duration::from_secs(3))
            .connect(stack.nats_urls("operator"))
            .await?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(ACK_TIMEOUT);
        let rng = Rng::with_seed(seed ^ (0xbac0 + number as u64));
        let name = format!("b{number}");
        Ok(Self { world, rng, client, jetstream, users, conversations, name, published: 0 })
    }

    /// Publishes while clients chat, and finishes what it has begun.
    pub async fn run(mut self) {
        while self.world.phase() == Phase::Chatting {
            sleep(Duration::from_millis(self.rng.u64(50..700))).await;
            self.published += 1;
            let event = format!("{}.{}", self.name, self.published);
            match self.rng.u8(..22) {
                0..12 => self.notify(&event).await,
                12..15 => self.publish_without_ack(&event).await,
                15 => self.publish_unusable(&event).await,
                16 | 17 => self.change_message(&event).await,
                _ => self.send_message(&event).await,
            }
        }
    }

    fn recipients(&mut self) -> Vec<i64> {
        let count = self.rng.usize(1..=5).min(self.users.len());
        let mut users = self.rng.choose_multiple(&self.users, count).into_iter().copied().collect::<Vec<_>>();
        users.sort_unstable();
        users
    }

    fn record(&self, event: &str, users: Vec<i64>, promise: Promise) {
        self.world.ledger().events.insert(event.to_owned(), Published { users, promise, acked: false });
    }

    /// Publishes an event with an id until it is acknowledged, and sometimes once more; over NATS, HTTP or both.
    async fn notify(&mut self, event: &str) {
        let users = self.recipients();
        let mut body = json!({"user_ids": users, "data": {"event": event}});
        let mut headers = HeaderMap::new();
        if self.world.is_new && self.rng.u8(..3) == 0 {
            self.record(event, users, Promise::Once);
            self.publish_over_http(event, &body).await;
            if self.rng.u8(..3) == 0 {
                self.publish_over_http(event, &body).await;
            }
            if self.rng.u8(..3) == 0 {
                body["event_id"] = event.into();
                self.publish("events.payment_completed", event, &headers, &body).await;
            }
            return;
        }
        if self.rng.bool() {
            body["event_id"] = event.into();
        } else {
            headers.insert("Nats-Msg-Id", event);
        }
        self.record(event, users, Promise::Once);
        self.publish("events.payment_completed", event, &headers, &body).await;
        if self.rng.u8(..5) == 0 {
            self.publish("events.payment_completed", event, &headers, &body).await;
        }
    }

    /// Publishes an event without waiting for an ack.
    async fn publish_without_ack(&mut self, event: &str) {
        let user = self.recipients()[0];
        self.record(event, vec![user], Promise::AtMostOnce);
        let body = json!({"user_id": user, "data": {"event": event}}).to_string();
        self.client.publish("events.listing_published", body.into()).await.ok();
    }

    /// Publishes an unusable event.
    async fn publish_unusable(&mut self, event: &str) {
        let user = self.recipients()[0];
        self.record(event, vec![user], Promise::DeadLetter);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", event);
        let body = json!({"user_id": user, "data": {"event": event}});
        self.publish("events.of_no_known_type", event, &headers, &body).await;
    }

    async fn publish(&self, subject: &'static str, event: &str, headers: &HeaderMap, body: &Value) {
        while self.world.phase() != Phase::Over {
            let published =
                self.jetstream.publish_with_headers(subject, headers.clone(), body.to_string().into());
            let acked = async { published.await.ok()?.await.ok() };
            if let Ok(Some(_)) = timeout(2 * ACK_TIMEOUT, acked).await {
                return self.acked(event);
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    fn acked(&self, event: &str) {
        if let Some(published) = self.world.ledger().events.get_mut(event)
            && !std::mem::replace(&mut published.acked, true)
        {
            Counters::increment(&self.world.counters.events);
        }
    }

    /// Publishes an event over HTTP until it is accepted, each time over any gateway, with the same `Idempotency-Key`.
    async fn publish_over_http(&mut self, event: &str, body: &Value) {
        while self.world.phase() != Phase::Over {
            let Some(host) = self.rng.choice(&self.world.hosts) else { return };
            let url = format!("http://{host}/backend/events/payment_completed");
            let request = self.world.http.post(url).bearer_auth(BACKEND_KEY).json(body);
            let answer = timeout(2 * ACK_TIMEOUT, request.header("idempotency-key", event).send()).await;
            match answer.map(|answer| answer.map(|answer| answer.status().as_u16())) {
                Ok(Ok(202)) => return self.acked(event),
                // A proxy that has cut the connection off, or a gateway that is busy or ends.
                Ok(Ok(429 | 503) | Err(_)) | Err(_) => {}
                Ok(Ok(status)) => {
                    let what = format!("an event over HTTP was refused: {status}");
                    return self.world.violation(Fault::new(Rule::Refused, what));
                }
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Sends a message for a participant until it is stored.
    async fn send_message(&mut self, name: &str) {
        let Some((conversation, people)) = self.rng.choice(&self.conversations).cloned() else { return };
        let Some(sender) = self.rng.choice(people) else { return };
        let content = format!("{name} from a backend.");
        Counters::increment(&self.world.counters.messages);
        self.world.ledger().sends(&content, conversation, sender, Some(name));
        let mut body = json!({
            "conversation_id": conversation, "sender_id": sender, "message": content, "client_id": name,
        });
        if self.world.is_new && self.rng.bool() {
            body["kind"] = "note".into();
            body["data"] = json!({"text": content});
        }
        while self.world.phase() != Phase::Over {
            match self.request("chat.messages.send", &body).await {
                Ok(message) => {
                    let acked =
                        self.world.ledger().acked(&content, "a reply", Some(message.message_id.get()));
                    if self.world.check(acked) == Some(true) {
                        Counters::increment(&self.world.counters.acked);
                    }
                    return;
                }
                Err(Some(refusal)) => {
                    let what = format!("chat.messages.send was refused: {refusal}");
                    return self.world.violation(Fault::new(Rule::Refused, what));
                }
                Err(None) => sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Edits or removes one of the latest messages, of any sender, until there is a final reply.
    async fn change_message(&mut self, name: &str) {
        let Some((conversation, _)) = self.rng.choice(&self.conversations).cloned() else { return };
        let latest = self.world.deliveries().latest(conversation, 12);
        let Some(message) = self.rng.choice(latest) else { return };
        let id = message.message_id.get();
        let text = (self.rng.u8(..3) > 0).then(|| format!("{} modifié par {name}.", message.content));
        let if_change = Some(0).filter(|_| text.is_some() && self.rng.u8(..4) == 0);
        let mut body = json!({"conversation_id": conversation, "message_id": id});
        let subject = match &text {
            Some(text) => {
                body["message"] = text.as_str().into();
                if message.kind.is_some() {
                    body["data"] = json!({"text": text});
                }
                if let Some(if_change) = if_change {
                    body["if_change"] = if_change.into();
                }
                self.world.ledger().edits(conversation, id, text, if_change);
                "chat.messages.update"
            }
            None => {
                body["reason"] = "spam".into();
                self.world.ledger().deletes(conversation, id);
                "chat.messages.remove"
            }
        };
        Counters::increment(&self.world.counters.changes);
        self.world.ledger().open_changes += 1;
        while self.world.phase() != Phase::Over {
            match self.request(subject, &body).await {
                Ok(changed) => {
                    let noted = self.world.deliveries().message(&changed);
                    self.world.check(noted);
                    if changed.message_id.get() != id {
                        let what = format!("the reply to {subject} of message {id} holds another message");
                        self.world.violation(Fault::new(Rule::Same, what));
                    }
                    Counters::increment(&self.world.counters.changed);
                    self.world.ledger().changed(id, text.as_deref(), "a reply");
                    break;
                }
                Err(Some(refusal)) => {
                    let is_deleted = self.world.ledger().is_deletion_requested(id);
                    let is_permitted = text.is_some()
                        && (refusal.starts_with("not_found:") && is_deleted
                            || refusal.starts_with("conflict:") && if_change.is_some());
                    if !is_permitted {
                        let what = format!("{subject} was refused: {refusal}");
                        self.world.violation(Fault::new(Rule::Refused, what));
                    }
                    break;
                }
                Err(None) => sleep(Duration::from_millis(300)).await,
            }
        }
        self.world.ledger().open_changes -= 1;
    }

    /// Returns the reply, or a final refusal; the error is `None` if the request should be repeated.
    async fn request(&self, subject: &'static str, body: &Value) -> Result<Message, Option<String>> {
        let request = self.client.request(subject, body.to_string().into());
        let Ok(Ok(reply)) = timeout(ACK_TIMEOUT, request).await else { return Err(None) };
        let refusal = reply.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error"));
        match refusal {
            Some(refusal) if refusal.as_str().starts_with("unavailable") => Err(None),
            Some(refusal) => Err(Some(refusal.to_string())),
            None => serde_json::from_slice(&reply.payload).map_err(|error| Some(error.to_string())),
        }
    }
}
