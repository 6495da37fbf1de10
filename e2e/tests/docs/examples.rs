//! Runs each program of `examples/` unchanged.

use crate::{
    django, notifications, payments,
    tools::{self, Tool, run},
};
use e2e::{Kind, Options, SECRET, Stack, eventually, token_with};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use testkit::{Child, Output, Program, Signal, free_port};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples")
}

fn start(program: Program, env: &[(&str, String)]) -> Child {
    env.iter().fold(program, |program, (key, value)| program.env(*key, value)).spawn().unwrap()
}

/// Environment variables of a bot, which is user 457.
fn bot_environment(stack: &Stack, conversation: i64) -> [(&'static str, String); 3] {
    [
        ("URL", format!("http://{}", stack.host(0))),
        ("TOKEN", token_with(json!({"user_id": 457, "username": "bot"}))),
        ("CONVERSATION", conversation.to_string()),
    ]
}

/// Waits until a conversation has `count` messages and returns their texts.
async fn texts(stack: &Stack, conversation: i64, count: usize) -> Vec<String> {
    let path = format!("/api/conversations/{conversation}/messages?after=0");
    eventually(&format!("{count} messages"), || async {
        let page = stack.get(&path, 456).await;
        let items = page["items"].as_array().unwrap();
        let text = |item: &Value| item["content"].as_str().unwrap().to_owned();
        (items.len() == count).then(|| items.iter().map(text).collect())
    })
    .await
}

async fn send_message(stack: &Stack, conversation: i64, text: &str) {
    let path = format!("/api/conversations/{conversation}/messages");
    stack.post(&path, 456, json!({"message": text})).await.expect(201);
}

#[tokio::test]
async fn the_python_bot_answers_each_message_once() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("examples/python-bot", &reason),
    };
    let mut stack = Stack::start().await;
    let conversation = stack.conversation(&[456, 457]).await;
    let env = bot_environment(&stack, conversation);
    let client = folder().parent().unwrap().join("clients/python/src");
    let bot = || {
        let bot = Program::new(&python).arg("-u").arg(folder().join("python-bot/bot.py"));
        bot.env("PYTHONPATH", client.display().to_string())
    };
    send_message(&stack, conversation, "Un").await;
    let running = start(bot(), &env);
    assert_eq!(texts(&stack, conversation, 2).await, ["Un", "Vous avez dit : Un"]);
    // It reconnects to a killed gateway and does not answer a message twice.
    stack.kill(Kind::Gateway, 0).await;
    stack.restart(Kind::Gateway, 0);
    stack.ready().await;
    send_message(&stack, conversation, "Deux").await;
    assert_eq!(texts(&stack, conversation, 4).await[3], "Vous avez dit : Deux");
    drop(running);
    let running = start(bot(), &env);
    send_message(&stack, conversation, "Trois").await;
    assert_eq!(texts(&stack, conversation, 6).await[4..], ["Trois", "Vous avez dit : Trois"]);
    drop(running);
}

#[tokio::test]
async fn the_node_bot_answers() {
    let (node, packages) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("examples/node-bot", &reason),
    };
    let stack = Stack::start().await;
    let conversation = stack.conversation(&[456, 457]).await;
    // The layout of `npm install`.
    let project = tempfile::tempdir_in(packages).unwrap();
    fs::copy(folder().join("node-bot/bot.mjs"), project.path().join("bot.mjs")).unwrap();
    let scope = project.path().join("node_modules/@vyzio");
    fs::create_dir_all(&scope).unwrap();
    std::os::unix::fs::symlink(folder().parent().unwrap().join("clients/js"), scope.join("realtime"))
        .unwrap();
    let bot = Program::new(node).arg(project.path().join("bot.mjs"));
    let bot = start(bot, &bot_environment(&stack, conversation));
    // It answers messages that arrive after its start.
    let answer = eventually("an answer of the bot", || async {
        send_message(&stack, conversation, "Coucou").await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let path = format!("/api/conversations/{conversation}/messages");
        let page = stack.get(&path, 456).await;
        page["items"].as_array().unwrap().iter().find(|item| item["sender_id"] == 457).cloned()
    });
    assert_eq!(answer.await["content"], "Vous avez dit : Coucou");
    drop(bot);
}

