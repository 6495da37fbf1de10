//! The example `examples/react-inbox` on Vite's server, as its manifest starts it.

use crate::{browser::Browser, engine::Engine};
use e2e::{Kind, Options, Stack, eventually, node, token_with};
use serde_json::json;
use testkit::{Output, Program, free_port};

const ADA: i64 = 1;
const BEN: i64 = 2;

#[tokio::test]
async fn the_react_inbox_shows_and_sends_messages() {
    let folder = match node::example("react-inbox").await {
        Ok(folder) => folder,
        Err(reason) => return node::skip("examples/react-inbox", &reason),
    };
    let port = free_port().expect("a free port");
    let origin = format!("http://127.0.0.1:{port}");
    let _vite = Program::new("node")
        .args(["node_modules/vite/bin/vite.js", "--strictPort", "--host", "127.0.0.1", "--port"])
        .arg(port.to_string())
        .folder(&folder)
        .output(Output::Lines(std::sync::Arc::new(|line| println!("{line}"))))
        .spawn()
        .expect("start Vite");
    let http = reqwest::Client::new();
    eventually("Vite", async || http.get(&origin).send().await.ok().map(drop)).await;
    let env = vec![("ALLOWED_ORIGINS", origin.clone())];
    let stack = Stack::with(Options { env, ..Options::one_of_each() }).await;
    for engine in Engine::ALL {
        inbox_in(engine, &stack, &origin).await;
    }
}

async fn inbox_in(engine: Engine, stack: &Stack, origin: &str) {
    let Some(page) = Browser::start(engine).await else { return };
    let conversation = stack.conversation(&[ADA, BEN]).await;
    let mut ben = stack.socket(&format!("/ws/chat/{conversation}/"), BEN).await;
    ben.say("Is it still for sale?").await;
    let token = token_with(json!({"user_id": ADA, "username": "ada"}));
    page.goto(&format!("{origin}/#url=http://{}&token={token}", stack.host(0))).await;

    let row = format!("document.querySelector('[data-conversation=\"{conversation}\"]')");
    page.until(&format!("{row}?.innerText.includes('Is it still for sale?')")).await;
    page.until("document.querySelector('#status').innerText === 'online, 1 unread'").await;
    page.click(&format!("[data-conversation=\"{conversation}\"]")).await;
    page.until("document.querySelector('#thread li')?.innerText.trim() === 'Is it still for sale?'").await;
    page.until("document.querySelector('#status').innerText === 'online, 0 unread'").await;

    ben.next_of("read").await;
    page.keys("#text", "Yes, it is.\n").await;
    assert_eq!(ben.next_of("message").await["content"], "Yes, it is.");
    page.until("document.querySelector('#thread li:last-child').dataset.state === 'sent'").await;
    // K1: React mounts everything twice here.
    eventually("one session, without that of an earlier browser", async || {
        let sessions = stack.metric(Kind::Gateway, 0, r#"gateway_sockets{kind="multiplexed"}"#).await;
        (sessions == 1.0).then_some(())
    })
    .await;
    page.screenshot("react-inbox").await;
}
