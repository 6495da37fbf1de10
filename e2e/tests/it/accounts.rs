//! Permissions of the users in `deploy/nats/accounts.conf`. The other tests of this crate show that they suffice; these
//! tests show that they do not allow more.

use async_nats::{Client, Event, ServerError, jetstream};
use e2e::{Stack, eventually, within};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use testkit::{NatsOptions, NatsServer, accounts};
use tokio::sync::mpsc::{self, Receiver};

/// All users with restricted permissions.
const USERS: [&str; 7] = ["gateway", "chat", "notify", "typing", "billing", "marketplace", "moderation"];
const SERVICES: [&str; 4] = ["gateway", "chat", "notify", "typing"];
const BACKENDS: [&str; 2] = ["billing", "marketplace"];

/// Subjects, each with the only users that may publish to it.
const PUBLISH: [(&str, &[&str]); 96] = [
    ("chat.messages.pack", &["gateway"]),
    ("chat.messages.page", &["gateway"]),
    ("chat.messages.read", &["gateway"]),
    ("chat.messages.change", &["gateway"]),
    ("chat.messages.get", &["gateway"]),
    ("chat.changes.page", &["gateway"]),
    ("chat.kinds.list", &["gateway"]),
    ("chat.messages.update", &["gateway", "marketplace"]),
    ("chat.messages.remove", &["gateway", "moderation"]),
    ("chat.messages.list", &["gateway", "marketplace", "moderation"]),
    ("chat.messages.versions", &["gateway", "moderation"]),
    ("chat.conversations.ensure", &["gateway"]),
    ("chat.conversations.enter", &["gateway"]),
    ("chat.conversations.mine", &["gateway"]),
    ("chat.conversations.open", &["gateway"]),
    ("chat.blocks.find", &["gateway"]),
    ("chat.blocks.set", &["gateway"]),
    ("chat.reports.make", &["gateway"]),
    ("chat.unread", &["gateway"]),
    ("chat.heads", &["gateway"]),
    ("notify.notifications.page", &["gateway", "chat"]),
    ("notify.erasure.rename", &["chat"]),
    ("notify.erasure.delete", &["chat"]),
    ("notify.notifications.read", &["gateway"]),
    ("notify.notifications.seen", &["gateway"]),
    ("notify.notifications.archive", &["gateway"]),
    ("notify.preferences.get", &["gateway", "marketplace", "chat"]),
    ("notify.preferences.set", &["gateway", "marketplace"]),
    ("notify.heads", &["gateway"]),
    ("typing.input", &["gateway"]),
    ("typing.who", &["gateway"]),
    ("chat.people.find", &["gateway"]),
    ("presence.alive", &["gateway"]),
    ("presence.delta", &["gateway"]),
    ("presence.hello", &["notify", "typing"]),
    ("presence.snapshot.a1b2", &["notify", "typing"]),
    ("presence.user.1", &["chat", "notify", "typing"]),
    ("presence.shown.get", &["gateway", "chat"]),
    ("presence.shown.set", &["gateway"]),
    ("presence.who", &["gateway", "marketplace"]),
    ("presence.changed", &["notify"]),
    ("chat.messages.send", &["marketplace"]),
    ("chat.conversations.create", &["marketplace"]),
    ("sessions.revoke", &["gateway", "marketplace", "chat"]),
    ("users.erase", &["gateway", "marketplace"]),
    ("users.export", &["gateway", "marketplace"]),
    ("chat.messages.store", &["gateway"]),
    ("events.listing_published", &["gateway", "marketplace"]),
    ("events.payment_completed", &["gateway", "billing"]),
    ("events.report_received", &["gateway", "moderation"]),
    ("events.payment_refunded", &["gateway"]),
    ("chat.event.1", &["chat"]),
    ("chat.log", &["chat"]),
    ("chat.reported", &["chat"]),
    ("chat.changed", &["chat"]),
    ("users.erased", &["chat"]),
    ("$JS.API.STREAM.INFO.EVENTS", &["chat", "notify"]),
    ("chat.sent", &["notify"]),
    ("chat.read", &["notify"]),
    ("chat.opened", &["notify"]),
    ("chat.messages.describe", &["notify"]),
    ("notify.reminder", &["notify"]),
    ("notify.settled", &["notify"]),
    ("webhook.shop", &[]),
    ("$JS.API.STREAM.UPDATE.EVENTS_OUT", &["chat", "notify"]),
    ("$JS.API.STREAM.UPDATE.CHAT", &[]),
    ("typing.block.1", &["chat"]),
    ("notify.event.1", &["chat", "notify"]),
    ("deadletters.payment_completed", &["notify"]),
    ("typing.event.1", &["typing"]),
    ("$KV.REVOCATIONS.1", &["gateway"]),
    ("$JS.API.STREAM.CREATE.KV_REVOCATIONS", &["gateway"]),
    ("$JS.API.STREAM.CREATE.CHAT", &["chat", "notify"]),
    ("$JS.API.STREAM.CREATE.EVENTS", &["notify"]),
    ("$JS.API.STREAM.CREATE.EVENTS_OUT", &["chat", "notify"]),
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
    ("$JS.API.STREAM.INFO.EVENTS_OUT", &["chat", "notify", "moderation"]),
    ("$JS.API.CONSUMER.CREATE.EVENTS_OUT.moderation.chat.reported", &["moderation"]),
    ("$JS.API.CONSUMER.CREATE.EVENTS_OUT.other.chat.reported", &[]),
    ("$JS.API.CONSUMER.MSG.NEXT.EVENTS_OUT.moderation", &["notify", "moderation"]),
    ("$JS.API.CONSUMER.MSG.NEXT.EVENTS_OUT.other", &["notify"]),
    ("$JS.ACK.EVENTS_OUT.moderation.1.1.1.1.0", &["notify", "moderation"]),
    ("$SYS.REQ.SERVER.PING", &[]),
    ("_INBOX.gateway.x", &["gateway"]),
    ("_INBOX.chat-service.x", &["chat"]),
    ("_INBOX.notify-service.x", &["notify"]),
    ("_INBOX.typing-service.x", &["typing"]),
];

