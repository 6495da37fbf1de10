//! The guide's JavaScript, unchanged, in pages that define the functions it uses.

use crate::{browser::Browser, engine::Engine};
use e2e::{Kind, Options, Socket, Stack, token, token_with, within};
use fantoccini::wd::WindowHandle;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

const CHAT: &str = include_str!("guide/chat.js");
const NOTIFICATIONS: &str = include_str!("guide/notifications.js");
const TYPING: &str = include_str!("guide/typing.js");
const AUTH: &str = include_str!("guide/auth.js");

/// Makes the page show what the snippets pass to its functions.
const DOM: &str = include_str!("guide/dom.js");
/// What the pages then show, as recorded without a client that uses anything new.
const RECORDING: &str = include_str!("guide/recording.txt");

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

/// Origin of the pages in [`Pages`]: the guide's snippet with a token connects to this address.
const ORIGIN: &str = "http://localhost:8000";

/// A page with each of the guide's four snippets, for the same user, in one browser.
struct Pages {
    browser: Browser,
    windows: Vec<(&'static str, WindowHandle)>,
}

// Indices of the pages.
const CHAT_PAGE: usize = 0;
const NOTIFICATIONS_PAGE: usize = 1;
const TYPING_PAGE: usize = 2;
const TOKEN_PAGE: usize = 3;

impl Pages {
    /// Opens the pages and waits until they are connected. `None` if there is no browser.
    async fn open(stack: &Stack) -> Option<Self> {
        let map = format!("--host-resolver-rules=MAP localhost:8000 {}", stack.host(0));
        let mut pages = Self { browser: Browser::with_flags(&[&map]).await?, windows: Vec::new() };
        // The snippet only opens the socket; what follows is the chat's.
        let (_, handlers) = CHAT.split_once(");\n").expect("the end of the socket's address");
        let with_token = [&format!("const conversationId = 123;\n{AUTH}"), handlers].concat();
        for (name, socket, snippet) in [
            ("chat", "chatSocket", CHAT),
            ("notifications", "notificationSocket", NOTIFICATIONS),
            ("typing", "typingSocket", TYPING),
            ("token", "chatSocket", &with_token),
        ] {
            let browser = &pages.browser;
            let window =
                if pages.windows.is_empty() { browser.window().await } else { browser.new_window().await };
            open_page(browser, ORIGIN).await;
            let cookie = format!("{COOKIE}={}; path=/; SameSite=Strict", token(JOHN));
            browser.run("document.cookie = arguments[0]", vec![cookie.into()]).await;
            browser.run("localStorage.setItem('access_token', arguments[0])", vec![token(JOHN).into()]).await;
            browser.inject(&[DOM, snippet, EXPOSE]).await;
            browser.until(&format!("{socket}.readyState === WebSocket.OPEN")).await;
            pages.windows.push((name, window));
        }
        Some(pages)
    }

    /// Switches to a page.
    async fn switch(&self, page: usize) -> &Browser {
        self.browser.switch(&self.windows[page].1).await;
        &self.browser
    }

    /// Waits until these pages show so many lines.
    async fn show(&self, lines: &[(usize, usize)]) {
        for (page, count) in lines {
            let count = format!("document.querySelectorAll('li').length >= {count}");
            self.switch(*page).await.until(&count).await;
        }
    }

    /// What all pages show.
    async fn record(&self) -> String {
        let mut record = String::new();
        for page in 0..self.windows.len() {
            let browser = self.switch(page).await;
            let dom = browser.eval("document.body.outerHTML").await;
            let dom = dom.as_str().expect("a text").replace("><", ">\n<");
            let [logged, faults] = [browser.eval("logged").await, browser.eval("faults").await];
            let name = self.windows[page].0;
            record += &format!("{name}\n{dom}\nlogged: {logged}\nfaults: {faults}\n\n");
        }
        record
    }
}

/// The newest message of the conversation.
async fn newest_message(stack: &Stack) -> Value {
    let page = stack.get("/api/conversations/123/messages", MARY).await;
    let messages = page["items"].as_array().expect("messages").iter();
    messages.filter_map(|message| message["message_id"].as_i64()).max().into()
}

/// The clients of John and Mary that use everything new.
struct Modern<'a> {
    stack: &'a Stack,
    john: Socket,
    mary: Socket,
}

