//! The demo page with two users, Alice and Bruno, in separate browsers.

use crate::{browser::Browser, engine::Engine};
use e2e::{Kind, Options, Stack, TIMEOUT, eventually, token_with, within};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Instant;

const ALICE: i64 = 1;
const BRUNO: i64 = 2;
const CHLOE: i64 = 3;
// Codes of keys in WebDriver.
const BACKSPACE: char = '\u{e003}';
const TAB: char = '\u{e004}';
const ESCAPE: char = '\u{e00c}';
const DOWN: char = '\u{e015}';

/// Functions with which the tests read the state of a page.
const HELPERS: &str = r#"
window.part = (id) => document.getElementById(id);
window.texts = (selector) => [...document.querySelectorAll(selector)].map((node) => node.innerText);
window.messages = () => texts('#messages .text');
window.states = () => [...document.querySelectorAll('#messages .mine')].map((node) => node.dataset.state);
window.online = () => document.body.dataset.state === 'online' && !part('banner').innerText;
window.typing = () => (part('typing').hidden ? '' : part('typing').innerText.trim());
window.bell = () => (part('bell-badge').hidden ? '' : part('bell-badge').innerText);
window.row = (id) => document.querySelector(`#conversations [data-conversation="${id}"]`);
window.badge = (id) => (row(id).querySelector('.badge').hidden ? 0 : parseInt(row(id).querySelector('.badge').innerText));
window.settled = () => online() && states().every((state) => state === 'read') && !typing();
"#;

struct Demo {
    stack: Stack,
    nats: async_nats::Client,
    /// Conversation of Alice and Bruno about the bike.
    bike: i64,
}

fn name(user: i64) -> &'static str {
    match user {
        ALICE => "alice",
        BRUNO => "bruno",
        _ => "chloé",
    }
}

fn token(user: i64) -> String {
    token_with(json!({"user_id": user, "username": name(user)}))
}

impl Demo {
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let stack = Stack::with(options).await;
        let nats = stack.backend().await;
        let mut demo = Self { stack, nats, bike: 0 };
        demo.bike = demo.conversation(&[ALICE, BRUNO], 1, "Vélo de ville, 120 €").await;
        demo
    }

    async fn conversation(&self, people: &[i64], listing: i64, title: &str) -> i64 {
        let people: Vec<Value> =
            people.iter().map(|user| json!({"user_id": user, "username": name(*user)})).collect();
        let conversation = json!({"participants": people, "listing_id": listing, "title": title});
        let made = self.nats.request("chat.conversations.create", conversation.to_string().into()).await;
        let made: Value = serde_json::from_slice(&made.expect("a reply").payload).expect("a conversation");
        made["conversation_id"].as_i64().expect("its id")
    }

    /// Sends a message over NATS, without the sender's page.
    async fn send(&self, conversation: i64, user: i64, text: &str) {
        let send = json!({"conversation_id": conversation, "sender_id": user, "sender_username": name(user), "message": text});
        self.nats.request("chat.messages.send", send.to_string().into()).await.expect("a message");
    }

    async fn publish_payment(&self, user: i64, payment: i64) {
        let event = json!({"user_id": user, "data": {"payment_id": payment}});
        self.nats.publish("events.payment_completed", event.to_string().into()).await.expect("publish");
    }

    fn address(&self, user: i64) -> String {
        let peer = token(ALICE + BRUNO - user);
        format!(
            "http://{}/demo/#me={}&peer={peer}&nats={}",
            self.stack.host(0),
            token(user),
            self.stack.nats.url()
        )
    }

    /// Opens a user's page in Chromium and waits until it is connected. `None` if there is no browser.
    async fn page(&self, user: i64, width: u32) -> Option<Browser> {
        self.page_in(Engine::Chromium, user, width).await
    }

    async fn page_in(&self, engine: Engine, user: i64, width: u32) -> Option<Browser> {
        let browser = Browser::start(engine).await?;
        browser.set_viewport(width, 800, "light").await;
        self.load(&browser, user).await;
        Some(browser)
    }

    async fn load(&self, browser: &Browser, user: i64) {
        // From the demo itself, only the fragment would change: the page would reload, and lose the helpers.
        browser.goto("about:blank").await;
        browser.goto(&self.address(user)).await;
        browser.run(HELPERS, vec![]).await;
        browser.until("online() && document.querySelector('#conversations .row')").await;
    }

    /// Opens the pages of both users: Alice's in Chromium, and Bruno's in Firefox if it is installed. `None` if there
    /// is no browser.
    async fn both(&self) -> Option<[Browser; 2]> {
        let firefox = Engine::Firefox.installed().map_or(Engine::Chromium, |_| Engine::Firefox);
        let (alice, bruno) = tokio::join!(self.page(ALICE, 1280), self.page_in(firefox, BRUNO, 1280));
        Some([alice?, bruno?])
    }
}

async fn type_text(browser: &Browser, text: &str) {
    browser.keys("#text", text).await;
}

/// Sends a message and waits until the other pages show it and the sender's page shows it as read.
async fn send_and_wait(browser: &Browser, others: &[&Browser], text: &str) {
    type_text(browser, &format!("{text}\n")).await;
    for other in others {
        other.until(&format!("messages().at(-1) === {}", json!(text))).await;
    }
    browser.until(&format!("messages().at(-1) === {} && settled()", json!(text))).await;
}

