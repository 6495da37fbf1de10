//! The demo page: Alice and Bruno, side by side.

use crate::browser::Browser;
use e2e::{Kind, PATIENCE, Stack, token_with};
use serde_json::{Value, json};
use std::time::Instant;

const ALICE: i64 = 1;
const BRUNO: i64 = 2;
/// The key, as WebDriver writes it.
const BACKSPACE: char = '\u{e003}';

/// What the tests ask of the page, as functions of it.
const QUESTIONS: &str = r#"
window.pane = (user) => document.querySelector(`.pane[data-user-id="${user}"]`);
window.part = (user, name) => pane(user).querySelector(`[data-part="${name}"]`);
window.list = (user, selector) => [...pane(user).querySelectorAll(selector)].map((node) => node.innerText);
window.messages = (user) => list(user, '.message .text');
window.states = (user) => [...pane(user).querySelectorAll('.mine')].map((node) => node.dataset.state);
window.online = () => [1, 2].every((user) => pane(user).dataset.state === 'online' && !part(user, 'banner').innerText);
window.typing = (user) => (part(user, 'typing').hidden ? '' : part(user, 'typing').innerText.trim());
window.badge = (user) => (part(user, 'badge').hidden ? '' : part(user, 'badge').innerText);
window.settled = () => online() && [1, 2].every((user) => states(user).every((state) => state === 'read') && !typing(user));
"#;

struct Demo {
    browser: Browser,
    stack: Stack,
    nats: async_nats::Client,
}

impl Demo {
    /// The page, connected; `None` where there is no browser.
    async fn open() -> Option<Self> {
        let browser = Browser::start(&[]).await?;
        browser.look(1280, 800, "light").await;
        let stack = Stack::start().await;
        let nats = stack.backend().await;
        let people = json!({
            "participants": [{"user_id": ALICE, "username": "alice"}, {"user_id": BRUNO, "username": "bruno"}],
            "listing_id": 1,
            "title": "Vélo de ville, 120 €",
        });
        let made = nats.request("chat.conversations.create", people.to_string().into()).await;
        let made: Value = serde_json::from_slice(&made.expect("an answer").payload).expect("a conversation");
        let [alice, bruno] = [(ALICE, "alice"), (BRUNO, "bruno")]
            .map(|(user, name)| token_with(json!({"user_id": user, "username": name})));
        let id = &made["conversation_id"];
        let page = format!(
            "http://{}/demo/#conversation={id}&a={alice}&b={bruno}&nats={}",
            stack.host(0),
            stack.nats.url()
        );
        browser.goto(&page).await;
        browser.run(QUESTIONS, vec![]).await;
        browser.until("online()").await;
        Some(Self { browser, stack, nats })
    }

