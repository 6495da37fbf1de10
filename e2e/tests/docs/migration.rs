//! Follows `docs/from-django-channels.md`: a small marketplace on Django migrates, and back. Its files are the snippets
//! of the page and the files in `migration/`.

use crate::{
    django, notifications, payments,
    snippets::{DJANGO, FRENCH},
    tools::{self, Tool},
};
use e2e::{Options, SECRET, Socket, Stack};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testkit::{TestDatabase, provision};

const ORIGIN: &str = "https://www.shop.example";

/// The marketplace: a Django project with a database.
struct Shop {
    python: PathBuf,
    psql: PathBuf,
    folder: tempfile::TempDir,
    database: TestDatabase,
}

impl Shop {
    async fn open(python: PathBuf, stack: &Stack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = [
            include_str!("migration/settings.py"),
            &FRENCH.snippet("settings_extract.py"),
            &DJANGO.snippet("project/realtime_settings.py"),
            &DJANGO.snippet("project/export_settings.py"),
            django::PATIENCE,
        ];
        let files = [
            ("manage.py", include_str!("django/manage.py").to_owned()),
            ("project/settings.py", settings.join("\n")),
            ("project/urls.py", include_str!("migration/urls.py").to_owned()),
            ("chat/management/commands/play.py", include_str!("migration/play.py").to_owned()),
            ("shop/models.py", include_str!("django/models.py").to_owned()),
            ("accounts/tokens.py", DJANGO.snippet("accounts/tokens.py")),
            ("accounts/middleware.py", DJANGO.snippet("accounts/middleware.py")),
            ("shop/payments.py", DJANGO.snippet("shop/payments.py")),
            ("chat/models.py", DJANGO.snippet("chat/models.py")),
            ("boutique/vues.py", FRENCH.snippet("boutique/vues.py")),
            ("go-back.sql", DJANGO.snippet("go-back.sql")),
            ("take-back.sql", DJANGO.snippet("take-back.sql")),
        ];
        django::write_project(folder.path(), &files);
        let psql = provision::postgres(&provision::print).expect("Postgres' programs");
        let database = TestDatabase::create().await.unwrap();
        let shop = Self { python, psql, folder, database };
        shop.manage(stack, &["makemigrations", "chat", "shop"]).await;
        shop.manage(stack, &["migrate"]).await;
        shop
    }

    /// Runs a tool with the environment variables of the page and returns its output.
    ///
    /// # Errors
    /// If it fails.
    async fn try_run(&self, stack: &Stack, tool: Tool) -> Result<String, String> {
        let programs =
            [self.python.parent().unwrap(), self.psql.as_path()].map(|folder| folder.display().to_string());
        let path = format!("{}:{}", programs.join(":"), std::env::var("PATH").unwrap_or_default());
        let vyzio = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().display().to_string();
        let (django, chat) = (self.database.url(), stack.database.url());
        let [(url_name, url), (key_name, key)] = django::environment(stack);
        tool.output(&[
            ("PATH", path.as_str()),
            ("VYZIO", vyzio.as_str()),
            (url_name, url.as_str()),
            (key_name, key.as_str()),
            ("SECRET_KEY", SECRET),
            ("DJANGO_DATABASE_URL", django.as_str()),
            ("CHAT_DATABASE_URL", chat.as_str()),
        ])
        .await
    }

