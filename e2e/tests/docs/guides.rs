//! Runs the commands of `docs/getting-started.md` and `docs/guide.fr.md` in a terminal, and their JavaScript in Node.
//! The JavaScript of the old guide runs in a browser: `e2e/tests/browser` has an exact copy of it.

use crate::{
    notifications, payments,
    snippets::{FRENCH, GETTING_STARTED, Page, README},
    tools::{self, Tool, run},
};
use e2e::{Options, SECRET, Socket, Stack, eventually, within};
use sqlx::{Connection, Executor, PgConnection};
use std::{fs, path::Path};
use tokio_tungstenite::tungstenite::Message;

/// Starts a stack in which the next conversation has the id 123, as in the guides.
pub async fn stack() -> Stack {
    let stack = Stack::with(Options::default()).await;
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    let next = "alter table chat.conversations alter column conversation_id restart with 123";
    database.execute(next).await.unwrap();
    stack
}

/// Creates a `cargo` in a folder that only runs `cargo xtask`, because tests do not build programs.
pub fn cargo_shim(folder: &Path) {
    let xtask = tools::target().join("xtask");
    let shim = folder.join("cargo");
    fs::write(&shim, format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", xtask.display())).unwrap();
    let mut permissions = fs::metadata(&shim).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&shim, permissions).unwrap();
}