#[tokio::test]
async fn two_users_chat_see_each_other_type_and_get_notifications() {
    let demo = Demo::start().await;
    let sofa = demo.conversation(&[CHLOE, ALICE], 2, "Canapé trois places, 250 €").await;
    demo.send(sofa, CHLOE, "Bonjour Alice, votre canapé m’intéresse.").await;
    demo.send(sofa, CHLOE, "Il passe par une porte de 80 cm ?").await;
    demo.send(demo.bike, BRUNO, "Bonjour Alice, le vélo est toujours là.").await;
    // Before the page opens: a notification that arrives later shows a toast.
    eventually("the notifications of both conversations", async || {
        let page = demo.stack.get("/api/notifications", ALICE).await;
        let items = page["items"].as_array().expect("notifications").iter();
        let counts =
            items.filter(|item| item["is_read"] == false).filter_map(|item| item["data"]["count"].as_i64());
        counts.sum::<i64>() == 3
    })
    .await;
    let Some([alice, bruno]) = demo.both().await else { return };

    // The page opens the newest conversation, which marks it as read. The other one stays unread.
    alice
        .until(&format!("messages().length === 1 && badge({sofa}) === 2 && badge({}) === 0", demo.bike))
        .await;
    assert_eq!(alice.eval(&format!("row({}).ariaCurrent", demo.bike)).await, "true");
    assert_eq!(alice.eval("document.title").await, "(2) Messages · Vyzio");
    bruno.until("settled() && states()[0] === 'read'").await;

    type_until_seen(&alice, &bruno, "Bonjour Bruno, quelle taille fait le cadre ?", "Alice écrit…").await;
    assert_eq!(alice.eval("typing()").await, "");
    type_text(&alice, "\n").await;
    alice.until("messages().length === 2 && settled()").await;
    send_and_wait(&bruno, &[&alice], "Un 52, parfait entre 1,62 m et 1,75 m.").await;
    send_and_wait(&alice, &[&bruno], "<b>Merci</b> & à ce soir").await;
    let expected = json!([
        "Bonjour Alice, le vélo est toujours là.",
        "Bonjour Bruno, quelle taille fait le cadre ?",
        "Un 52, parfait entre 1,62 m et 1,75 m.",
        "<b>Merci</b> & à ce soir",
    ]);
    assert_eq!(alice.eval("messages()").await, expected);
    assert_eq!(bruno.eval("messages()").await, expected);
    assert_eq!(bruno.eval("document.querySelector('.message b')").await, Value::Null);
    let announced = "part('announcer').textContent";
    assert_eq!(bruno.eval(announced).await, "Alice: <b>Merci</b> & à ce soir", "the text for screen readers");

    // Messages in the open conversation show no toast; other notifications do.
    assert_eq!(alice.eval("texts('.toast')").await, json!([]));
    bruno.until("!bell()").await;
    demo.send(sofa, CHLOE, "J’ai une camionnette 🚚").await;
    alice.until("texts('.toast')[0] === 'Nouveau message\\nchloé a envoyé un message'").await;
    alice.until(&format!("badge({sofa}) === 3 && texts('#conversations strong')[0] === 'Chloé'")).await;
    demo.publish_payment(ALICE, 789).await;
    alice
        .until("texts('.toast')[0] === 'Paiement confirmé\\nVotre paiement a été traité' && bell() === '2'")
        .await;
    type_until_seen(&bruno, &alice, "À ce soir, ", "Bruno écrit…").await;
    alice.screenshot("demo-light").await;

    alice.click("#bell").await;
    alice.until("texts('.notification').length >= 2 && document.activeElement.id === 'panel-title'").await;
    assert_eq!(alice.eval("texts('.toast')").await, json!([]), "the open list replaces the toasts");
    alice.screenshot("demo-notifications").await;
    alice.click("#read-all").await;
    alice.until("!bell()").await;
    alice.keys("#panel-title", &ESCAPE.to_string()).await;
    alice.until("part('panel').hidden && document.activeElement.id === 'bell'").await;

    // The other language, which is kept after a reload. Bruno's typing may have ended in the meantime.
    type_until_seen(&bruno, &alice, "donc ", "Bruno écrit…").await;
    alice.click("[data-lang=en]").await;
    type_until_seen(&bruno, &alice, "à 18 h. ", "Bruno is typing…").await;
    assert_eq!(
        alice.eval("[part('status').innerText, part('text').placeholder]").await,
        json!(["Connected", "Your message"])
    );
    alice.run("location.reload()", vec![]).await;
    alice
        .until(
            "document.body.dataset.state === 'online' && document.querySelectorAll('.message').length === 4",
        )
        .await;
    alice.run(HELPERS, vec![]).await;
    assert_eq!(alice.eval("messages()").await, expected);
    assert_eq!(alice.eval("document.documentElement.lang").await, "en");
    bruno.screenshot("demo-light").await;
    bruno.set_viewport(1280, 800, "dark").await;
    bruno.screenshot("demo-dark").await;
    alice.set_viewport(1280, 800, "dark").await;
    alice.screenshot("demo-dark").await;
}