/// Subjects, each with the only users that may subscribe to it.
const SUBSCRIBE: [(&str, &[&str]); 49] = [
    ("chat.event.1", &["gateway"]),
    ("notify.event.1", &["gateway"]),
    ("typing.event.1", &["gateway", "typing"]),
    ("typing.block.1", &["gateway"]),
    ("sessions.revoke", &["gateway"]),
    ("chat.messages.pack", &["chat"]),
    ("chat.messages.send", &["chat"]),
    ("chat.messages.change", &["chat"]),
    ("chat.messages.versions", &["chat"]),
    ("chat.changes.page", &["chat"]),
    ("chat.kinds.list", &["chat"]),
    ("chat.conversations.create", &["chat"]),
    ("chat.heads", &["chat"]),
    ("chat.unread", &["chat"]),
    ("chat.blocks.find", &["chat"]),
    ("chat.blocks.set", &["chat"]),
    ("chat.reports.make", &["chat"]),
    ("notify.notifications.page", &["notify"]),
    ("notify.heads", &["notify"]),
    ("notify.preferences.set", &["notify"]),
    ("notify.erasure.delete", &["notify"]),
    ("users.erase", &["chat"]),
    ("typing.input", &["typing"]),
    ("typing.who", &["typing"]),
    ("chat.people.find", &["chat"]),
    ("presence.alive", &["notify", "typing"]),
    ("presence.delta", &["notify", "typing"]),
    ("presence.hello", &["gateway"]),
    ("presence.snapshot.a1b2", &["gateway"]),
    ("presence.user.1", &["gateway"]),
    ("presence.who", &["notify"]),
    ("presence.shown.set", &["notify"]),
    ("presence.changed", &[]),
    ("chat.log", &[]),
    ("chat.reported", &[]),
    ("chat.changed", &[]),
    ("users.erased", &[]),
    ("notify.reminder", &[]),
    ("notify.settled", &[]),
    ("events.payment_completed", &[]),
    ("deadletters.>", &[]),
    ("$KV.REVOCATIONS.>", &[]),
    ("$JS.API.>", &[]),
    ("$SYS.>", &[]),
    (">", &[]),
    ("$SRV.PING", &SERVICES),
    // The backends have an account of their own, without the replies of others.
    ("_INBOX.>", &BACKENDS),
    ("_INBOX.gateway.>", &["gateway", "billing", "marketplace"]),
    ("_INBOX.moderation.>", &["moderation", "billing", "marketplace"]),
];

