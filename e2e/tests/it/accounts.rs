//! The users of `deploy/nats/accounts.conf`: each can do its job, as every test of this crate shows, and nothing else.

use async_nats::{Client, Event, ServerError, jetstream};
use e2e::{Stack, eventually, within};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use testkit::{NatsOptions, NatsServer, accounts};
use tokio::sync::mpsc::{self, Receiver};

/// Everyone who may not do everything in some account.
const USERS: [&str; 7] = ["gateway", "chat", "notify", "typing", "billing", "marketplace", "moderation"];
const SERVICES: [&str; 4] = ["gateway", "chat", "notify", "typing"];
const BACKENDS: [&str; 2] = ["billing", "marketplace"];

/// Each of these may be published by these users, and by no other.
const PUBLISHED: [(&str, &[&str]); 54] = [
    ("chat.messages.pack", &["gateway"]),
    ("chat.messages.page", &["gateway"]),
    ("chat.messages.read", &["gateway"]),
    ("chat.conversations.enter", &["gateway"]),
    ("chat.conversations.open", &["gateway"]),
    ("chat.blocks.set", &["gateway"]),
    ("chat.reports.make", &["gateway"]),
    ("chat.unread", &["gateway"]),
    ("chat.heads", &["gateway"]),
    ("notify.notifications.page", &["gateway"]),
    ("notify.notifications.read", &["gateway"]),
    ("notify.heads", &["gateway"]),
    ("typing.input", &["gateway"]),
    ("typing.who", &["gateway"]),
    ("chat.messages.send", &["marketplace"]),
    ("chat.conversations.create", &["marketplace"]),
    ("sessions.revoke", &["marketplace"]),
    ("events.listing_published", &["marketplace"]),
    ("events.payment_completed", &["billing"]),
    ("events.report_received", &["moderation"]),
    ("events.payment_refunded", &[]),
    ("chat.event.1", &["chat"]),
    ("chat.log", &["chat"]),
    ("chat.reported", &["chat"]),
    ("typing.block.1", &["chat"]),
    ("notify.event.1", &["notify"]),
    ("deadletters.payment_completed", &["notify"]),
    ("typing.event.1", &["typing"]),
    ("$KV.REVOCATIONS.1", &["gateway"]),
    ("$JS.API.STREAM.CREATE.KV_REVOCATIONS", &["gateway"]),
    ("$JS.API.STREAM.CREATE.CHAT", &["chat", "notify"]),
    ("$JS.API.STREAM.CREATE.EVENTS", &["notify"]),
    ("$JS.API.STREAM.CREATE.EVENTS_OUT", &["chat"]),
    ("$JS.API.STREAM.CREATE.DEADLETTERS", &["notify"]),
    ("$JS.API.STREAM.CREATE.OTHER", &[]),
    ("$JS.API.STREAM.UPDATE.EVENTS", &[]),
    ("$JS.API.STREAM.PURGE.EVENTS", &[]),
    ("$JS.API.STREAM.DELETE.CHAT", &[]),
    ("$JS.API.STREAM.NAMES", &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.notify", &["notify"]),
    ("$JS.API.CONSUMER.MSG.NEXT.CHAT.notify", &["notify"]),
    ("$JS.API.CONSUMER.DELETE.EVENTS.notify", &[]),
    ("$JS.ACK.EVENTS.notify.1.1.1.1.0", &["notify"]),
    ("$JS.API.STREAM.INFO.EVENTS_OUT", &["chat", "moderation"]),
    ("$JS.API.CONSUMER.CREATE.EVENTS_OUT.moderation.chat.reported", &["moderation"]),
    ("$JS.API.CONSUMER.CREATE.EVENTS_OUT.other.chat.reported", &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.EVENTS_OUT.moderation", &["moderation"]),
    ("$JS.API.CONSUMER.MSG.NEXT.EVENTS_OUT.other", &[]),
    ("$JS.ACK.EVENTS_OUT.moderation.1.1.1.1.0", &["moderation"]),
    ("$SYS.REQ.SERVER.PING", &[]),
    ("_INBOX.gateway.x", &["gateway"]),
    ("_INBOX.chat-service.x", &["chat"]),
    ("_INBOX.notify-service.x", &["notify"]),
    ("_INBOX.typing-service.x", &["typing"]),
];

/// Each of these may be listened to by these users, and by no other.
const HEARD: [(&str, &[&str]); 28] = [
    ("chat.event.1", &["gateway"]),
    ("notify.event.1", &["gateway"]),
    ("typing.event.1", &["gateway", "typing"]),
    ("typing.block.1", &["gateway"]),
    ("sessions.revoke", &["gateway"]),
    ("chat.messages.pack", &["chat"]),
    ("chat.messages.send", &["chat"]),
    ("chat.conversations.create", &["chat"]),
    ("chat.heads", &["chat"]),
    ("chat.unread", &["chat"]),
    ("chat.blocks.set", &["chat"]),
    ("chat.reports.make", &["chat"]),
    ("notify.notifications.page", &["notify"]),
    ("notify.heads", &["notify"]),
    ("typing.input", &["typing"]),
    ("typing.who", &["typing"]),
    ("chat.log", &[]),
    ("chat.reported", &[]),
    ("events.payment_completed", &[]),
    ("deadletters.>", &[]),
    ("$KV.REVOCATIONS.>", &[]),
    ("$JS.API.>", &[]),
    ("$SYS.>", &[]),
    (">", &[]),
    ("$SRV.PING", &SERVICES),
    // In an account of its own, where nobody else is answered.
    ("_INBOX.>", &BACKENDS),
    ("_INBOX.gateway.>", &["gateway", "billing", "marketplace"]),
    ("_INBOX.moderation.>", &["moderation", "billing", "marketplace"]),
];

/// What nobody may do, so that an answer to it says that everything before it is answered.
const NEVER: &str = "nobody.may";

/// A client, and what nats-server tells it that it may not do.
async fn connect(server: &NatsServer, user: &str) -> (Client, Receiver<String>) {
    let (denied, denials) = mpsc::channel(256);
    let options =
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), accounts::password(user));
    let options = options.event_callback(move |event| {
        let denied = denied.clone();
        async move {
            if let Event::ServerError(ServerError::Other(error)) = event
                && let Some(subject) = error.split('"').nth(1)
            {
                denied.send(subject.to_owned()).await.unwrap();
            }
        }
    });
    (options.connect(server.url()).await.unwrap(), denials)
}