/// Runs lines in a shell, with the documented address replaced by the stack's.
pub async fn terminal(stack: &Stack, folder: &Path, extra_path: &str, lines: &str) -> String {
    let host = stack.host(0);
    let lines = lines.replace("127.0.0.1:8000", &host).replace("localhost:8000", &host);
    let path = format!("{}:{extra_path}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let tool = Tool::new("sh", folder).arg("-euc").arg(lines).with_input();
    run(tool, stack, &[("PATH", &path), ("JWT_SECRET", SECRET)]).await
}

/// Creates a conversation with `curl`, then sends a message with `wscat`.
async fn conversation_and_message(page: Page, subject: &str) {
    let (_, node) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip(subject, &reason),
    };
    if let Err(reason) = tools::check_installed("curl", "--version").await {
        return tools::skip(subject, &reason);
    }
    let stack = stack().await;
    // In the folder of the packages, because npx looks for them there.
    let folder = tempfile::tempdir_in(node).unwrap();
    cargo_shim(folder.path());
    let made = terminal(&stack, folder.path(), "", &page.snippet("conversation.sh")).await;
    assert!(made.contains(r#""conversation_id":123"#), "{made}");
    let output = terminal(&stack, folder.path(), "", &page.snippet("wscat.sh")).await;
    assert!(output.contains(r#""content":"Bonjour"#), "no echo: {output}");
    let page = stack.get("/api/conversations/123/messages", 456).await;
    assert!(page["items"][0]["content"].as_str().unwrap().starts_with("Bonjour"), "{page}");
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
}

#[tokio::test]
async fn the_commands_of_getting_started_work() {
    conversation_and_message(GETTING_STARTED, "the commands of docs/getting-started.md").await;
}

#[tokio::test]
async fn the_commands_of_the_readme_work() {
    conversation_and_message(README, "the commands of README.md").await;
}

#[tokio::test]
async fn the_javascript_of_the_readme_works() {
    let subject = "the JavaScript of README.md";
    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip(subject, &reason),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let snippet = README.snippet("page.js").replace("127.0.0.1:8000", &stack.host(0));
    let token = e2e::token(456);
    // Adds the variables and the function of the page, and closes the socket after the echo.
    let page = format!(
        "import WebSocket from 'ws';\nconst conversationId = 123, token = '{token}';\n\
         const addMessage = ({{ content }}) => (console.log(content), chat.close());\n{snippet}"
    );
    fs::write(folder.path().join("page.mjs"), page).unwrap();
    let output = run(Tool::new(node, folder.path()).arg("page.mjs"), &stack, &[]).await;
    assert_eq!(output.trim(), "Bonjour!");
}

#[tokio::test]
async fn the_readmes_commands_for_nats_and_tokens_work() {
    let stack = stack().await;
    let folder = tempfile::tempdir().unwrap();
    cargo_shim(folder.path());
    let output = terminal(&stack, folder.path(), "", &README.snippet("token.sh")).await;
    assert_eq!(output.trim().split('.').count(), 3, "not a token: {output}");
    let ((_, node), nats) = match (tools::node().await, tools::nats().await) {
        (Ok(node), Ok(nats)) => (node, nats.display().to_string()),
        (Err(reason), _) | (_, Err(reason)) => {
            return tools::skip("the notifications of README.md", &reason);
        }
    };
    // In the folder of the packages, because npx looks for them there.
    let folder = tempfile::tempdir_in(node).unwrap();
    cargo_shim(folder.path());
    let lines = format!("{}{}", README.snippet("token.sh"), README.snippet("notifications.sh"));
    let lines =
        lines.replace("cargo xtask token", "TOKEN=$(cargo xtask token").replace("john_doe\n", "john_doe)\n");
    let lines = format!("{} > shown.txt", lines.trim_end());
    let shown = folder.path().join("shown.txt");
    let publish = async || {
        terminal(&stack, folder.path(), &nats, &README.snippet("notify.sh")).await;
        fs::read_to_string(&shown).is_ok_and(|shown| shown.contains("payment_completed")).then_some(())
    };
    // The first one may be too early for the socket.
    tokio::select! {
        output = terminal(&stack, folder.path(), "", &lines) => panic!("wscat has ended: {output}"),
        () = eventually("a notification", publish) => {}
    }
    let page = stack.get("/api/notifications", 456).await;
    assert!(payments(page["items"].as_array().unwrap()).iter().all(|payment| *payment == 789), "{page}");
}

#[tokio::test]
async fn the_commands_of_the_french_guide_work() {
    conversation_and_message(FRENCH, "the commands of docs/guide.fr.md").await;
}

#[tokio::test]
async fn the_addresses_and_the_client_of_the_french_guide_work() {
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    for name in ["chat.txt", "notifications.txt", "typing.txt"] {
        let address = FRENCH.snippet(name).replace("localhost:8000", &stack.host(0));
        let address = address.trim().replace("{conversation_id}", "123");
        let mut socket = Socket::open(&format!("{address}?token={}", e2e::token(456))).await;
        socket.send_raw(Message::Ping("still there?".into())).await;
        assert!(within("a pong", socket.pong()).await, "{address}");
    }

    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("the client in docs/guide.fr.md", &reason),
    };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let scope = folder.path().join("node_modules/@vyzio");
    fs::create_dir_all(&scope).unwrap();
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/js").canonicalize().unwrap();
    std::os::unix::fs::symlink(client, scope.join("realtime")).unwrap();
    let origin = format!("http://{}", stack.host(0));
    let snippet = FRENCH.snippet("client.js").replace("https://rt.example.com", &origin);
    // Adds the functions of the page, and ends once the message is stored.
    let page = format!(
        "import WebSocket from 'ws';
         globalThis.WebSocket ??= WebSocket;
         const {{ fetch: real }} = globalThis;
         globalThis.fetch = (url, options) =>
             url === '/realtime/token' ? new Response('{}') : real(url, options);
         let shown;
         const showMessages = (messages) => (shown = messages.map(({{ content }}) => content));
         {snippet}
         console.log(JSON.stringify(shown));
         rt.close();",
        e2e::token(456)
    );
    fs::write(folder.path().join("page.mjs"), page).unwrap();
    let output = run(Tool::new(node, folder.path()).arg("page.mjs"), &stack, &[]).await;
    assert_eq!(output.trim(), r#"["Bonjour !"]"#);
    let page = stack.get("/api/conversations/123/messages", 457).await;
    assert_eq!(page["items"][0]["content"], "Bonjour !");
}

#[tokio::test]
async fn the_javascript_of_getting_started_works() {
    let subject = "the JavaScript of docs/getting-started.md";
    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip(subject, &reason),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let snippet = GETTING_STARTED.snippet("page.js").replace("127.0.0.1:8000", &stack.host(0));
    let token = e2e::token(456);
    // Adds the variables of the page, and closes the socket after the echo.
    let page = format!(
        "import WebSocket from 'ws';\nconst conversationId = 123, token = '{token}';\n{snippet}\
         socket.addEventListener('message', () => socket.close());\n"
    );
    fs::write(folder.path().join("page.mjs"), page).unwrap();
    let output = run(Tool::new(node, folder.path()).arg("page.mjs"), &stack, &[]).await;
    assert!(output.contains("content: 'Bonjour!'"), "{output}");
}

#[tokio::test]
async fn the_guides_commands_for_nats_and_tokens_work() {
    let stack = stack().await;
    let folder = tempfile::tempdir().unwrap();
    cargo_shim(folder.path());
    let output = terminal(&stack, folder.path(), "", &GETTING_STARTED.snippet("own-token.sh")).await;
    assert_eq!(output.trim().split('.').count(), 3, "not a token: {output}");
    let nats = match tools::nats().await {
        Ok(nats) => nats.display().to_string(),
        Err(reason) => return tools::skip("the guides' `nats` commands", &reason),
    };
    for (page, name) in [(GETTING_STARTED, "notify.sh"), (FRENCH, "notification.sh")] {
        terminal(&stack, folder.path(), &nats, &page.snippet(name)).await;
    }
    assert_eq!(payments(&notifications(&stack, 456, 2).await), [789, 789]);
    let output = terminal(&stack, folder.path(), &nats, &FRENCH.snippet("revoke.sh")).await;
    assert!(output.contains("revoked_before"), "{output}");
    let output = terminal(&stack, folder.path(), &nats, &FRENCH.snippet("effacer.sh")).await;
    assert!(output.contains(r#""next":null"#) && output.contains("erasure_id"), "{output}");
}

#[tokio::test]
async fn completions_contain_the_commands() {
    let xtask = tools::target().join("xtask");
    for shell in ["bash", "zsh", "fish"] {
        let tool = Tool::new(&xtask, Path::new("/")).args(["completions", shell]);
        let output = tool.output(&[]).await.unwrap();
        assert!(
            ["deadletters", "token", "completions"].iter().all(|command| output.contains(command)),
            "{output}"
        );
        if shell == "bash" {
            let source = Tool::new("bash", Path::new("/")).args(["-c", "eval \"$SCRIPT\""]);
            source.output(&[("SCRIPT", &output)]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_files_of_the_french_guide_are_valid() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the files of docs/guide.fr.md", &reason),
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["compose.override.yml", "render.yaml", "railway.toml", "settings_extract.py"] {
        fs::write(folder.path().join(name), FRENCH.snippet(name)).unwrap();
    }
    let check = |program: &Path| Tool::new(program, folder.path());
    let schema = check(&python.with_file_name("check-jsonschema"));
    let schema = schema.args(["--builtin-schema", "vendor.compose-spec", "compose.override.yml"]);
    schema.output(&[]).await.unwrap();
    let parse = "import tomllib, runpy, ruamel.yaml
assert 'gunicorn' in tomllib.load(open('railway.toml', 'rb'))['deploy']['startCommand']
service = ruamel.yaml.YAML(typ='safe').load(open('render.yaml'))['services'][0]
assert service['type'] == 'web' and 'gunicorn' in service['startCommand'], service
serializer = runpy.run_path('settings_extract.py')['SIMPLE_JWT']['TOKEN_OBTAIN_SERIALIZER']
assert serializer == 'accounts.tokens.NamedTokenSerializer', serializer";
    check(&python).arg("-c").arg(parse).output(&[]).await.unwrap();
}

#[test]
fn the_french_guide_has_the_old_guides_javascript_unchanged() {
    for (name, old) in [
        ("guide/chat.js", include_str!("../browser/guide/chat.js")),
        ("guide/notifications.js", include_str!("../browser/guide/notifications.js")),
        ("guide/typing.js", include_str!("../browser/guide/typing.js")),
        ("guide/auth.js", include_str!("../browser/guide/auth.js")),
    ] {
        assert_eq!(FRENCH.snippet(name).trim_end(), old.trim_end(), "{name}");
    }
}

#[test]
fn every_snippet_of_the_guides_is_run_by_a_test() {
    let getting_started = ["conversation.sh", "notify.sh", "own-token.sh", "page.js", "wscat.sh"];
    assert_eq!(GETTING_STARTED.names(), getting_started);
    let readme = ["conversation.sh", "notifications.sh", "notify.sh", "page.js", "token.sh", "wscat.sh"];
    assert_eq!(README.names(), readme);
    let french = [
        "boutique/vues.py", // In the project of migration.rs.
        "chat.txt",
        "client.js",
        "compose.override.yml",
        "conversation.sh",
        "effacer.sh",
        "guide/auth.js",
        "guide/chat.js",
        "guide/notifications.js",
        "guide/typing.js",
        "notification.sh",
        "notifications.txt",
        "railway.toml",
        "render.yaml",
        "revoke.sh",
        "settings_extract.py",
        "typing.txt",
        "wscat.sh",
    ];
    assert_eq!(FRENCH.names(), french);
}
