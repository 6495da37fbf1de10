//! The JavaScript client in a page: what only a browser has.

use crate::{browser::Browser, engine::Engine};
use e2e::{Options, Stack, token_with};
use serde_json::json;

const ADA: i64 = 1;
const BEN: i64 = 2;

/// Opens a page of the gateway without scripts, and connects a client, `rt`, to a gateway. `options` are the client's.
async fn connect(page: &Browser, stack: &Stack, origin: &str, options: &str) {
    page.goto(&format!("http://{origin}/healthz")).await;
    let script = format!(
        "const done = arguments[1];
         import('http://{host}/client/realtime.js').then(({{ connect }}) => {{
             window.errors = [];
             window.rt = connect({{ url: 'http://{host}', token: arguments[0], ...{options} }});
             rt.on('error', ({{ code }}) => errors.push(code));
         }}, (error) => (window.failure = String(error)));",
        host = stack.host(0),
    );
    page.run(&script, vec![json!(token_with(json!({"user_id": ADA, "username": "ada"})))]).await;
    page.until("!!(window.rt || window.failure)").await;
    assert_eq!(page.eval("window.failure ?? ''").await, "");
}

#[tokio::test]
async fn a_page_whose_origin_is_not_allowed_is_told_so() {
    for engine in Engine::ALL {
        another_origin_in(engine).await;
    }
}

async fn another_origin_in(engine: Engine) {
    let Some(page) = Browser::start(engine).await else { return };
    let stack = Stack::with(Options::one_of_each()).await;
    // Another name of the same machine is another origin.
    let other = stack.host(0).replace("127.0.0.1", "localhost");
    connect(&page, &stack, &other, "{ timing: { backoff: 50, backoffMax: 200 } }").await;
    page.until("rt.error?.code === 'origin_not_allowed'").await;
    assert_eq!(
        page.eval("rt.error.detail").await,
        format!("the server refuses this page: add http://{other} to ALLOWED_ORIGINS")
    );
    assert_eq!(page.eval("rt.state === 'closed'").await, false);

    // From an allowed origin, the same page connects.
    connect(&page, &stack, &stack.host(0), "{}").await;
    page.until("rt.state === 'online' && rt.error === null").await;
}

#[tokio::test]
async fn a_page_that_goes_into_the_back_forward_cache_closes_its_socket_and_returns() {
    for engine in Engine::ALL {
        back_forward_cache_in(engine).await;
    }
}

async fn back_forward_cache_in(engine: Engine) {
    let Some(page) = Browser::start(engine).await else { return };
    let stack = Stack::with(Options::one_of_each()).await;
    connect(&page, &stack, &stack.host(0), "{}").await;
    page.until("rt.state === 'online'").await;
    page.run("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))", vec![]).await;
    assert_eq!(page.eval("rt.state").await, "offline");
    // Browsers then say that the page is hidden, which opens no socket.
    let hide = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
        window.states = [];
        rt.on('state', (state) => states.push(state));
        document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));
        delete document.hidden;";
    page.run(hide, vec![]).await;
    assert_eq!(page.eval("states").await, json!([]));
    page.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))", vec![]).await;
    page.until("rt.state === 'online'").await;

    // Really: the page is the same one after the way back, if this browser kept it.
    page.run("window.kept = true", vec![]).await;
    page.goto(&format!("http://{}/healthz?away", stack.host(0))).await;
    page.run("history.back()", vec![]).await;
    page.until("location.search === ''").await;
    if page.eval("window.kept ?? false").await == true {
        page.until("rt.state === 'online'").await;
    }
}

/// K4: a browser that is killed loses no message that the page showed as `sending`.
#[tokio::test]
async fn a_message_that_was_being_sent_when_its_tab_died_is_sent_by_another_tab() {
    for engine in Engine::ALL {
        lost_tab_in(engine).await;
    }
}

async fn lost_tab_in(engine: Engine) {
    let Some(page) = Browser::start(engine).await else { return };
    let stack = Stack::with(Options::one_of_each()).await;
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let options = "{ persist: 'indexeddb' }";
    connect(&page, &stack, &stack.host(0), options).await;
    let first = page.window().await;
    let second = page.new_window().await;
    connect(&page, &stack, &stack.host(0), options).await;
    page.until("rt.state === 'online'").await;

    page.switch(&first).await;
    page.run(&format!("window.chat = rt.conversation({conversation})"), vec![]).await;
    page.until("chat.state === 'live'").await;
    page.set_offline(true).await;
    page.until("rt.state === 'offline'").await;
    page.run("for (const text of ['one', 'two', 'three']) chat.send(text)", vec![]).await;
    let kept = "(async () => {
        const request = indexedDB.open('vyzio-realtime');
        const database = await new Promise((done) => (request.onsuccess = () => done(request.result)));
        const all = database.transaction('drafts').objectStore('drafts').getAll();
        const drafts = await new Promise((done) => (all.onsuccess = () => done(all.result)));
        database.close();
        window.kept = drafts.length;
    })()";
    page.run(kept, vec![]).await;
    page.until(&format!("window.kept === 3 || void {kept}")).await;
    page.close_window().await;

    page.switch(&second).await;
    page.run(&format!("window.chat = rt.conversation({conversation})"), vec![]).await;
    page.until(
        "chat.messages.map(({ content, state }) => content + state).join() === 'onesent,twosent,threesent'",
    )
    .await;
    let stored = stack.get(&format!("/api/conversations/{conversation}/messages?after=0"), BEN).await;
    let texts: Vec<_> =
        stored["items"].as_array().unwrap().iter().map(|item| item["content"].clone()).collect();
    assert_eq!(texts, ["one", "two", "three"], "each once");
    page.until(&format!("window.kept === 0 || void {kept}")).await;
}