#[tokio::test]
async fn a_user_opens_a_conversation_blocks_and_reports() {
    let demo = Demo::start().await;
    let Some([alice, bruno]) = demo.both().await else { return };
    alice.until("!part('block').hidden && part('block').ariaPressed === 'false'").await;
    assert_eq!(alice.eval("part('block').ariaLabel").await, "Bloquer Bruno");
    alice.click("#block").await;
    alice.until("part('block').ariaPressed === 'true'").await;
    assert_eq!(alice.eval("part('action-said').textContent").await, "Bruno ne peut plus vous écrire.");
    type_text(&bruno, "Bonjour ?\n").await;
    bruno.until("texts('.failure')[0]?.startsWith('Cette personne vous a bloqué.')").await;
    alice.click("#block").await;
    alice.until("part('block').ariaPressed === 'false'").await;
    bruno.click(".failure .link").await;
    alice.until("messages().at(-1) === 'Bonjour ?'").await;

    let mut reports = demo.nats.subscribe("chat.reported").await.expect("subscribe");
    alice.click("#report").await;
    alice.keys("#report-field", "Demande un paiement hors du site.").await;
    alice.screenshot("demo-report").await;
    alice.click("#report-form [type=submit]").await;
    alice.until("!part('report-dialog').open && part('action-said').textContent.startsWith('Merci')").await;
    let report = within("the report", reports.next()).await.expect("a report");
    let report: Value = serde_json::from_slice(&report.payload).expect("JSON");
    assert_eq!((&report["user_id"], &report["reporter_id"]), (&json!(BRUNO), &json!(ALICE)));

    alice.click("#new").await;
    alice.keys("#new-field", &format!("{ALICE}\n")).await;
    alice.until("part('new-error').textContent !== ''").await;
    alice.run("part('new-field').value = ''", vec![]).await;
    alice.keys("#new-field", &format!("{CHLOE}\n")).await;
    alice
        .until("!part('new-dialog').open && document.activeElement.id === 'text' && messages().length === 0")
        .await;
    alice.until("document.querySelectorAll('#conversations .row').length === 2").await;
    alice.screenshot("demo-new").await;
}

/// The button for the menu of a message on the page, from 1.
fn menu_of(message: usize) -> String {
    format!("#messages .message:nth-child({}) .more-actions", message + 1) // The day is above.
}

/// Sends keys to the focused element.
async fn press(browser: &Browser, keys: &str) {
    browser.keys(":focus", keys).await;
}

#[tokio::test]
async fn a_sender_edits_and_deletes_messages_with_the_pointer_and_with_the_keyboard() {
    let demo = Demo::start().await;
    let Some([alice, bruno]) = demo.both().await else { return };
    for text in ["Le vélo est à 40 €", "Il est rouge", "Oups"] {
        send_and_wait(&alice, &[&bruno], text).await;
    }
    send_and_wait(&bruno, &[&alice], "D’accord").await;
    assert_eq!(alice.eval("document.querySelectorAll('.more-actions').length").await, 4, "each message");

    // With the pointer. What is being written stays.
    type_text(&alice, "Un brouillon").await;
    alice.click(&menu_of(1)).await;
    alice.until("texts('.menu button').join() === 'Répondre,Modifier,Supprimer'").await;
    assert_eq!(alice.eval("document.querySelector('.more-actions').ariaExpanded").await, "true");
    alice.screenshot("demo-menu").await;
    alice.click(".menu .edit").await;
    alice.until("!part('editing').hidden && part('text').value === 'Le vélo est à 40 €'").await;
    assert_eq!(alice.eval("part('send').ariaLabel").await, "Enregistrer");
    press(&alice, &BACKSPACE.to_string().repeat(4)).await;
    press(&alice, "45 €").await;
    alice.screenshot("demo-editing").await;
    press(&alice, "\n").await;
    let edited = "messages()[0] === 'Le vélo est à 45 €' && texts('.edited')[0].startsWith('modifié')";
    bruno.until(edited).await;
    alice.until(edited).await;
    let composer =
        "[part('text').value, part('editing').hidden, document.activeElement.id, part('send').ariaLabel]";
    assert_eq!(alice.eval(composer).await, json!(["Un brouillon", true, "text", "Envoyer"]));

    // An edit that is given up changes nothing.
    alice.click(&menu_of(2)).await;
    alice.click(".menu .edit").await;
    press(&alice, &format!(" vif{ESCAPE}")).await;
    assert_eq!(alice.eval(composer).await, json!(["Un brouillon", true, "text", "Envoyer"]));
    assert_eq!(alice.eval("messages()[1]").await, "Il est rouge");

    // With the keyboard: one button of all messages is reached by the tab key, the others by arrow keys.
    alice.keys("#thread", &TAB.to_string()).await;
    alice.until(&format!("document.activeElement === document.querySelector({})", json!(menu_of(2)))).await;
    press(&alice, &DOWN.to_string()).await;
    alice.until(&format!("document.activeElement === document.querySelector({})", json!(menu_of(3)))).await;
    press(&alice, "\n").await;
    alice.until("document.activeElement.dataset.action === 'reply'").await;
    press(&alice, &ESCAPE.to_string()).await;
    let closed = "!document.querySelector('.menu') && document.activeElement.matches('.more-actions')";
    alice.until(closed).await;
    press(&alice, "\n").await;
    press(&alice, &format!("{DOWN}{DOWN}")).await;
    alice.until("document.activeElement.dataset.action === 'delete'").await;
    press(&alice, "\n").await;
    alice.until("part('delete-dialog').open").await;
    alice.screenshot("demo-delete").await;
    press(&alice, &ESCAPE.to_string()).await;
    alice.until(&format!("!part('delete-dialog').open && {closed}")).await;
    press(&alice, "\n").await;
    press(&alice, &format!("{DOWN}{DOWN}")).await;
    press(&alice, "\n").await;
    alice.until("part('delete-dialog').open").await;
    alice.keys("#delete-form [type=submit]", "\n").await;
    let deleted = "messages()[2] === 'Message supprimé'";
    bruno.until(deleted).await;
    alice.until(&format!("{deleted} && document.activeElement.id === 'thread'")).await;
    assert_eq!(alice.eval("document.querySelectorAll('.more-actions:not([hidden])').length").await, 3);
    assert_eq!(
        alice.eval("document.querySelectorAll('.more-actions[tabindex=\"0\"]:not([hidden])').length").await,
        1
    );

    // What is deleted last is so in the list, too.
    alice.run("part('text').value = ''", vec![]).await;
    send_and_wait(&alice, &[&bruno], "Encore une").await;
    alice.click(&menu_of(5)).await;
    alice.click(".menu .delete").await;
    alice.click("#delete-form [type=submit]").await;
    for page in [&alice, &bruno] {
        page.until("messages()[4] === 'Message supprimé' && texts('.row-last')[0] === 'Message supprimé'")
            .await;
    }
    bruno.click("[data-lang=en]").await;
    bruno.until("messages()[4] === 'Message deleted' && texts('.edited')[0].startsWith('edited')").await;
    assert_eq!(bruno.eval("texts('.row-last')[0]").await, "Message deleted");
    bruno.screenshot("demo-changed").await;
    bruno.set_viewport(390, 800, "dark").await;
    bruno.screenshot("demo-changed-narrow-dark").await;
    alice.set_viewport(390, 800, "dark").await;
    alice.click(&menu_of(2)).await;
    alice.until("document.querySelector('.menu').getBoundingClientRect().left >= 0").await;
    assert_eq!(alice.eval("document.documentElement.scrollWidth <= 390").await, true);
    alice.screenshot("demo-menu-narrow-dark").await;
}