    async fn run(&self, stack: &Stack, tool: Tool) -> String {
        self.try_run(stack, tool).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn manage(&self, stack: &Stack, arguments: &[&str]) -> String {
        let tool = Tool::new(&self.python, self.folder.path()).arg("manage.py");
        self.run(stack, arguments.iter().fold(tool, |tool, argument| tool.arg(*argument))).await
    }

    /// Runs an action of `migration/play.py` and returns its result.
    async fn play(&self, stack: &Stack, action: &str) -> Value {
        serde_json::from_str(&self.manage(stack, &["play", action]).await).unwrap()
    }

    async fn shell(&self, stack: &Stack, lines: &str) -> String {
        self.run(stack, Tool::new("sh", self.folder.path()).arg("-euc").arg(lines)).await
    }

    /// Exports and imports as on the page. Returns the numbers of conversations, participants, messages and texts: each
    /// in the marketplace and after the import, as printed by the script.
    async fn import(&self, stack: &Stack) -> Vec<[u32; 2]> {
        let output = self.shell(stack, &DJANGO.snippet("import.sh")).await;
        let counts = output.lines().filter_map(|line| {
            let mut columns = line.split('|').skip(1).map(|column| column.trim().parse().ok());
            Some([columns.next()??, columns.next()??])
        });
        counts.collect()
    }
}

/// Starts a stack that accepts the marketplace's tokens.
async fn stack() -> Stack {
    let env = vec![
        ("TOKEN_COOKIE", "access_token".to_owned()),
        ("ALLOWED_ORIGINS", ORIGIN.to_owned()),
        // No user of Django.
        ("SYSTEM_USER_ID", "9000".to_owned()),
    ];
    Stack::with(Options { env, ..Options::default() }).await
}

/// Messages of a conversation, oldest first: id, `seq`, sender, text, and whether it is read.
async fn messages(stack: &Stack, conversation: i64, user: i64) -> Vec<Value> {
    let page = stack.get(&format!("/api/conversations/{conversation}/messages?after=0"), user).await;
    let short = |item: &Value| {
        assert_eq!(item.get("client_id"), None, "the key of an imported message must not be shown");
        json!([item["message_id"], item["seq"], item["sender_username"], item["content"], item["is_read"]])
    };
    page["items"].as_array().unwrap().iter().map(short).collect()
}

#[tokio::test]
async fn conversations_are_migrated_with_their_ids_and_back() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("docs/from-django-channels.md", &reason),
    };
    let stack = stack().await;
    let shop = Shop::open(python, &stack).await;
    shop.play(&stack, "fill").await;
    let old = shop.play(&stack, "messages").await;
    let id = |index: usize| old[index][0].clone();

    // A second import changes nothing.
    let counts = [[3, 3], [7, 7], [5, 5], [5, 5]];
    assert_eq!(shop.import(&stack).await, counts);
    let moved = messages(&stack, 123, 456).await;
    let text = "Deux\nlignes; et, une virgule 👋";
    assert_eq!(
        moved,
        [
            json!([id(0), 1, "mary", "Bonjour, \"le vélo\" est là ?", true]),
            json!([id(1), 2, "mary", text, true]),
            json!([id(2), 3, "john_doe", "Oui", true]),
            json!([id(3), 4, "mary", "Merci", false]),
        ]
    );
    let listed = stack.get("/api/conversations", 456).await;
    assert_eq!(shop.import(&stack).await, counts);
    assert_eq!(messages(&stack, 123, 456).await, moved);
    assert_eq!(stack.get("/api/conversations", 456).await, listed);
    assert_eq!(stack.get("/api/conversations/123", 456).await["title"], "Vélo");
    assert_eq!(
        stack.get("/api/unread", 456).await,
        json!({"conversations": 2, "messages": 2, "notifications": 0})
    );
    assert_eq!(stack.get("/api/unread", 457).await["messages"], 1);
    stack.call("GET", "/api/conversations/126", 456, None).await.expect_problem(403, "forbidden");

    // Of two conversations with the same users and listing, the newest is found. New ids are far above the old ones.
    let wanted = json!({"participant_ids": [457], "listing_id": 12});
    assert_eq!(stack.post("/api/conversations", 456, wanted).await.expect(200)["conversation_id"], 124);
    let new = stack.conversation(&[456, 458]).await;
    assert!(new > 1_000_000, "{new}");

    // The next import adds new messages of Django, and delivers them to open sockets.
    let mut mary = stack.socket("/ws/chat/123/?after=0", 457).await;
    for _ in 0..4 {
        mary.next_of("message").await;
    }
    shop.play(&stack, "more").await;
    assert_eq!(shop.import(&stack).await, [[4, 4], [9, 9], [7, 7], [7, 7]]);
    let imported = mary.next_of("message").await;
    assert_eq!((&imported["seq"], &imported["content"]), (&json!(5), &json!("Plus tard")));
    mary.say("Ici").await;
    let sent = mary.next_of("message").await;
    assert!(sent["seq"] == 6 && sent["message_id"].as_i64() > Some(1_000_000), "{sent}");

    // An import is refused if a conversation has new messages on both sides, because an imported message would be
    // inserted before delivered ones.
    shop.play(&stack, "more-after-the-switch").await;
    let refused = Tool::new("sh", shop.folder.path()).arg("-euc").arg(DJANGO.snippet("import.sh"));
    let refused = shop.try_run(&stack, refused).await.unwrap_err();
    assert!(refused.contains("has gone on here since"), "{refused}");
    shop.play(&stack, "take-that-back").await;

    // A deleted message and a system message do not go back.
    let path = "/backend/conversations/123/messages";
    let wrong = json!({"sender_id": 457, "message": "Une erreur"});
    let wrong = stack.call_as_backend("POST", path, Some(wrong)).await.expect(201);
    let deletion = format!("{path}/{}", wrong["message_id"]);
    stack.call_as_backend("DELETE", &deletion, Some(json!({"reason": "hers"}))).await.expect(200);
    let sold = json!({"system": true, "message": "Vendu"});
    let sold = stack.call_as_backend("POST", path, Some(sold)).await.expect(201);

    // Migrates back, twice, and then imports again.
    let back = format!(
        "{}{}",
        psql("go-back.sql", "CHAT_DATABASE_URL"),
        psql("take-back.sql", "DJANGO_DATABASE_URL")
    );
    shop.shell(&stack, &back).await;
    let there = shop.play(&stack, "messages").await;
    shop.shell(&stack, &back).await;
    assert_eq!(shop.play(&stack, "messages").await, there);
    let last = there.as_array().unwrap().last().unwrap();
    assert_eq!(*last, json!([sent["message_id"], 123, 457, "Ici"]));
    assert_eq!(there.as_array().unwrap().len(), 8);
    shop.play(&stack, "on-its-own-again").await;
    assert_eq!(shop.import(&stack).await, [[5, 5], [11, 11], [9, 9], [9, 9]]);
    let all = messages(&stack, 123, 456).await;
    assert_eq!(all.len(), 9);
    assert!(all[8][0].as_i64() > sold["message_id"].as_i64(), "Django has not reused an id of this side");
}

