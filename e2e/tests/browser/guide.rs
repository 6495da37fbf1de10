//! The guide's JavaScript, unchanged, in pages that define the functions it uses.

use crate::{browser::Browser, engine::Engine};
use e2e::{Kind, Options, Socket, Stack, token_with};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

const CHAT: &str = include_str!("guide/chat.js");
const NOTIFICATIONS: &str = include_str!("guide/notifications.js");
const TYPING: &str = include_str!("guide/typing.js");
const AUTH: &str = include_str!("guide/auth.js");

/// Functions and elements that the snippets expect of their page.
const PAGE: &str = include_str!("page.js");

/// Makes the socket of a snippet a property of the window, because Firefox hides constants from the scripts of WebDriver.
const EXPOSE: &str = "for (const name of ['chatSocket', 'notificationSocket', 'typingSocket'])
    try { window[name] = eval(name); } catch (notInThisSnippet) {}";

const COOKIE: &str = "access_token";
const JOHN: i64 = 456;
const MARY: i64 = 457;

fn johns_token() -> String {
    token_with(json!({"user_id": JOHN, "username": "john_doe"}))
}

/// Starts a stack with the guide's conversation of John and Mary.
async fn stack() -> Stack {
    let env = vec![("TOKEN_COOKIE", COOKIE.to_owned())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let mut database = PgConnection::connect(&stack.database.url()).await.expect("the database");
    let next = "alter table chat.conversations alter column conversation_id restart with 123";
    database.execute(next).await.expect("set the next id");
    assert_eq!(stack.conversation(&[JOHN, MARY]).await, 123);
    stack
}

/// Opens a page of this origin that has no content security policy.
async fn open_page(browser: &Browser, origin: &str) {
    browser.goto(&format!("{origin}/healthz")).await;
    browser.inject(&[PAGE]).await;
}

/// Opens a page with this snippet and John's token in a cookie.
async fn open_johns_page(browser: &Browser, stack: &Stack, snippet: &str) {
    let origin = format!("http://{}", stack.host(0));
    open_page(browser, &origin).await;
    let cookie = format!("{COOKIE}={}; path=/; SameSite=Strict", johns_token());
    browser.run("document.cookie = arguments[0]", vec![cookie.into()]).await;
    browser.inject(&[snippet, EXPOSE]).await;
}

#[tokio::test]
async fn the_guides_chat_shows_and_sends_messages() {
    for engine in Engine::ALL {
        chat_in(engine).await;
    }
}

async fn chat_in(engine: Engine) {
    let Some(browser) = Browser::start(engine).await else { return };
    let mut stack = stack().await;
    let mut mary = stack.socket("/ws/chat/123/", MARY).await;
    open_johns_page(&browser, &stack, CHAT).await;
    browser.until("logged.includes('Connected to chat')").await;

    browser.eval("sendMessage('Bonjour!')").await;
    assert_eq!(mary.next().await["content"], "Bonjour!");
    mary.say("Salut John 👋").await;
    mary.next().await;
    browser.until("shown.length === 2").await;
    let shown = browser.eval("shown").await;
    let expected = [(JOHN, "john_doe", "Bonjour!"), (MARY, "name-457", "Salut John 👋")];
    for (message, (sender, username, content)) in shown.as_array().unwrap().iter().zip(expected) {
        assert_eq!(message["type"], "message");
        assert_eq!((&message["sender_id"], &message["sender_username"]), (&json!(sender), &json!(username)));
        assert_eq!((&message["content"], &message["is_read"]), (&json!(content), &json!(false)));
        assert!(message["message_id"].is_i64(), "{message}");
        assert!(message["created_at"].as_str().unwrap().ends_with('Z'), "{message}");
    }
    let dates = "shown.every(({ created_at }) => Math.abs(new Date(created_at) - Date.now()) < 600_000)";
    assert_eq!(browser.eval(dates).await, true);

    // The page receives frames that the guide doesn't mention, and ignores them.
    mary.send(json!({"type": "edit", "message_id": shown[1]["message_id"], "message": "Bonsoir John"})).await;
    mary.next_of("changed").await;
    mary.send(json!({"type": "delete", "message_id": shown[1]["message_id"]})).await;
    mary.next_of("changed").await;
    mary.send(json!({"type": "read", "message_id": shown[0]["message_id"]})).await;
    browser.eval("chatSocket.send('this is not JSON')").await;
    // A message of a kind that replies to another one is a message with a text.
    let data = json!({"amount": 4500, "currency": "EUR", "state": "open"});
    let offer = json!({"kind": "offer", "data": data, "reply_to": shown[0]["message_id"]});
    mary.send(offer).await;
    mary.say("Tu es là ?").await;
    browser.until("shown.length === 4").await;
    let contents = browser.eval("shown.slice(2).map(({ content }) => content)").await;
    assert_eq!(contents, json!(["Offre : 45 € (en attente)", "Tu es là ?"]));

    stack.kill(Kind::Gateway, 0).await;
    browser.until("logged.includes('Chat connection closed')").await;
    assert_eq!(browser.eval("faults").await, json!([]));
}

#[tokio::test]
async fn the_guides_page_shows_only_notifications_and_in_french() {
    for engine in Engine::ALL {
        notifications_in(engine).await;
    }
}

async fn notifications_in(engine: Engine) {
    let Some(browser) = Browser::start(engine).await else { return };
    let stack = stack().await;
    open_johns_page(&browser, &stack, NOTIFICATIONS).await;
    browser.until("notificationSocket.readyState === WebSocket.OPEN").await;
    let mut modern = stack.socket("/ws/notifications/?after=latest", JOHN).await;

    let mut mary = stack.socket("/ws/chat/123/", MARY).await;
    mary.say("Bonjour!").await;
    browser.until("shown.length === 1").await;
    let backend = stack.backend().await;
    let publish = async |subject: &'static str, data: Value| {
        let event = json!({"user_id": JOHN, "data": data});
        backend.publish(subject, event.to_string().into()).await.unwrap();
    };
    publish("events.payment_completed", json!({"payment_id": 789})).await;
    browser.until("shown.length === 2").await;
    // A read reaches only clients that understand it: John's other socket, but not the guide's page.
    let paid = modern.next_of("payment_completed").await;
    let id = &paid["notification_id"];
    stack.post(&format!("/api/notifications/{id}/read"), JOHN, json!({})).await.expect(204);
    assert_eq!(&modern.next_of("read").await["notification_id"], id);
    publish("events.listing_published", json!({"listing_id": 456})).await;
    browser.until("shown.length === 3").await;

    let expected = json!([
        ["Nouveau message", "name-457 a envoyé un message"],
        ["Paiement confirmé", "Votre paiement a été traité"],
        ["Annonce publiée", "Votre annonce est maintenant visible"],
    ]);
    assert_eq!(browser.eval("shown").await, expected);
    assert_eq!(browser.eval("faults").await, json!([]));
}