#[tokio::test]
async fn offers_orders_appointments_and_replies_are_shown_with_their_states() {
    let env = vec![("SYSTEM_USER_ID", "9000".to_owned())];
    let demo = Demo::with(Options { env, ..Options::default() }).await;
    let Some([alice, bruno]) = demo.both().await else { return };
    let request = async |subject: &'static str, body: Value| -> Value {
        let reply = demo.nats.request(subject, body.to_string().into()).await.expect("a reply");
        serde_json::from_slice(&reply.payload).expect("a message")
    };
    // An offer, with the keyboard alone.
    alice.run("part('attach').focus()", vec![]).await;
    press(&alice, "\n").await;
    alice.until("part('kind-dialog').open").await;
    alice.keys("#kind-amount", "45").await;
    alice.screenshot("demo-kind").await;
    press(&alice, "\n").await;
    for page in [&alice, &bruno] {
        page.until("texts('.pill')[0] === 'en attente' && messages()[0]?.startsWith('45,00')").await;
        assert_eq!(page.eval("texts('.kind-title')[0]").await, "Offre");
    }
    // A backend accepts it, and the marketplace says that the order is shipped.
    let page = demo.stack.get(&format!("/api/conversations/{}/messages", demo.bike), ALICE).await;
    let offer = &page["items"][0];
    let data = json!({"amount": 4500, "currency": "EUR", "state": "accepted"});
    let accept = json!({"conversation_id": demo.bike, "message_id": offer["message_id"], "data": data, "if_change": 0});
    request("chat.messages.update", accept).await;
    let order = json!({"order_id": 12, "state": "shipped", "carrier": "La Poste"});
    request(
        "chat.messages.send",
        json!({"conversation_id": demo.bike, "system": true, "kind": "order", "data": order}),
    )
    .await;
    let appointment = json!({"starts_at": "2026-12-01T14:30:00+01:00", "place": "Gare", "state": "proposed"});
    let appointment =
        json!({"conversation_id": demo.bike, "sender_id": BRUNO, "kind": "appointment", "data": appointment});
    request("chat.messages.send", appointment).await;
    for page in [&alice, &bruno] {
        page.until("texts('.pill').join() === 'acceptée,expédiée,proposé'").await;
        page.until("texts('.system .text')[0] === 'n° 12 · La Poste' && texts('.edited').join('') === ''")
            .await;
    }
    // Of another's message, and of one's own of a kind, not everything is possible.
    bruno.click(&menu_of(1)).await;
    bruno.until("texts('.menu button:not([hidden])').join() === 'Répondre'").await;
    bruno.click(".menu .reply").await;
    bruno
        .until("!part('replying').hidden && part('replying-text').innerText.startsWith('Réponse à Alice')")
        .await;
    bruno.screenshot("demo-replying").await;
    press(&bruno, "D’accord\n").await;
    alice
        .until("texts('.quote .quote-name')[0] === 'Alice' && texts('.quote-text')[0].startsWith('Offre')")
        .await;
    assert_eq!(bruno.eval("part('replying').hidden").await, true);
    alice.click(&menu_of(1)).await;
    alice.until("texts('.menu button:not([hidden])').join() === 'Répondre,Supprimer'").await;
    press(&alice, &ESCAPE.to_string()).await;
    // The jump goes to an earlier page, by keyboard.
    for number in 1..=70 {
        demo.send(demo.bike, BRUNO, &format!("Message {number}")).await;
    }
    let reply = json!({"conversation_id": demo.bike, "sender_id": BRUNO, "message": "Voilà", "reply_to": offer["message_id"]});
    request("chat.messages.send", reply).await;
    demo.load(&alice, ALICE).await;
    alice.click("#conversations .row").await;
    alice.until("texts('.quote-text').at(-1)?.startsWith('Offre')").await;
    assert_eq!(alice.eval("messages().includes('D’accord')").await, false, "it is on an earlier page");
    alice.run("[...document.querySelectorAll('.quote:not([hidden])')].at(-1).focus()", vec![]).await;
    press(&alice, "\n").await;
    alice.until("document.activeElement.matches('.message.card.mine') && document.activeElement.innerText.includes('45,00')").await;
    alice.screenshot("demo-jump").await;
    // A deleted original is shown as such.
    alice.click(&menu_of(1)).await;
    alice.click(".menu .delete").await;
    alice.click("#delete-form [type=submit]").await;
    bruno.until("texts('.quote-text').length > 0 && texts('.quote-text').every((text) => text === 'Message supprimé')").await;
    bruno.click("[data-lang=en]").await;
    bruno.until("texts('.pill').includes('shipped') && texts('.kind-title').includes('Order')").await;
    bruno.set_viewport(390, 800, "dark").await;
    bruno.screenshot("demo-kinds-narrow-dark").await;
}