#[tokio::test]
async fn the_backend_of_offers_decides_each_one_once() {
    let (node, packages) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("examples/offers", &reason),
    };
    let (port, secret) = (free_port().unwrap(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let env = vec![
        ("SYSTEM_USER_ID", "9000".to_owned()),
        ("TELL", "sent,changed".to_owned()),
        ("WEBHOOK_URL", format!("http://127.0.0.1:{port}/")),
        ("WEBHOOK_SECRET", secret.to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let conversation = stack.conversation(&[456, 457]).await;
    let path = format!("/api/conversations/{conversation}/messages");
    let offer = async |amount: i64| {
        let data = json!({"amount": amount, "currency": "EUR", "state": "open"});
        stack.post(&path, 456, json!({"kind": "offer", "data": data})).await.expect(201)
    };
    let texts = async |count: usize| texts(&stack, conversation, count).await;
    // One offer came before the start, one comes later.
    offer(3_000).await;
    let project = tempfile::tempdir_in(packages).unwrap();
    fs::copy(folder().join("offers/offers.mjs"), project.path().join("offers.mjs")).unwrap();
    let [url, key] = django::environment(&stack);
    let env = [url, key, ("WEBHOOK_SECRET", secret.to_owned()), ("PORT", port.to_string())];
    let start_backend = || start(Program::new(&node).arg(project.path().join("offers.mjs")), &env);
    let backend = start_backend();
    eventually("a declined offer", async || (texts(1).await == ["Offre : 30 € (refusée)"]).then_some(()))
        .await;
    let accepted = offer(5_000).await;
    let order = format!("Commande n° {} : passée", accepted["message_id"]);
    let expected = ["Offre : 30 € (refusée)", "Offre : 50 € (acceptée)", &order];
    eventually("an order", async || (texts(3).await == expected).then_some(())).await;
    // It announces the order after the change, too, and perhaps again after a crash. That stays one message.
    drop(backend);
    let backend = start_backend();
    offer(1_000).await;
    eventually("another decision", async || (texts(4).await[3] == "Offre : 10 € (refusée)").then_some(()))
        .await;
    assert_eq!(texts(4).await[..3], expected);
    drop(backend);
}

#[tokio::test]
async fn the_django_shop_opens_a_conversation_notifies_and_sends_mails() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("examples/django-shop", &reason),
    };
    let stack = Stack::start().await;
    let site = tempfile::tempdir().unwrap();
    e2e::node::copy(&folder().join("django-shop"), site.path());
    django::write_project(site.path(), &[("visit.py", include_str!("django/visit.py").to_owned())]);
    let [(url_name, url), (key_name, key)] = django::environment(&stack);
    let env = [(url_name, url.as_str()), (key_name, key.as_str()), ("JWT_SECRET", SECRET)];
    let manage = |command: &str| Tool::new(&python, site.path()).arg("manage.py").arg(command);
    // Reminders become mails and pushes.
    run(manage("test"), &stack, &env).await;
    run(manage("makemigrations").arg("--check"), &stack, &env).await;
    run(manage("migrate"), &stack, &env).await;

    let output = run(Tool::new(&python, site.path()).arg("visit.py"), &stack, &env).await;
    let visit: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let (seller, buyer) = (visit["seller"].as_i64().unwrap(), visit["buyer"].as_i64().unwrap());
    let conversations = stack.get("/api/conversations", seller).await;
    assert_eq!(conversations["items"][0]["last_message"]["content"], "Bonjour");
    assert_eq!(conversations["items"][0]["listing_id"], 1);
    assert_eq!(conversations["items"][0]["unread_count"], 1, "a second click sends nothing");
    assert_eq!(payments(&notifications(&stack, buyer, 1).await), [1]);
    let of_seller = notifications(&stack, seller, 2).await;
    assert!(of_seller.iter().any(|item| item["message"] == "buyer a acheté « Vélo »"), "{of_seller:?}");
}

/// Mails that a site prints, each of which begins with its subject.
#[derive(Clone, Default)]
struct Mails(Arc<Mutex<Vec<String>>>);

impl Mails {
    fn print(&self, line: &str) {
        println!("{line}");
        self.0.lock().unwrap().push(line.to_owned());
    }

    /// Waits for the mail to an address, and returns its link that ends the mails.
    async fn unsubscribe_link(&self, address: &str) -> String {
        let (to, before) = (format!("To: {address}"), "Ne plus recevoir ces rappels : ");
        eventually(&to, async || {
            let lines = self.0.lock().unwrap().clone();
            let mail = &lines[lines.iter().position(|line| *line == to)?..];
            mail.iter().find_map(|line| line.strip_prefix(before)).map(str::to_owned)
        })
        .await
    }

    fn count(&self, address: &str) -> usize {
        let to = format!("To: {address}");
        self.0.lock().unwrap().iter().filter(|line| **line == to).count()
    }
}

#[tokio::test]
async fn a_message_that_is_not_read_becomes_one_mail_of_the_django_shop() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the reminders of examples/django-shop", &reason),
    };
    let site = format!("http://127.0.0.1:{}", free_port().unwrap());
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let env = vec![
        ("REMINDERS", "mail:5s/5s".to_owned()),
        ("WEBHOOK_URL", format!("{site}/realtime/webhook/")),
        ("WEBHOOK_SECRET", secret.to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let folder_of_site = tempfile::tempdir().unwrap();
    e2e::node::copy(&folder().join("django-shop"), folder_of_site.path());
    django::write_project(folder_of_site.path(), &[]);
    let mails = Mails::default();
    let (printed, [(url_name, url), (key_name, key)]) = (mails.clone(), django::environment(&stack));
    let program = Program::new(&python).folder(folder_of_site.path()).stop_signal(Signal::Term);
    let program = program
        .args(["-u", "manage.py", "shop"])
        .output(Output::Lines(Arc::new(move |line| printed.print(line))));
    let env =
        [(url_name, url), (key_name, key), ("JWT_SECRET", SECRET.to_owned()), ("SITE_URL", site.clone())];
    let _shop = start(program, &[&env[..], &[("WEBHOOK_SECRET", secret.to_owned())]].concat());
    eventually("the shop", async || stack.http().get(&site).send().await.ok().map(drop)).await;

    // Alice writes to Bruno about the bike; later to him and to Chloé, after he has clicked.
    let (bruno, chloe) = ("bruno@shop.example", "chloe@shop.example");
    let write = async |conversation: i64| {
        let path = format!("/api/conversations/{conversation}/messages");
        stack.post(&path, 1, json!({"message": "Bonjour"})).await.expect(201);
    };
    let with_bruno = stack.conversation(&[1, 2]).await;
    let with_chloe = stack.conversation(&[1, 3]).await;
    write(with_bruno).await;
    write(with_bruno).await;
    let link = mails.unsubscribe_link(bruno).await;
    // The shop answers 503 if the gateway takes longer than a second.
    eventually("the end of the mails", async || {
        let clicked = stack.http().post(&link).body("List-Unsubscribe=One-Click").send().await.unwrap();
        (clicked.status() == 200).then_some(())
    })
    .await;
    let path = format!("/api/conversations/{with_bruno}/messages");
    let page = stack.get(&path, 2).await;
    let newest = json!({"message_id": page["items"][0]["message_id"]});
    stack.post(&format!("/api/conversations/{with_bruno}/read"), 2, newest).await.expect(204);
    write(with_bruno).await;
    write(with_chloe).await;
    mails.unsubscribe_link(chloe).await;
    assert_eq!((mails.count(bruno), mails.count(chloe)), (1, 1));
}

#[tokio::test]
async fn the_rust_backend_acknowledges_each_report_once() {
    let program = tools::target().join("examples/backend");
    if !program.exists() {
        return tools::skip("examples/rust-backend", "it is not built; `cargo xtask test` builds it");
    }
    let stack = Stack::start().await;
    // The permissions of this user are sufficient for it.
    let env = [("NATS_URL", stack.nats_urls("moderation").join(","))];
    let backend = start(Program::new(&program), &env);
    let report = json!({"user_id": 456, "reason": "rude"});
    let made = stack.post("/api/reports", 457, report.clone()).await.expect(201);
    let thanks = notifications(&stack, 457, 1).await;
    assert_eq!(thanks[0]["title"], "Signalement reçu");
    assert_eq!(thanks[0]["data"]["report_id"], made["report_id"]);
    // After a restart it continues where it stopped.
    drop(backend);
    stack.post("/api/reports", 457, report).await.expect(201);
    let backend = start(Program::new(&program), &env);
    notifications(&stack, 457, 2).await;
    drop(backend);
}