impl<'a> Modern<'a> {
    async fn open(stack: &'a Stack) -> Self {
        let (mut john, mut mary) = (stack.socket("/ws/", JOHN).await, stack.socket("/ws/", MARY).await);
        for socket in [&mut john, &mut mary] {
            for channel in ["chat/123", "notifications", "typing/123", "presence/123"] {
                socket.send(json!({"op": "subscribe", "channel": channel, "ref": channel})).await;
                while socket.next().await["ref"] != channel {}
            }
        }
        Self { stack, john, mary }
    }

    /// Waits until John's client receives a frame of this type about which something is true.
    async fn receives(&mut self, kind: &str, is_wanted: impl Fn(&Value) -> bool) {
        within(kind, async {
            loop {
                let frame = self.john.next().await;
                if frame["data"]["type"] == kind && is_wanted(&frame["data"]) {
                    return;
                }
            }
        })
        .await;
    }

    async fn presence(&mut self) {
        for online in [false, true] {
            let shown = json!({"shown": online});
            self.stack.call("PUT", "/api/me/presence", MARY, Some(shown)).await.expect(204);
            self.receives("presence", |data| data["user_id"] == MARY && data["online"] == online).await;
            self.john.send(json!({"op": "visible", "visible": online, "ref": "v"})).await;
            while self.john.next().await["ref"] != "v" {}
        }
        self.stack.get("/api/presence?user_ids=457", JOHN).await;
    }

    async fn preferences(&self) {
        let quiet = json!({"from": "00:00", "to": "23:59", "tz": "Europe/Paris"});
        let change = json!({"types": {"message_received": {"mail": false}}, "quiet": quiet});
        self.stack.call("PATCH", "/api/me/preferences", JOHN, Some(change)).await.expect(200);
    }

    /// Mary reads the newest message.
    async fn read(&mut self) {
        let data = json!({"type": "read", "message_id": newest_message(self.stack).await});
        self.mary.send(json!({"op": "send", "channel": "chat/123", "data": data, "ref": "r"})).await;
        self.receives("read", |data| data["user_id"] == MARY).await;
    }

    /// Mary changes a message.
    async fn change(&mut self, mut change: Value, message: &Value) {
        change["message_id"] = message.clone();
        self.mary.send(json!({"op": "send", "channel": "chat/123", "data": change, "ref": "c"})).await;
        self.receives("changed", |data| data["message"]["message_id"] == *message).await;
    }

    /// John mutes, archives and pins the conversation.
    async fn settings(&mut self) {
        let mine = json!({"muted_until": "forever", "archived": true, "pinned": true});
        self.stack.call("PUT", "/api/conversations/123/mine", JOHN, Some(mine)).await.expect(204);
        self.receives("mine", |data| data["pinned"] == true).await;
    }

    /// John has seen his newest notification, and archives it.
    async fn notification(&mut self) {
        let page = self.stack.get("/api/notifications", JOHN).await;
        let id = page["items"][0]["notification_id"].clone();
        self.stack.post("/api/notifications/seen", JOHN, json!({"notification_id": id})).await.expect(200);
        self.receives("seen", |data| data["notification_id"] == id).await;
        self.stack.post(&format!("/api/notifications/{id}/archive"), JOHN, json!({})).await.expect(204);
        self.receives("read", |data| data["notification_id"] == id).await;
    }

    /// John reads everything.
    async fn read_all(&mut self) {
        let body = json!({"message_id": newest_message(self.stack).await});
        self.stack.post("/api/conversations/123/read", JOHN, body).await.expect(204);
        self.receives("read", |data| data["conversation_id"] == 123 && data["user_id"] == JOHN).await;
        let data = json!({"type": "read_all"});
        self.john.send(json!({"op": "send", "channel": "notifications", "data": data, "ref": "a"})).await;
    }
}