#[tokio::test]
async fn a_user_sees_who_is_online_and_mutes_pins_and_archives() {
    let demo = Demo::start().await;
    let sofa = demo.conversation(&[CHLOE, ALICE], 2, "Canapé trois places, 250 €").await;
    demo.send(sofa, CHLOE, "Bonjour Alice").await;
    demo.send(demo.bike, BRUNO, "Bonjour Alice, le vélo est toujours là.").await;
    let Some([alice, bruno]) = demo.both().await else { return };
    let presence = |text: &str| {
        format!("!part('presence').hidden && part('presence-text').innerText === {}", json!(text))
    };
    for page in [&alice, &bruno] {
        page.until(&presence("En ligne")).await;
    }
    assert_eq!(alice.eval("part('presence').dataset.online").await, "true");

    // With the keyboard alone: Chloé's conversation is muted and pinned.
    alice.click(&format!("[data-conversation=\"{sofa}\"]")).await;
    alice.until("messages()[0] === 'Bonjour Alice' && !part('mine').hidden").await;
    assert_eq!(alice.eval("part('presence').hidden").await, true, "Chloé was never here");
    alice.run("part('mine').focus()", vec![]).await;
    press(&alice, "\n").await;
    alice.until("part('mine-dialog').open").await;
    press(&alice, &ESCAPE.to_string()).await;
    alice.until("!part('mine-dialog').open && document.activeElement.id === 'mine'").await;
    press(&alice, "\n").await;
    alice.keys("#mine-muted", " ").await;
    alice.keys("#mine-pinned", " ").await;
    alice.screenshot("demo-mine").await;
    press(&alice, "\n").await;
    alice.until(&format!("!part('mine-dialog').open && row({sofa}).innerText.includes('Sans alerte')")).await;
    alice.until(&format!("document.querySelector('#conversations .row') === row({sofa})")).await;
    assert_eq!(alice.eval(&format!("row({sofa}).querySelectorAll('.marks .icon').length")).await, 2);
    alice.click(&format!("[data-conversation=\"{}\"]", demo.bike)).await;
    alice.until("messages()[0]?.startsWith('Bonjour Alice, le vélo')").await;
    demo.send(sofa, CHLOE, "Il est toujours là ?").await;
    alice.until(&format!("badge({sofa}) === 1")).await;
    demo.publish_payment(ALICE, 789).await;
    let toasts = alice.until("texts('.toast').length > 0 && texts('.toast')").await;
    let paid = json!(["Paiement confirmé\nVotre paiement a été traité"]);
    assert_eq!(toasts, paid, "only the payment alerts the user");
    assert_eq!(alice.eval("document.title").await, "Messages · Vyzio", "what is muted is not counted");
    alice.screenshot("demo-muted").await;

    // Archived until the next message.
    alice.run("part('toasts').replaceChildren()", vec![]).await;
    alice.click("#mine").await;
    alice.click("#mine-archived").await;
    alice.click("#mine-form [type=submit]").await;
    alice.until(&format!("!row({})", demo.bike)).await;
    alice.click("#archived").await;
    alice
        .until(&format!("part('archived').ariaPressed === 'true' && row({}) && !row({sofa})", demo.bike))
        .await;
    alice.screenshot("demo-archived").await;
    // A call that fails says so, and not that there is none.
    alice.click("#archived").await;
    alice
        .run("window.kept = fetch; window.fetch = () => Promise.reject(new Error('no network'))", vec![])
        .await;
    alice.click("#archived").await;
    alice.until("!part('list-error').hidden && part('no-conversations').hidden").await;
    alice.run("window.fetch = kept", vec![]).await;
    alice.click("#list-retry").await;
    alice.until(&format!("part('list-error').hidden && row({})", demo.bike)).await;
    alice.click("#archived").await;
    demo.send(demo.bike, BRUNO, "Encore moi").await;
    alice.until(&format!("!!row({})", demo.bike)).await;

    // Bruno leaves; his page says so 10 s later, and when he was here.
    bruno.goto("about:blank").await;
    alice.until("/^Vu il y a \\d minutes?$/.test(part('presence-text').innerText)").await;
    assert_eq!(alice.eval("part('presence').dataset.online").await, "false");
    alice.click("[data-lang=en]").await;
    alice.until("/^Seen \\d minutes? ago$/.test(part('presence-text').innerText)").await;
    alice.screenshot("demo-seen").await;
    for (name, width, scheme) in
        [("dark", 1280, "dark"), ("narrow", 390, "light"), ("narrow-dark", 390, "dark")]
    {
        alice.set_viewport(width, 800, scheme).await;
        alice.screenshot(&format!("demo-seen-{name}")).await;
        alice.click("#mine").await;
        alice.screenshot(&format!("demo-mine-{name}")).await;
        assert_eq!(alice.eval(&format!("document.documentElement.scrollWidth <= {width}")).await, true);
        alice.click("#mine-cancel").await;
    }
}

