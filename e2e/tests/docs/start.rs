//! Follows the pages of `docs/start` and `docs/troubleshooting.md`, and the READMEs of the clients.

use crate::{
    browser::Browser,
    django,
    guides::{cargo_shim, stack, terminal},
    snippets::{
        JS_README, PYTHON_README, Page, START_CSP, START_DJANGO, START_NODE, START_PYTHON, START_REACT,
        START_TOKEN, TROUBLESHOOTING,
    },
    tools::{self, Tool, run},
};
use e2e::{BACKEND_KEY, Kind, Options, SECRET, Stack, eventually, token, token_with};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};
use testkit::{Child, Output, Program, Signal, free_port};

/// Enter, as WebDriver types it.
const ENTER: char = '\u{e007}';

/// What the site of `django.md` needs for the endpoint of `token.md` without the package.
const SIMPLE_JWT: &str = "\nSIMPLE_JWT = {\"SIGNING_KEY\": os.environ[\"JWT_SECRET\"]}\n";
const PLAIN_TOKEN: &str = "
from chat import token

urlpatterns += [path(\"plain-token\", token.realtime_token)]
";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// `PATH` with folders before it.
fn path_with(folders: &[&Path]) -> String {
    let folders = folders.iter().map(|folder| folder.display().to_string());
    folders.chain([std::env::var("PATH").unwrap_or_default()]).collect::<Vec<_>>().join(":")
}

/// Starts the last command of some lines in a shell, which runs until it is dropped.
fn start(lines: &str, folder: &Path, env: &[(&str, &str)]) -> Child {
    // Without `exec`, dropping it would stop only the shell.
    let (before, last) = lines.trim_end().rsplit_once('\n').expect("more than one line");
    let words = last.split(' ').take_while(|word| word.contains('=')).count();
    let (variables, command) = last.split_at(last.split(' ').take(words).map(|word| word.len() + 1).sum());
    let lines = format!("{before}\n{variables}exec {command}");
    let program = Program::new("sh").args(["-euc", &lines]).folder(folder).stop_signal(Signal::Term);
    let program = program.output(Output::Lines(Arc::new(|line| println!("{line}"))));
    let program = env.iter().fold(program, |program, (key, value)| program.env(*key, *value));
    program.spawn().unwrap()
}

fn write(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Signs in on Django's page and waits until the chat is ready.
async fn sign_in(browser: &Browser, url: &str, username: &str) {
    browser.goto(url).await;
    browser.keys("#id_username", username).await;
    browser.keys("#id_password", &format!("secret{ENTER}")).await;
    browser
        .until("document.querySelector('form[hidden]') === null && document.querySelector('#messages')")
        .await;
}

#[tokio::test]
async fn two_browsers_chat_on_the_django_page_with_its_policy() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("docs/start/django.md", &reason),
    };
    let (Some(ada), Some(ben)) = tokio::join!(Browser::recorded(), Browser::recorded()) else { return };
    let port = free_port().unwrap();
    let site = format!("http://127.0.0.1:{port}");
    let env = vec![("ALLOWED_ORIGINS", site.clone())];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let snippet = |page: Page, name: &str| {
        let text = page.snippet(name).replace("127.0.0.1:8000", &stack.host(0));
        let text = text.replace("https://rt.example.com", &format!("http://{}", stack.host(0)));
        let text = text.replace("runserver 8080", &format!("runserver {port}"));
        text.replace("a key of at least 32 characters, for both", SECRET)
    };
    let folder = tempfile::tempdir().unwrap();
    // A copy, because its build writes beside its sources.
    let checkout = folder.path().join("checkout");
    fs::create_dir_all(checkout.join("clients/django")).unwrap();
    e2e::node::copy(&repository().join("clients/django"), &checkout.join("clients/django"));
    let venv = folder.path().join("venv");
    run(Tool::new(&python, folder.path()).args(["-m", "venv", "venv"]), &stack, &[]).await;
    let site_folder = folder.path().join("site");
    fs::create_dir(&site_folder).unwrap();
    let path = path_with(&[&venv.join("bin")]);
    let checkout = checkout.display().to_string();
    let env = [("PATH", path.as_str()), ("VYZIO", &checkout), ("VYZIO_KEY", BACKEND_KEY)];
    // The second package is for the endpoint of `token.md`.
    let commands = snippet(START_DJANGO, "project.sh") + "pip install djangorestframework-simplejwt";
    run(Tool::new("sh", &site_folder).arg("-euc").arg(commands), &stack, &env).await;
    let settings = fs::read_to_string(site_folder.join("shop/settings.py")).unwrap();
    let added = snippet(START_DJANGO, "shop/settings.py") + &snippet(START_CSP, "csp_settings.py");
    write(&site_folder, "shop/settings.py", &(settings + &added + SIMPLE_JWT + django::PATIENCE));
    write(&site_folder, "chat/middleware.py", &snippet(START_CSP, "chat/middleware.py"));
    for name in ["chat/views.py", "chat/templates/chat.html", "chat/static/chat.js"] {
        write(&site_folder, name, &snippet(START_DJANGO, name));
    }
    write(&site_folder, "shop/urls.py", &(snippet(START_DJANGO, "shop/urls.py") + PLAIN_TOKEN));
    write(&site_folder, "chat/token.py", &snippet(START_TOKEN, "token.py"));
    let page =
        snippet(JS_README, "page.html").replace("</script>", "globalThis.connect = connect;\n</script>");
    write(&site_folder, "chat/static/page.html", &page);
    let server = start(&snippet(START_DJANGO, "run.sh"), &site_folder, &env);
    let get = async |path: &str| stack.http().get(format!("{site}{path}")).send().await.ok();
    for path in ["/realtime/token/", "/plain-token"] {
        let answer = eventually("Django", async || get(path).await).await;
        assert_eq!(answer.status(), 401, "nobody is signed in");
        assert!(answer.headers().contains_key("content-security-policy"));
    }

    sign_in(&ada, &format!("{site}/chat/2/"), "ada").await;
    sign_in(&ben, &format!("{site}/chat/1/"), "ben").await;
    let shows = |text: &str| {
        format!("[...document.querySelectorAll('li')].some((li) => li.textContent === '{text}')")
    };
    ada.keys("[name=text]", &format!("Bonjour Ben{ENTER}")).await;
    ada.until(&shows("Me: Bonjour Ben")).await;
    ben.until(&shows("ada: Bonjour Ben")).await;
    ben.keys("[name=text]", &format!("Salut{ENTER}")).await;
    ada.until(&shows("ben: Salut")).await;
    ada.click("form[action='/chat/2/wave/'] button").await;
    ben.until(&shows("Hello: ada waves at you")).await;
    // The token of the other endpoint opens a socket, too.
    let plain = "fetch('/plain-token').then((answer) => answer.text()).then((text) => (window.plain = text))";
    ada.run(plain, vec![]).await;
    let plain = ada.until("window.plain").await;
    let call = stack.http().get(format!("http://{}/api/unread", stack.host(0)));
    assert_eq!(call.bearer_auth(plain.as_str().unwrap()).send().await.unwrap().status(), 200);
    for browser in [&ada, &ben] {
        let complaints = browser.complaints().await;
        assert!(!complaints.iter().any(|text| text.contains("Content Security Policy")), "{complaints:?}");
    }

    // The HTML of the client's README.
    ada.goto(&format!("{site}/static/page.html")).await;
    ada.until("typeof globalThis.connect === 'function'").await;
    drop(server);
}

/// A project with the packages of an `npm install` of a page. The client is the one in this repository.
async fn npm_project(packages: &Path, install: &str, stack: &Stack) -> tempfile::TempDir {
    // In the folder of the packages, because Node looks for them there.
    let project = tempfile::tempdir_in(packages).unwrap();
    write(project.path(), "package.json", r#"{ "private": true, "type": "module" }"#);
    let client = repository().join("clients/js").display().to_string();
    let install = install.replace("@vyzio/realtime", &client);
    assert!(install.contains(&client), "{install}");
    let tool = Tool::new("sh", project.path()).arg("-euc").arg(install);
    // A copy, as from a registry, which has what `npm pack` packs.
    run(tool, stack, &[("npm_config_install_links", "true"), ("npm_config_ignore_scripts", "true")]).await;
    assert!(project.path().join("node_modules/@vyzio/realtime/dist/react.js").exists());
    project
}

#[tokio::test]
async fn the_react_page_shows_and_sends_messages() {
    let (node, packages) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("docs/start/react.md", &reason),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    stack.post("/api/conversations/123/messages", 457, json!({"message": "Salut"})).await.expect(201);

    let install = START_REACT.snippet("install.sh");
    assert_eq!(install, JS_README.snippet("install.sh"));
    let project = npm_project(&packages, &install, &stack).await;
    let app = START_REACT.snippet("app.jsx").replace("127.0.0.1:8000", &stack.host(0));
    write(project.path(), "app.jsx", &app);
    write(project.path(), "react.mjs", include_str!("start/react.mjs"));
    let bundle = Tool::new(packages.join("node_modules/.bin/esbuild"), project.path());
    let bundle = bundle.args(["app.jsx", "--bundle", "--format=esm", "--platform=node", "--jsx=automatic"]);
    run(bundle.args(["--external:react", "--outfile=app.bundle.mjs"]), &stack, &[]).await;
    let program = Tool::new(node, project.path()).arg("react.mjs");
    let output = run(program, &stack, &[("TOKEN", &token(456))]).await;
    let output: Value = serde_json::from_str(output.trim()).unwrap();
    assert_eq!(output, json!({"shown": ["Salut", "Bonjour"], "left": ""}));
    eventually("the message", async || {
        let page = stack.get("/api/conversations/123/messages", 457).await;
        (page["items"][0]["content"] == "Bonjour").then_some(())
    })
    .await;
}

/// Sends messages to conversation 123 until user 457 answers with this text before the message.
async fn answer_of_bot(stack: &Stack, before: &str) {
    // A bot answers messages that arrive after its start.
    eventually(&format!("an answer with {before:?}"), async || {
        let path = "/api/conversations/123/messages";
        stack.post(path, 456, json!({"message": "Coucou"})).await.expect(201);
        let page = stack.get(path, 456).await;
        let answer = page["items"].as_array().unwrap().iter().find(|item| item["sender_id"] == 457)?;
        (answer["content"] == format!("{before}Coucou")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_node_bot_of_the_page_answers() {
    let (_, packages) = match tools::node().await {
        Ok(found) => found,
        Err(reason) => return tools::skip("docs/start/node.md", &reason),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    let project = npm_project(&packages, &START_NODE.snippet("install.sh"), &stack).await;
    cargo_shim(project.path());
    let bot = START_NODE.snippet("bot.mjs").replace("127.0.0.1:8000", &stack.host(0));
    write(project.path(), "bot.mjs", &bot);
    let path = path_with(&[project.path()]);
    let bot =
        start(&START_NODE.snippet("run.sh"), project.path(), &[("PATH", &path), ("JWT_SECRET", SECRET)]);
    answer_of_bot(&stack, "You said: ").await;
    drop(bot);
}

/// Installs the Python client with the command of a page into a folder of its own, for programs in that folder.
async fn pip_install(python: &Path, install: &str, stack: &Stack) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // A copy, because the build writes beside its sources.
    let copy = Tool::new("cp", folder.path()).arg("-R").arg(repository().join("clients"));
    run(copy.arg(folder.path().join("clients")), stack, &[]).await;
    let path = path_with(&[python.parent().unwrap()]);
    // The environment is for all tests.
    let install = install.replace("pip install", "pip install --quiet --no-deps --target .");
    run(Tool::new("sh", folder.path()).arg("-euc").arg(&install), stack, &[("PATH", &path)]).await;
    assert!(folder.path().join("vyzio_realtime/__init__.py").exists(), "{install}");
    folder
}

#[tokio::test]
async fn the_python_bots_of_the_page_and_of_the_readme_answer() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("docs/start/python.md", &reason),
    };
    let stack = stack().await;
    assert_eq!(stack.conversation(&[456, 457]).await, 123);
    let install = START_PYTHON.snippet("install.sh");
    assert_eq!(install, PYTHON_README.snippet("install.sh"));
    let folder = pip_install(&python, &install, &stack).await;
    cargo_shim(folder.path());
    let bot = START_PYTHON.snippet("bot.py").replace("127.0.0.1:8000", &stack.host(0));
    write(folder.path(), "bot.py", &bot);
    let path = path_with(&[folder.path(), python.parent().unwrap()]);
    let env = [("PATH", path.as_str()), ("JWT_SECRET", SECRET)];
    let bot = start(&START_PYTHON.snippet("run.sh"), folder.path(), &env);
    answer_of_bot(&stack, "You said: ").await;
    drop(bot);

    let token = token_with(json!({"user_id": 457, "username": "bot"}));
    let bot = PYTHON_README.snippet("bot.py");
    let bot = bot.replace("https://rt.example.com", &format!("http://{}", stack.host(0)));
    write(folder.path(), "readme.py", &format!("def get_token(refresh):\n    return '{token}'\n\n{bot}"));
    let bot = start("true\npython readme.py", folder.path(), &env);
    answer_of_bot(&stack, "Vous avez dit : ").await;
    drop(bot);
}

#[tokio::test]
async fn the_gateway_accepts_the_tokens_of_the_page() {
    let (python, (node, packages)) = match (tools::python().await, tools::node().await) {
        (Ok(python), Ok(node)) => (python, node),
        (Err(reason), _) | (_, Err(reason)) => return tools::skip("docs/start/token.md", &reason),
    };
    let stack = stack().await;
    let folder = tempfile::tempdir_in(packages).unwrap();
    write(folder.path(), "bot_token.py", &START_TOKEN.snippet("bot_token.py"));
    write(folder.path(), "endpoint.mjs", &START_TOKEN.snippet("token.mjs"));
    write(folder.path(), "token.mjs", include_str!("start/token.mjs"));
    let env = [("JWT_SECRET", SECRET)];
    let print =
        Tool::new(python, folder.path()).arg("-c").arg("import bot_token; print(bot_token.bot_token())");
    let of_bot = run(print, &stack, &env).await;
    let answers = run(Tool::new(node, folder.path()).arg("token.mjs"), &stack, &env).await;
    let answers: Value = serde_json::from_str(answers.trim()).unwrap();
    assert_eq!((&answers[0][0], &answers[1]), (&json!(200), &json!([401, ""])));
    for token in [of_bot.trim(), answers[0][1].as_str().unwrap()] {
        let call = stack.http().get(format!("http://{}/api/unread", stack.host(0))).bearer_auth(token);
        assert_eq!(call.send().await.unwrap().status(), 200, "{token}");
    }
}

#[tokio::test]
async fn the_commands_of_troubleshooting_find_each_cause() {
    let subject = "docs/troubleshooting.md";
    if let Err(reason) = tools::check_installed("curl", "--version").await {
        return tools::skip(subject, &reason);
    }
    let log = Arc::new(Mutex::new(String::new()));
    let written = log.clone();
    let on_line = Arc::new(move |_: &str, line: &str| written.lock().unwrap().push_str(line));
    let stack = Stack::with(Options { on_line, ..Options::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    cargo_shim(folder.path());
    let admin = stack.admin(Kind::Gateway, 0);
    let shell = async |change: &str, name: &str| {
        let lines =
            format!("{}{change}\n{}", TROUBLESHOOTING.snippet("variables.sh"), TROUBLESHOOTING.snippet(name));
        terminal(&stack, folder.path(), "", &lines.replace("http://127.0.0.1:9000", &admin)).await
    };
    assert_eq!(shell("", "healthz.sh").await, "ok\n");

    assert!(shell("", "token.sh").await.contains(r#""messages":0"#));
    shell("", "debug.sh").await;
    let refused = shell(
        "TOKEN=$(JWT_SECRET=another-key-of-32-characters-or-more cargo xtask token --user 456)",
        "token.sh",
    )
    .await;
    assert!(refused.contains(r#""code":"unauthorized""#), "{refused}");
    eventually("the reason in the log", async || {
        log.lock().unwrap().contains("the token is not valid").then_some(())
    })
    .await;

    assert!(shell("", "origin.sh").await.contains(r#""code":"origin_not_allowed""#));

    assert_eq!(shell("", "socket.sh").await, "101\n");
    let without = TROUBLESHOOTING.snippet("socket.sh").replace("-H 'Upgrade: websocket'", "");
    let lines = format!("{}{without}", TROUBLESHOOTING.snippet("variables.sh"));
    assert_eq!(terminal(&stack, folder.path(), "", &lines).await, "426\n", "a proxy has removed the header");
}

#[test]
fn every_snippet_of_the_pages_is_run_by_a_test() {
    let known: [(Page, &[&str]); 9] = [
        (
            START_DJANGO,
            &[
                "chat/static/chat.js",
                "chat/templates/chat.html",
                "chat/views.py",
                "project.sh",
                "run.sh",
                "shop/settings.py",
                "shop/urls.py",
            ],
        ),
        (START_CSP, &["chat/middleware.py", "csp_settings.py"]),
        (START_REACT, &["app.jsx", "install.sh"]),
        (START_NODE, &["bot.mjs", "install.sh", "run.sh"]),
        (START_PYTHON, &["bot.py", "install.sh", "run.sh"]),
        (START_TOKEN, &["bot_token.py", "token.mjs", "token.py"]),
        (TROUBLESHOOTING, &["debug.sh", "healthz.sh", "origin.sh", "socket.sh", "token.sh", "variables.sh"]),
        (JS_README, &["install.sh", "page.html"]),
        (PYTHON_README, &["bot.py", "install.sh"]),
    ];
    for (page, names) in known {
        assert_eq!(page.names(), names);
    }
}
