//! `docs/getting-started.md` and `docs/guide.fr.md`: their commands in a terminal, their JavaScript in Node. The old
//! guide's JavaScript is run in a browser by `e2e/tests/browser`, which has it word for word.

use crate::{
    notifications, payments,
    snippets::{FRENCH, GETTING_STARTED, Page},
    tools::{self, Tool, run},
};
use e2e::{Options, SECRET, Stack};
use sqlx::{Connection, Executor, PgConnection};
use std::{fs, path::Path};

/// A stack with the pages' conversation of users 456 and 457.
async fn stack() -> Stack {
    let stack = Stack::with(Options::default()).await;
    let mut database = PgConnection::connect(&stack.database.url()).await.unwrap();
    let next = "alter table chat.conversations alter column conversation_id restart with 123";
    database.execute(next).await.unwrap();
    stack
}

/// A folder with a `cargo` that only knows `cargo xtask`, as tests build nothing.
fn cargo_shim(folder: &Path) {
    let xtask = tools::target().join("xtask");
    let shim = folder.join("cargo");
    fs::write(&shim, format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", xtask.display())).unwrap();
    let mut permissions = fs::metadata(&shim).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&shim, permissions).unwrap();
}

/// Runs lines of a terminal, with the address that they name replaced by the stack's.
async fn terminal(stack: &Stack, folder: &Path, more_path: &str, lines: &str) -> String {
    let here = stack.host(0);
    let lines = lines.replace("127.0.0.1:8000", &here).replace("localhost:8000", &here);
    let path = format!("{}:{more_path}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let tool = Tool::new("sh", folder).arg("-euc").arg(lines).with_input();
    run(tool, stack, &[("PATH", &path), ("JWT_SECRET", SECRET)]).await
}

/// A conversation by `curl`, then a message by `wscat`.
async fn conversation_and_message(page: Page, what: &str) {
    let (_, node) = match tools::node().await {
        Ok(found) => found,
        Err(why) => return tools::skip(what, &why),
    };
    if let Err(why) = tools::there("curl", "--version").await {
        return tools::skip(what, &why);
    }
    let stack = stack().await;
    // Beside the packages, where npx looks for them.
    let folder = tempfile::tempdir_in(node).unwrap();
    cargo_shim(folder.path());
    let made = terminal(&stack, folder.path(), "", &page.snippet("conversation.sh")).await;
    assert!(made.contains(r#""conversation_id":123"#), "{made}");
    let said = terminal(&stack, folder.path(), "", &page.snippet("wscat.sh")).await;
    assert!(said.contains(r#""content":"Bonjour"#), "the echo: {said}");
    let page = stack.get("/api/conversations/123/messages", 456).await;
    assert!(page["items"][0]["content"].as_str().unwrap().starts_with("Bonjour"), "{page}");
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
}

#[tokio::test]
async fn getting_started_in_a_terminal() {
    conversation_and_message(GETTING_STARTED, "the commands of docs/getting-started.md").await;
}

#[tokio::test]
async fn the_french_guide_in_a_terminal() {
    conversation_and_message(FRENCH, "the commands of docs/guide.fr.md").await;
}

#[tokio::test]
async fn getting_started_in_a_page() {
    let what = "the JavaScript of docs/getting-started.md";
    let (node, folder) = match tools::node().await {
        Ok(found) => found,
        Err(why) => return tools::skip(what, &why),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let snippet = GETTING_STARTED.snippet("page.js").replace("127.0.0.1:8000", &stack.host(0));
    let token = e2e::token(456);
    // What the page has besides; it ends with the echo.
    let page = format!(
        "import WebSocket from 'ws';\nconst conversationId = 123, token = '{token}';\n{snippet}\
         socket.addEventListener('message', () => socket.close());\n"
    );
    fs::write(folder.path().join("page.mjs"), page).unwrap();
    let said = run(Tool::new(node, folder.path()).arg("page.mjs"), &stack, &[]).await;
    assert!(said.contains("content: 'Bonjour!'"), "{said}");
}

#[tokio::test]
async fn the_guides_commands_for_nats_and_tokens() {
    let stack = stack().await;
    let folder = tempfile::tempdir().unwrap();
    cargo_shim(folder.path());
    let said = terminal(&stack, folder.path(), "", &GETTING_STARTED.snippet("own-token.sh")).await;
    assert_eq!(said.trim().split('.').count(), 3, "a token: {said}");
    let nats = match tools::nats().await {
        Ok(nats) => nats.display().to_string(),
        Err(why) => return tools::skip("the guides' `nats` commands", &why),
    };
    for (page, name) in [(GETTING_STARTED, "notify.sh"), (FRENCH, "notification.sh")] {
        terminal(&stack, folder.path(), &nats, &page.snippet(name)).await;
    }
    assert_eq!(payments(&notifications(&stack, 456, 2).await), [789, 789]);
    let said = terminal(&stack, folder.path(), &nats, &FRENCH.snippet("revoke.sh")).await;
    assert!(said.contains("revoked_before"), "{said}");
}

#[tokio::test]
async fn completions_name_every_command() {
    let xtask = tools::target().join("xtask");
    for shell in ["bash", "zsh", "fish"] {
        let tool = Tool::new(&xtask, Path::new("/")).args(["completions", shell]);
        let said = tool.output(&[]).await.unwrap();
        assert!(
            ["deadletters", "token", "completions"].iter().all(|command| said.contains(command)),
            "{said}"
        );
        if shell == "bash" {
            let source = Tool::new("bash", Path::new("/")).args(["-c", "eval \"$SCRIPT\""]);
            source.output(&[("SCRIPT", &said)]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_french_guides_files_are_what_their_readers_take() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(why) => return tools::skip("the files of docs/guide.fr.md", &why),
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
    // The same version as the tests install.
    let required = FRENCH.snippet("requirements.txt");
    assert!(tools::PIP.iter().any(|installed| *installed == required.trim()), "{required}");
}

#[test]
fn the_french_guide_has_the_old_guides_javascript_word_for_word() {
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
    let started = ["conversation.sh", "notify.sh", "own-token.sh", "page.js", "wscat.sh"];
    assert_eq!(GETTING_STARTED.names(), started);
    let french = [
        "boutique/vues.py", // In the project of migration.rs.
        "compose.override.yml",
        "conversation.sh",
        "guide/auth.js",
        "guide/chat.js",
        "guide/notifications.js",
        "guide/typing.js",
        "notification.sh",
        "railway.toml",
        "render.yaml",
        "requirements.txt",
        "revoke.sh",
        "settings_extract.py",
        "wscat.sh",
    ];
    assert_eq!(FRENCH.names(), french);
}