#[tokio::test]
async fn a_user_hides_and_chooses_reminders_and_quiet_hours() {
    let demo = Demo::start().await;
    let Some([alice, bruno]) = demo.both().await else { return };
    alice.until("part('presence-text').innerText === 'En ligne'").await;
    bruno.run("part('settings').focus()", vec![]).await;
    press(&bruno, "\n").await;
    bruno.until("part('settings-dialog').open && !part('settings-save').disabled").await;
    let labels =
        "[...document.querySelectorAll('#settings-form input')].every((field) => field.labels.length)";
    assert_eq!(bruno.eval(labels).await, true);
    assert_eq!(bruno.eval("part('quiet-hours').disabled").await, true);
    bruno.click("#presence-on").await;
    bruno.click("#reminders label:nth-of-type(3) input").await;
    bruno.click("#quiet-on").await;
    bruno.screenshot("demo-settings").await;
    bruno.click("#settings-save").await;
    bruno.until("!part('settings-dialog').open && document.activeElement.id === 'settings'").await;
    for page in [&alice, &bruno] {
        page.until("part('presence').hidden").await;
    }
    // The same after a reload, on a narrow page.
    bruno.set_viewport(390, 800, "dark").await;
    demo.load(&bruno, BRUNO).await;
    bruno.click("#settings").await;
    bruno.until("part('settings-dialog').open").await;
    let kept = "[part('presence-on').checked, part('quiet-on').checked, part('quiet-from').value,
        ...[...document.querySelectorAll('#reminders input')].map((box) => box.checked)]";
    let kept = bruno.eval(kept).await;
    assert_eq!(kept.as_array().expect("values")[..3], [json!(false), json!(true), json!("22:00")]);
    assert_eq!(kept[5], false, "{kept}");
    bruno.screenshot("demo-settings-narrow-dark").await;
    bruno.click("#settings-cancel").await;
    assert_eq!(bruno.eval("document.documentElement.scrollWidth <= innerWidth").await, true);
}

#[tokio::test]
async fn a_change_that_comes_too_late_is_undone_and_explained() {
    let env = vec![("EDIT_SECONDS", "0".to_owned())];
    let demo = Demo::with(Options { env, ..Options::default() }).await;
    let Some(page) = demo.page(ALICE, 390).await else { return };
    page.click("#conversations .row").await;
    type_text(&page, "Le vélo est à 40 €\n").await;
    page.until("states().join() === 'sent'").await;
    page.click(&menu_of(1)).await;
    page.click(".menu .edit").await;
    press(&page, " ferme\n").await;
    page.until("part('action-said').innerText === 'Il est trop tard pour modifier ce message.'").await;
    assert_eq!(page.eval("messages()").await, json!(["Le vélo est à 40 €"]));
    assert_eq!(page.eval("texts('.edited').join('')").await, "");
    page.screenshot("demo-too-late").await;
}

#[tokio::test]
async fn a_narrow_page_shows_one_pane_at_a_time_and_pages_the_history() {
    let demo = Demo::start().await;
    for number in 1..=120 {
        demo.send(demo.bike, if number % 3 == 0 { ALICE } else { BRUNO }, &format!("Message {number}")).await;
    }
    for engine in Engine::ALL {
        narrow_in(engine, &demo).await;
    }
}

async fn narrow_in(engine: Engine, demo: &Demo) {
    let Some(page) = demo.page_in(engine, ALICE, 390).await else { return };
    page.until("part('conversation').hidden && document.querySelector('.side').offsetWidth === innerWidth")
        .await;
    page.screenshot("demo-narrow-list").await;
    page.click("#conversations .row").await;
    page.until("document.querySelector('.side').offsetWidth === 0 && messages().length === 50").await;
    assert_eq!(page.eval("document.activeElement.id").await, "peer-name");
    let at_end = "part('thread').scrollHeight - part('thread').scrollTop - part('thread').clientHeight < 2";
    page.until(at_end).await;
    page.screenshot("demo-narrow").await;
    page.set_viewport(390, 800, "dark").await;
    page.screenshot("demo-narrow-dark").await;
    page.click("#bell").await;
    page.screenshot("demo-narrow-dark-notifications").await;
    page.keys("#panel-title", &ESCAPE.to_string()).await;

    // At the top, the page loads earlier messages above, and the visible ones keep their position.
    page.run("part('thread').scrollTop = 100", vec![]).await;
    page.until("messages().length === 100 && part('thread').scrollTop > 1000 && !part('jump').hidden").await;
    page.run("part('thread').scrollTop = 0", vec![]).await;
    page.until("messages().length === 120 && part('older').hidden").await;
    let expected: Vec<String> = (1..=120).map(|number| format!("Message {number}")).collect();
    assert_eq!(page.eval("messages()").await, json!(expected));
    page.click("#jump").await;
    page.until(at_end).await;

    // Back by the button, with the browser's history, and with the keyboard.
    page.click("#back").await;
    page.until("part('conversation').hidden && document.activeElement.matches('.row')").await;
    page.keys(".row", "\n").await;
    // The conversation keeps all loaded messages.
    page.until("!part('conversation').hidden && messages().length === 120").await;
    // Past the buttons for settings, reports and blocks, the messages, and the menu of one of them.
    page.keys("#peer-name", &TAB.to_string().repeat(6)).await;
    page.until("document.activeElement.id === 'text'").await;
    page.run("history.back()", vec![]).await;
    page.until("part('conversation').hidden").await;
}