async fn until_never(denials: &mut Receiver<String>) -> BTreeSet<String> {
    let mut denied = BTreeSet::new();
    loop {
        match within("an answer of nats-server", denials.recv()).await.unwrap() {
            subject if subject == NEVER => return denied,
            subject => _ = denied.insert(subject),
        }
    }
}

fn expected(table: &[(&str, &[&str])], user: &str) -> BTreeSet<String> {
    let denied = table.iter().filter(|(_, users)| !users.contains(&user));
    denied.map(|(subject, _)| (*subject).to_owned()).collect()
}

#[tokio::test]
async fn each_user_may_do_what_it_needs_and_nothing_else() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    for user in USERS {
        let (client, mut denials) = connect(&server, user).await;
        for subject in PUBLISHED.iter().map(|(subject, _)| *subject).chain([NEVER]) {
            client.publish(subject, "".into()).await.unwrap();
        }
        assert_eq!(until_never(&mut denials).await, expected(&PUBLISHED, user), "published by {user}");
        let mut subscriptions = Vec::new();
        for subject in HEARD.iter().map(|(subject, _)| *subject).chain([NEVER]) {
            subscriptions.push(client.subscribe(subject).await.unwrap());
        }
        assert_eq!(until_never(&mut denials).await, expected(&HEARD, user), "heard by {user}");
    }
}

#[tokio::test]
async fn who_is_no_user_is_let_in_nowhere() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    assert!(async_nats::connect(server.url()).await.is_err());
    for (user, password) in [("billing", "wrong"), ("nobody", "billingsecret"), ("billing", "")] {
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        assert!(options.connect(server.url()).await.is_err(), "{user} with {password:?}");
    }
}

/// Publishes an event; the stream that has acknowledged it.
async fn store(client: &Client, subject: &'static str, event: &str) -> String {
    let sent = jetstream::new(client.clone()).publish(subject, event.to_owned().into()).await;
    sent.unwrap().await.unwrap().stream
}

#[tokio::test]
async fn a_backend_reaches_what_it_imports_and_sees_nothing_of_others() {
    let stack = Stack::start().await;
    let backend = async |user: &str| stack.nats_options(user).connect(stack.nats_urls(user)).await.unwrap();
    let (billing, marketplace) = (backend("billing").await, backend("marketplace").await);
    let mut overheard = billing.subscribe("_INBOX.>").await.unwrap();
    billing.flush().await.unwrap();

    let wish = json!({"participants": [{"user_id": 1}, {"user_id": 2}]}).to_string();
    let made = marketplace.request("chat.conversations.create", wish.into()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    let said = json!({"conversation_id": made["conversation_id"], "sender_id": 1, "message": "Bonjour"});
    let said = marketplace.request("chat.messages.send", said.to_string().into()).await.unwrap();
    let said: Value = serde_json::from_slice(&said.payload).unwrap();
    assert_eq!(said["seq"], 1, "{said}");
    let revoked = marketplace.request("sessions.revoke", r#"{"user_id": 3}"#.into()).await.unwrap();
    assert!(revoked.payload.starts_with(b"{\"revoked_before\""), "{revoked:?}");

    // With an acknowledgement, and as plainly as the guide has it.
    let paid = json!({"user_id": 7, "data": {"payment_id": 789}}).to_string();
    assert_eq!(store(&billing, "events.payment_completed", &paid).await, "EVENTS");
    billing.publish("events.payment_completed", paid.into()).await.unwrap();
    let listed = json!({"user_id": 7, "data": {"listing_id": 12}}).to_string();
    assert_eq!(store(&marketplace, "events.listing_published", &listed).await, "EVENTS");
    let notified = || async {
        (stack.get("/api/notifications/unread_count", 7).await["unread_count"] == 3).then_some(())
    };
    eventually("three notifications", notified).await;

    // Of all those answers, billing has heard its own.
    let heard = within("the acknowledgement", overheard.next()).await.unwrap();
    assert!(heard.payload.starts_with(b"{\"stream\":\"EVENTS\""), "{heard:?}");
}