fn psql(script: &str, database: &str) -> String {
    format!("psql --no-psqlrc --set=ON_ERROR_STOP=1 --file={script} \"${database}\"\n")
}

#[tokio::test]
async fn djangos_tokens_and_events_work_without_changes() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("docs/from-django-channels.md", &reason),
    };
    let stack = stack().await;
    let shop = Shop::open(python, &stack).await;
    shop.play(&stack, "fill").await;
    shop.import(&stack).await;

    let url = |query: &str| format!("ws://{}/ws/chat/123/{query}", stack.host(0));
    let token = shop.play(&stack, "token").await;
    let mut john = Socket::open(&url(&format!("?token={}", token.as_str().unwrap()))).await;
    john.say("Par le jeton de Django").await;
    let sent = john.next().await;
    assert_eq!((&sent["sender_id"], &sent["sender_username"]), (&json!(456), &json!("john_doe")));

    let cookie = format!("access_token={}", shop.play(&stack, "cookie").await.as_str().unwrap());
    let mut mary = Socket::try_open(&url(""), &[("cookie", &cookie), ("origin", ORIGIN)]).await.unwrap();
    mary.say("Par son cookie").await;
    assert_eq!(mary.next().await["sender_id"], 457);

    let payment = shop.play(&stack, "pay").await.as_i64().unwrap();
    let received = notifications(&stack, 456, 3).await;
    let of_payments: Vec<Value> =
        received.iter().filter(|item| item["type"] == "payment_completed").cloned().collect();
    assert_eq!(payments(&of_payments), [payment, 990]);
}

#[test]
fn every_snippet_of_the_page_is_run_by_a_test() {
    let known = [
        "accounts/middleware.py",
        "accounts/tokens.py",
        "chat/models.py",
        "go-back.sql",
        "import.sh",
        "project/export_settings.py",
        "project/realtime_settings.py",
        "shop/payments.py",
        "take-back.sql",
    ];
    assert_eq!(DJANGO.names(), known);
}