#[tokio::test]
async fn the_page_recovers_by_itself_from_the_loss_of_any_service() {
    let mut demo = Demo::start().await;
    let Some([alice, bruno]) = demo.both().await else { return };
    let mut sent = Vec::new();
    let services = [Kind::Gateway, Kind::Chat, Kind::Notify, Kind::Typing].map(Some);
    for (round, part) in (1..).zip(services.into_iter().chain([None])) {
        let name = part.map_or("NATS".to_owned(), |kind| format!("{kind:?}"));
        match part {
            Some(kind) => demo.stack.kill(kind, 0).await,
            None => demo.stack.nats.kill().await,
        }
        let during = format!("Sans {name}");
        type_text(&alice, &format!("{during}\n")).await;
        alice.until(&format!("messages().at(-1) === {}", json!(during))).await;
        if part == Some(Kind::Gateway) {
            alice.until("part('banner').innerText && states().at(-1) === 'sending'").await;
            bruno.until("part('banner').innerText").await;
            alice.screenshot("demo-offline").await;
        }
        match part {
            Some(kind) => demo.stack.restart(kind, 0),
            None => demo.stack.nats.restart().await.expect("restart nats-server"),
        }
        demo.stack.ready().await;
        wait_for_arrival(&alice, &bruno, &during).await;
        alice.until("settled()").await;
        bruno.until("settled()").await;

        let after = format!("Avec {name}");
        type_until_seen(&bruno, &alice, &after, "Bruno écrit…").await;
        type_text(&bruno, "\n").await;
        wait_for_arrival(&bruno, &alice, &after).await;
        demo.publish_payment(BRUNO, round).await;
        let paid = "texts('.notification').filter((text) => text.includes('Paiement')).length";
        bruno.run("part('panel').hidden = false", vec![]).await;
        bruno.until(&format!("settled() && {paid} === {round} && document.querySelectorAll('.notification.unread').length === {round}")).await;
        sent.extend([during, after]);
        assert_eq!(alice.eval("messages()").await, json!(sent), "after the loss of {name}");
        assert_eq!(bruno.eval("messages()").await, json!(sent), "after the loss of {name}");
    }
}

#[tokio::test]
async fn offline_messages_are_sent_later_and_failed_ones_on_request() {
    let mut demo = Demo::start().await;
    let Some([alice, bruno]) = demo.both().await else { return };
    send_and_wait(&alice, &[&bruno], "Bonjour").await;
    alice.set_offline(true).await;
    alice.until("part('status').innerText === 'Hors ligne' && part('banner').innerText").await;
    type_text(&alice, "Depuis le métro\n").await;
    alice.until("states().at(-1) === 'sending'").await;
    send_unread(&bruno, "Vous êtes là ?").await;
    alice.set_offline(false).await;
    alice.until("online() && messages().length === 3").await;
    bruno.until("messages().at(-1) === 'Depuis le métro'").await;
    assert_eq!(alice.eval("messages()").await, bruno.eval("messages()").await);

    demo.stack.kill(Kind::Chat, 0).await;
    type_text(&bruno, "Vous m’entendez ?\n").await;
    bruno.until("texts('.failure')[0]?.startsWith('Service indisponible')").await;
    bruno.screenshot("demo-failed").await;
    demo.stack.restart(Kind::Chat, 0);
    demo.stack.ready().await;
    wait_for_arrival(&bruno, &alice, "Vous m’entendez ?").await;
    alice.until("messages().length === 4").await;
}

#[tokio::test]
async fn a_notification_shows_one_toast_across_a_users_tabs() {
    let demo = Demo::start().await;
    let Some(browser) = demo.page(ALICE, 1280).await else { return };
    let first = browser.window().await;
    let second = browser.new_window().await;
    demo.load(&browser, ALICE).await;
    let windows = [first, second];
    for window in &windows {
        browser.switch(window).await;
        let count = "window.toasts = 0;
            new MutationObserver((changes) => changes.forEach((change) => (toasts += change.addedNodes.length)))
                .observe(part('toasts'), { childList: true });";
        browser.run(count, vec![]).await;
    }
    let toasts = async || {
        let mut sum = 0;
        for window in &windows {
            browser.switch(window).await;
            sum += browser.eval("toasts").await.as_i64().expect("a number");
        }
        sum
    };
    for round in 1..=3 {
        demo.publish_payment(ALICE, round).await;
        for window in &windows {
            browser.switch(window).await;
            browser.until(&format!("bell() === '{round}'")).await;
        }
        let end = Instant::now() + TIMEOUT;
        while toasts().await < round {
            assert!(Instant::now() < end, "no tab showed a toast");
        }
    }
    // Longer than a hidden tab delays its toast.
    browser.becomes_true("false", 1_000).await;
    assert_eq!(toasts().await, 3);
}

#[tokio::test]
async fn the_composer_counts_characters_and_knows_input_methods() {
    let demo = Demo::start().await;
    let Some(page) = demo.page(ALICE, 390).await else { return };
    page.click("#conversations .row").await;
    page.until("document.activeElement.id === 'peer-name'").await;
    // As pasting does.
    let paste = |text: &str| {
        format!(
            "part('text').focus(); part('text').select(); document.execCommand('insertText', false, {text})"
        )
    };
    page.run(&paste("'a'.repeat(4100)"), vec![]).await;
    assert_eq!(page.eval("part('text').value.length").await, 4100, "nothing is cut");
    assert_eq!(page.eval("part('send').disabled").await, true);
    assert_eq!(page.eval("part('count').innerText.replace('-', '−')").await, "−100");
    page.keys("#text", "\n").await;
    assert_eq!(page.eval("messages().length").await, 0);
    page.run(&paste("'🚲'.repeat(3990)"), vec![]).await;
    assert_eq!(page.eval("[part('send').disabled, part('count').innerText]").await, json!([false, "10"]));
    page.run(&paste("'にほん'"), vec![]).await;
    assert_eq!(page.eval("part('count').hidden").await, true);
    // Safari's Enter that ends a composition.
    let enter = "part('text').dispatchEvent(new KeyboardEvent('keydown',
        { key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }))";
    page.run(enter, vec![]).await;
    assert_eq!(page.eval("[part('text').value, messages().length]").await, json!(["にほん", 0]));
    page.keys("#text", "\n").await;
    page.until("messages().join() === 'にほん' && states().join() === 'sent'").await;
}