/// Rule 1 of the additions: the guide's pages show what they showed before, whatever other clients use.
#[tokio::test]
async fn the_guides_pages_notice_nothing_of_clients_that_use_everything_new() {
    for everything in [false, true] {
        let stack = stack().await;
        let Some(pages) = Pages::open(&stack).await else { return };
        let modern = if everything { Some(Modern::open(&stack).await) } else { None };
        let shown = shown(&stack, &pages, modern).await;
        assert!(
            shown.trim_end() == RECORDING.trim_end(),
            "with everything new: {everything}. The pages show:\n{shown}"
        );
    }
}

/// What the pages show after the same visible events. Between them, modern clients do what no old page shall notice.
async fn shown(stack: &Stack, pages: &Pages, mut modern: Option<Modern<'_>>) -> String {
    let mut mary = stack.socket("/ws/chat/123/", MARY).await;
    let mut mary_types = stack.socket("/ws/typing/123/", MARY).await;
    let backend = stack.backend().await;
    let publish = async |subject: &'static str, data: Value| {
        let event = json!({"user_id": JOHN, "data": data});
        backend.publish(subject, event.to_string().into()).await.expect("publish");
    };
    if let Some(modern) = &mut modern {
        modern.presence().await;
        modern.preferences().await;
    }
    pages.switch(CHAT_PAGE).await.eval("sendMessage('Bonjour!')").await;
    pages.show(&[(CHAT_PAGE, 1), (TOKEN_PAGE, 1)]).await;
    if let Some(modern) = &mut modern {
        modern.read().await;
    }
    mary.say("Salut John 👋").await;
    pages.show(&[(CHAT_PAGE, 2), (TOKEN_PAGE, 2), (NOTIFICATIONS_PAGE, 1)]).await;
    let salute = newest_message(stack).await;
    if let Some(modern) = &mut modern {
        modern.change(json!({"type": "edit", "message": "Bonsoir John"}), &salute).await;
        modern.settings().await;
        modern.notification().await;
    }
    // A message of a kind that replies to another one is shown like its text.
    let offer = json!({"amount": 4500, "currency": "EUR", "state": "open"});
    match modern {
        Some(_) => mary.send(json!({"kind": "offer", "data": offer, "reply_to": salute})).await,
        None => mary.say("Offre : 45 € (en attente)").await,
    }
    pages.show(&[(CHAT_PAGE, 3), (TOKEN_PAGE, 3), (NOTIFICATIONS_PAGE, 2)]).await;
    if let Some(modern) = &mut modern {
        modern.change(json!({"type": "delete"}), &salute).await;
        modern.read_all().await;
    }
    publish("events.payment_completed", json!({"payment_id": 789})).await;
    pages.show(&[(NOTIFICATIONS_PAGE, 3)]).await;
    if let Some(modern) = &mut modern {
        modern.notification().await;
        modern.presence().await;
    }
    publish("events.listing_published", json!({"listing_id": 456})).await;
    pages.show(&[(NOTIFICATIONS_PAGE, 4)]).await;

    let page = pages.switch(TYPING_PAGE).await;
    page.keys("#message-input", "Bonjour Mary").await;
    assert_eq!(mary_types.next().await["is_typing"], true);
    page.click("#elsewhere").await;
    assert_eq!(mary_types.next().await["is_typing"], false);
    for (is_typing, lines) in [(true, 1), (false, 2)] {
        let data = json!({"is_typing": is_typing});
        match &mut modern {
            Some(modern) => {
                modern.mary.send(json!({"op": "send", "channel": "typing/123", "data": data})).await;
            }
            None => mary_types.send(data).await,
        }
        pages.show(&[(TYPING_PAGE, lines)]).await;
    }
    // What is sent to a page before this message has arrived before it.
    mary.say("Tu es là ?").await;
    pages.show(&[(CHAT_PAGE, 4), (TOKEN_PAGE, 4), (NOTIFICATIONS_PAGE, 5)]).await;
    pages.record().await
}