    async fn types(&self, user: i64, text: &str) {
        self.browser.keys(&format!(r#".pane[data-user-id="{user}"] textarea"#), text).await;
    }

    async fn clicks(&self, user: i64, part: &str) {
        self.browser.click(&format!(r#".pane[data-user-id="{user}"] [data-part="{part}"]"#)).await;
    }

    /// Writes a message, and waits until both see it at the end, read.
    async fn says(&self, user: i64, text: &str) {
        self.types(user, &format!("{text}\n")).await;
        self.browser
            .until(&format!("[1, 2].every((user) => messages(user).at(-1) === {}) && settled()", json!(text)))
            .await;
    }

    async fn pays(&self, user: i64, payment: i64) {
        let event = json!({"user_id": user, "data": {"payment_id": payment}});
        self.nats.publish("events.payment_completed", event.to_string().into()).await.expect("publish");
    }
}

#[tokio::test]
async fn two_people_chat_see_each_other_type_and_are_notified() {
    let Some(demo) = Demo::open().await else { return };
    let browser = &demo.browser;
    browser.screenshot("demo-empty").await;

    demo.types(ALICE, "Bonjour Bruno, le vélo est-il encore disponible ?").await;
    browser.until("typing(2) === 'alice écrit'").await;
    assert_eq!(browser.eval("typing(1)").await, "");
    demo.types(ALICE, "\n").await;
    browser.until("messages(2).length === 1 && settled()").await;
    demo.says(BRUNO, "Bonjour Alice ! Oui, il est toujours là. Vous pouvez passer le voir ce soir.").await;
    demo.says(ALICE, "Parfait, 18 h ?").await;
    demo.says(ALICE, "<b>Merci</b> & à tout à l’heure").await;
    let said = json!([
        "Bonjour Bruno, le vélo est-il encore disponible ?",
        "Bonjour Alice ! Oui, il est toujours là. Vous pouvez passer le voir ce soir.",
        "Parfait, 18 h ?",
        "<b>Merci</b> & à tout à l’heure",
    ]);
    assert_eq!(browser.eval("[messages(1), messages(2)]").await, json!([said, said]));
    assert_eq!(browser.eval("document.querySelector('.message b')").await, Value::Null);

    // What they read as it came is not left in the inbox as unread, nor was it announced.
    browser.until("!badge(1) && !badge(2)").await;
    assert_eq!(browser.eval("[1, 2].flatMap((user) => list(user, '.toast'))").await, json!([]));
    demo.pays(BRUNO, 789).await;
    browser.until("badge(2) === '1'").await;
    let toast = browser.until("list(2, '.toast')[0]").await;
    assert_eq!(toast, "Paiement confirmé\nVotre paiement a été traité");
    assert_eq!(browser.eval("badge(1)").await, "");
    demo.types(BRUNO, "C’est payé, ").await;
    browser.until("typing(1) === 'bruno écrit'").await;
    browser.screenshot("demo-light").await;

    demo.clicks(BRUNO, "bell").await;
    browser.until("list(2, '.notification').length === 2").await;
    browser.screenshot("demo-inbox").await;
    demo.clicks(BRUNO, "read-all").await;
    browser.until("!badge(2)").await;
    demo.clicks(BRUNO, "bell").await;
    assert_eq!(browser.eval("list(2, '.toast')").await, json!([]), "what was seen in the list");

    browser.look(390, 844, "dark").await;
    demo.clicks(ALICE, "bell").await;
    browser.until("!part(1, 'inbox').hidden").await;
    browser.screenshot("demo-dark-narrow-inbox").await;
    demo.types(ALICE, "À ce soir").await;
    demo.clicks(ALICE, "thread").await;
    browser.until("typing(2) === '' && part(1, 'inbox').hidden").await;
    browser.screenshot("demo-dark-narrow").await;
    browser.run("document.querySelector('#try').scrollIntoView()", vec![]).await;
    browser.screenshot("demo-dark-narrow-end").await;
    browser.look(1280, 800, "light").await;

    // Reloaded, the page shows the same.
    browser.run("location.reload()", vec![]).await;
    browser.until("document.querySelectorAll('.pane[data-state=online]').length === 2").await;
    browser.run(QUESTIONS, vec![]).await;
    browser.until("settled() && messages(1).length === 4").await;
    assert_eq!(browser.eval("[messages(1), messages(2)]").await, json!([said, said]));
    assert_eq!(browser.eval("badge(2)").await, "");
}

#[tokio::test]
async fn a_page_without_an_address_says_where_to_get_one() {
    let Some(browser) = Browser::start(&[]).await else { return };
    browser.look(1280, 800, "light").await;
    let stack = Stack::start().await;
    browser.goto(&format!("http://{}/demo/", stack.host(0))).await;
    browser.until("document.body.innerText.includes('cargo xtask up')").await;
    browser.screenshot("demo-welcome").await;
    browser.click("[data-lang=en]").await;
    browser
        .until("document.querySelector('#welcome').innerText.includes('Open the address that it prints')")
        .await;
    assert_eq!(browser.eval("document.documentElement.lang").await, "en");
}

#[tokio::test]
async fn the_page_works_on_by_itself_whatever_is_killed() {
    let Some(mut demo) = Demo::open().await else { return };
    let mut said = Vec::new();
    let services = [Kind::Gateway, Kind::Chat, Kind::Notify, Kind::Typing].map(Some);
    for (round, part) in (1..).zip(services.into_iter().chain([None])) {
        let name = part.map_or("NATS".to_owned(), |kind| format!("{kind:?}"));
        match part {
            Some(kind) => demo.stack.kill(kind, 0).await,
            None => demo.stack.nats.kill().await,
        }
        let during = format!("Sans {name}");
        demo.types(ALICE, &format!("{during}\n")).await;
        demo.browser.until(&format!("messages(1).at(-1) === {}", json!(during))).await;
        if part == Some(Kind::Gateway) {
            demo.browser.until("part(1, 'banner').innerText && part(2, 'banner').innerText").await;
            demo.browser.screenshot("demo-offline").await;
        }
        match part {
            Some(kind) => demo.stack.restart(kind, 0),
            None => demo.stack.nats.restart().await.unwrap(),
        }
        demo.stack.ready().await;
        demo.arrives(&during).await;
        demo.browser.until("settled()").await;

        let after = format!("Avec {name}");
        demo.types_until_seen(BRUNO, &after).await;
        demo.types(BRUNO, "\n").await;
        demo.arrives(&after).await;
        demo.pays(BRUNO, round).await;
        let paid = "list(2, '.notification').filter((text) => text.includes('Paiement')).length";
        let told = format!("settled() && {paid} === {round} && !badge(1) && badge(2) === '{round}'");
        demo.browser.until(&told).await;
        said.extend([during, after]);
        let seen = demo.browser.eval("[messages(1), messages(2)]").await;
        assert_eq!(seen, json!([said, said]), "without {name}");
    }
}

#[tokio::test]
async fn what_could_not_be_sent_says_so_and_is_sent_again_when_asked() {
    let Some(mut demo) = Demo::open().await else { return };
    demo.says(ALICE, "Bonjour").await;
    demo.stack.kill(Kind::Chat, 0).await;
    demo.types(BRUNO, "Vous m’entendez ?\n").await;
    demo.browser.until("list(2, '.failure')[0]?.startsWith('Service indisponible')").await;
    demo.browser.screenshot("demo-failed").await;
    demo.stack.restart(Kind::Chat, 0);
    demo.stack.ready().await;
    demo.arrives("Vous m’entendez ?").await;
    demo.browser.until("settled()").await;
    assert_eq!(demo.browser.eval("messages(1)").await, json!(["Bonjour", "Vous m’entendez ?"]));
}

impl Demo {
    /// Waits until both see a message, once. Where the page says that it could not be sent, it is sent again, as a
    /// person would.
    async fn arrives(&self, text: &str) {
        let seen = format!(
            "[1, 2].every((user) => messages(user).at(-1) === {}) || document.querySelector('.failure .link')",
            json!(text)
        );
        self.browser.until(&seen).await;
        let failed = "document.querySelector('.failure .link')";
        if !self.browser.eval(failed).await.is_null() {
            self.browser.click(".failure .link").await;
            self.browser.until(&format!("!{failed} && ({seen})")).await;
        }
    }

    /// Types this, and its end once more from time to time, until the other sees that someone types.
    async fn types_until_seen(&self, user: i64, text: &str) {
        let end = Instant::now() + PATIENCE;
        let other = ALICE + BRUNO - user;
        self.types(user, text).await;
        while !self.browser.soon(&format!("typing({other})"), 2_500).await {
            assert!(Instant::now() < end, "{text}: the other doesn't see that someone types");
            self.types(user, &format!("{BACKSPACE}{}", &text[text.len() - 1..])).await;
        }
    }
}