#[tokio::test]
async fn the_status_is_readable_and_grammatical() {
    let demo = Demo::start().await;
    let Some(page) = demo.page(ALICE, 390).await else { return };
    assert_eq!(page.eval("part('status').innerText").await, "Connecté");
    assert_eq!(page.eval("parseFloat(getComputedStyle(part('status')).fontSize) > 10").await, true);
    demo.publish_payment(ALICE, 1).await;
    page.until("part('bell').ariaLabel === 'Notifications\u{a0}: 1 non lue'").await;
    demo.publish_payment(ALICE, 2).await;
    page.until("part('bell').ariaLabel === 'Notifications\u{a0}: 2 non lues'").await;
    demo.send(demo.bike, BRUNO, "Bonjour").await;
    page.until("document.querySelector('#conversations .badge').textContent === '1 non lu'").await;
    page.click("[data-lang=en]").await;
    page.until("document.querySelector('#conversations .badge').textContent === '1 unread'").await;
}

#[tokio::test]
async fn a_toast_stays_under_the_pointer() {
    let demo = Demo::start().await;
    let Some(page) = demo.page(ALICE, 1280).await else { return };
    // Toasts end soon, and their looks at the pointer are counted.
    let hurry = "window.looks = 0;
        const later = window.setTimeout;
        window.setTimeout = (act, ms, ...rest) =>
            ms === 7000 || ms === 3500 ? later(() => (window.looks += 1, act()), 100) : later(act, ms, ...rest);";
    page.run(hurry, vec![]).await;
    // Where the toast will be.
    page.point(1100.0, 100.0).await;
    demo.publish_payment(ALICE, 1).await;
    page.until("looks >= 5").await;
    assert_eq!(page.eval("texts('.toast').length").await, 1);
    page.point(10.0, 700.0).await;
    page.until("texts('.toast').length === 0").await;
}

#[tokio::test]
async fn an_error_of_the_list_is_shown() {
    let demo = Demo::start().await;
    let Some(page) = demo.page(ALICE, 1280).await else { return };
    let fail = "window.realFetch = fetch;
        window.fetch = (url, ...rest) => String(url).includes('/api/conversations?')
            ? Promise.resolve(new Response('{\"code\":\"forbidden\",\"detail\":\"\"}', { status: 403 })) : realFetch(url, ...rest);
        window.stopped = part('list-error').hidden;";
    page.run(fail, vec![]).await;
    page.run("dispatchEvent(new Event('offline')); dispatchEvent(new Event('online'))", vec![]).await;
    page.until("!part('list-error').hidden && part('list-reason').innerText").await;
    page.run("window.fetch = realFetch; part('list-retry').click()", vec![]).await;
    page.until("part('list-error').hidden").await;
}

#[tokio::test]
async fn without_a_token_the_page_shows_instructions() {
    let demo = Demo::start().await;
    let Some(page) = Browser::start(Engine::Chromium).await else { return };
    page.set_viewport(1280, 800, "light").await;
    page.goto(&format!("http://{}/demo", demo.stack.host(0))).await;
    page.until("document.querySelector('#welcome').innerText.includes('cargo xtask up')").await;
    assert_eq!(page.eval("document.querySelector('#welcome-reason').hidden").await, true);
    page.screenshot("demo-welcome").await;
    page.click("[data-lang=en]").await;
    page.until("document.querySelector('#welcome').innerText.includes('Open the two addresses')").await;
    page.goto(&format!("http://{}/demo/?broken#me=nonsense", demo.stack.host(0))).await;
    page.until("!document.querySelector('#welcome-reason').hidden").await;
    // If the server refuses the token, the page shows that and stops reconnecting.
    let expired = token_with(json!({"user_id": ALICE, "username": "alice", "exp": 1}));
    page.goto(&format!("http://{}/demo/?ended#me={expired}", demo.stack.host(0))).await;
    page.until("document.querySelector('#banner').innerText.startsWith('Cet accès a expiré')").await;
}

/// Sends a message to a user who is offline.
async fn send_unread(browser: &Browser, text: &str) {
    type_text(browser, &format!("{text}\n")).await;
    browser.until(&format!("messages().at(-1) === {} && states().at(-1) === 'sent'", json!(text))).await;
}

/// Waits until both pages show a message. If the sender's page shows a failure, clicks on its link to send it again.
async fn wait_for_arrival(from: &Browser, to: &Browser, text: &str) {
    let at_end = format!("messages().at(-1) === {}", json!(text));
    let failed = "document.querySelector('.failure .link')";
    from.until(&format!("{failed} || ({at_end} && ['sent', 'read'].includes(states().at(-1)))")).await;
    if !from.eval(failed).await.is_null() {
        from.click(".failure .link").await;
        from.until(&format!("!{failed} && {at_end}")).await;
    }
    to.until(&at_end).await;
}

/// Types a text, and its last character again from time to time, until the other page shows the typing in these words.
async fn type_until_seen(from: &Browser, to: &Browser, text: &str, words: &str) {
    let end = Instant::now() + TIMEOUT;
    type_text(from, text).await;
    while !to.becomes_true(&format!("typing() === {}", json!(words)), 2_500).await {
        assert!(Instant::now() < end, "{text}: the other page doesn't show {words}");
        type_text(from, &format!("{BACKSPACE}{}", &text[text.len() - 1..])).await;
    }
}