#[tokio::test]
async fn the_guides_typing_indicator_shows_and_hides() {
    for engine in Engine::ALL {
        typing_in(engine).await;
    }
}

async fn typing_in(engine: Engine) {
    let Some(browser) = Browser::start(engine).await else { return };
    let stack = stack().await;
    let mut mary = stack.socket("/ws/typing/123/", MARY).await;
    open_johns_page(&browser, &stack, TYPING).await;
    browser.until("typingSocket.readyState === WebSocket.OPEN").await;

    browser.keys("#message-input", "Bonjour Mary").await;
    let typing = mary.next().await;
    assert_eq!((&typing["username"], &typing["is_typing"]), (&json!("john_doe"), &json!(true)));
    browser.click("#elsewhere").await;
    assert_eq!(mary.next().await["is_typing"], false, "one event at the start and one at the end");

    mary.send(json!({"is_typing": true})).await;
    browser.until("shown.length === 1").await;
    mary.send(json!({"is_typing": false})).await;
    browser.until("shown.length === 2").await;
    mary.send(json!({"is_typing": true})).await;
    browser.until("shown.length === 3").await;
    mary.close().await;
    browser.until("shown.length === 4").await;
    let (on, off) = (json!(["typing", "name-457"]), json!(["silent", "name-457"]));
    assert_eq!(browser.eval("shown").await, json!([on, off, on, off]));
    assert_eq!(browser.eval("faults").await, json!([]));
}

#[tokio::test]
async fn a_token_in_the_url_opens_the_guides_chat() {
    if Engine::Chromium.installed().is_none() {
        return;
    }
    let stack = stack().await;
    // The snippet connects to localhost:8000, which must reach this stack.
    let map = format!("--host-resolver-rules=MAP localhost:8000 {}", stack.host(0));
    let Some(browser) = Browser::with_flags(&[&map]).await else { return };
    let open = async |origin: &str| {
        open_page(&browser, origin).await;
        browser.run("localStorage.setItem('access_token', arguments[0])", vec![johns_token().into()]).await;
        let more = "chatSocket.onmessage = ({ data }) => addMessage(JSON.parse(data));
            chatSocket.onopen = () => console.log('open');
            chatSocket.onclose = () => console.log('closed');";
        browser.inject(&["const conversationId = 123;", AUTH, more]).await;
    };
    open("http://localhost:8000").await;
    browser.until("logged.includes('open')").await;
    let mut mary: Socket = stack.socket("/ws/chat/123/", MARY).await;
    mary.say("Bonjour John").await;
    browser.until("shown.length === 1").await;
    assert_eq!(browser.eval("shown[0].content").await, "Bonjour John");
    assert_eq!(browser.eval("faults").await, json!([]));

    // The same page from another origin, which is not allowed.
    open(&format!("http://{}", stack.host(0))).await;
    browser.until("logged.includes('closed')").await;
    assert_eq!(browser.eval("logged").await, json!(["closed"]));
}