/// Subject that every user is denied. Its denial shows that all earlier commands have been checked.
const DENIED: &str = "denied.to.all";

/// Connects as a user. The receiver yields each subject that nats-server denies.
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

/// Collects the denied subjects until `DENIED`.
async fn until_last(denials: &mut Receiver<String>) -> BTreeSet<String> {
    let mut denied = BTreeSet::new();
    loop {
        match within("a denial of nats-server", denials.recv()).await.unwrap() {
            subject if subject == DENIED => return denied,
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
        for subject in PUBLISH.iter().map(|(subject, _)| *subject).chain([DENIED]) {
            client.publish(subject, "".into()).await.unwrap();
        }
        assert_eq!(until_last(&mut denials).await, expected(&PUBLISH, user), "publications of {user}");
        let mut subscriptions = Vec::new();
        for subject in SUBSCRIBE.iter().map(|(subject, _)| *subject).chain([DENIED]) {
            subscriptions.push(client.subscribe(subject).await.unwrap());
        }
        assert_eq!(until_last(&mut denials).await, expected(&SUBSCRIBE, user), "subscriptions of {user}");
    }
}

#[tokio::test]
async fn a_connection_without_valid_credentials_is_refused() {
    let server =
        NatsServer::start_with(NatsOptions { accounts: true, ..NatsOptions::default() }).await.unwrap();
    assert!(async_nats::connect(server.url()).await.is_err());
    for (user, password) in [("billing", "wrong"), ("nobody", "billingsecret"), ("billing", "")] {
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        assert!(options.connect(server.url()).await.is_err(), "{user} with {password:?}");
    }
}

/// Publishes an event and returns the stream that acknowledged it.
async fn store(client: &Client, subject: &'static str, event: &str) -> String {
    let sent = jetstream::new(client.clone()).publish(subject, event.to_owned().into()).await;
    sent.unwrap().await.unwrap().stream
}

#[tokio::test]
async fn a_backend_reaches_its_imports_and_receives_no_replies_of_others() {
    let stack = Stack::start().await;
    let backend = async |user: &str| stack.nats_options(user).connect(stack.nats_urls(user)).await.unwrap();
    let (billing, marketplace) = (backend("billing").await, backend("marketplace").await);
    let mut inbox = billing.subscribe("_INBOX.>").await.unwrap();
    billing.flush().await.unwrap();

    let conversation = json!({"participants": [{"user_id": 1}, {"user_id": 2}]}).to_string();
    let made = marketplace.request("chat.conversations.create", conversation.into()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    let send = json!({"conversation_id": made["conversation_id"], "sender_id": 1, "message": "Bonjour"});
    let sent = marketplace.request("chat.messages.send", send.to_string().into()).await.unwrap();
    let sent: Value = serde_json::from_slice(&sent.payload).unwrap();
    assert_eq!(sent["seq"], 1, "{sent}");
    let revoked = marketplace.request("sessions.revoke", r#"{"user_id": 3}"#.into()).await.unwrap();
    assert!(revoked.payload.starts_with(b"{\"revoked_before\""), "{revoked:?}");

    // With an acknowledgement, and as a plain publication like in the guide.
    let paid = json!({"user_id": 7, "data": {"payment_id": 789}}).to_string();
    assert_eq!(store(&billing, "events.payment_completed", &paid).await, "EVENTS");
    billing.publish("events.payment_completed", paid.into()).await.unwrap();
    let listed = json!({"user_id": 7, "data": {"listing_id": 12}}).to_string();
    assert_eq!(store(&marketplace, "events.listing_published", &listed).await, "EVENTS");
    let notified = || async {
        (stack.get("/api/notifications/unread_count", 7).await["unread_count"] == 3).then_some(())
    };
    eventually("three notifications", notified).await;

    // Of all these replies, billing has received only its own.
    let reply = within("the acknowledgement", inbox.next()).await.unwrap();
    assert!(reply.payload.starts_with(b"{\"stream\":\"EVENTS\""), "{reply:?}");
}
