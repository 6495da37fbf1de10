//! The example `examples/django-shop`, started as its page says: listings, a chat, an offer, a payment and a report.

use crate::{browser::Browser, engine::Engine};
use e2e::{BACKEND_KEY, Options, SECRET, Stack, eventually, node};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use testkit::{Child, Output, Program, Signal, free_port};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The secret of webhooks in the example's settings.
const WEBHOOK_SECRET: &str = "whsec_c2VjcmV0IG9mIHdlYmhvb2tzIG9uIGEgbGFwdG9w";

/// End of the example's settings. By default, the package gives up after a second, which a busy machine may need.
const PATIENCE: &str = "\nVYZIO[\"TIMEOUT\"] = 30\n";

/// A copy of the example and of its package, as in a checkout. Returns the folder of the example.
fn checkout(folder: &Path) -> PathBuf {
    for part in ["clients/django", "examples/django-shop"] {
        fs::create_dir_all(folder.join(part)).expect("create a folder");
        node::copy(&Path::new(ROOT).join(part), &folder.join(part));
    }
    let shop = folder.join("examples/django-shop");
    let settings = shop.join("shop/settings.py");
    let content = fs::read_to_string(&settings).expect("read the settings");
    fs::write(&settings, content + PATIENCE).expect("change the settings");
    shop
}

/// Starts the shop with its own program, `run`, which installs its packages.
fn start(folder: &Path, site: &str, stack: &Stack) -> Child {
    Program::new(folder.join("run"))
        .folder(folder)
        .env("SITE_URL", site)
        .env("REALTIME_URL", format!("http://{}", stack.host(0)))
        .env("REALTIME_KEY", BACKEND_KEY)
        .env("JWT_SECRET", SECRET)
        .env("PYTHONUNBUFFERED", "1")
        .stop_signal(Signal::Term)
        .output(Output::Lines(Arc::new(|line| println!("{line}"))))
        .spawn()
        .expect("start the shop")
}

/// Signs in as the sample user with this id.
async fn sign_in(page: &Browser, site: &str, user: i64) {
    page.goto(&format!("{site}/sign-in/")).await;
    page.click(&format!("[name=user][value='{user}']")).await;
    page.until("!location.pathname.startsWith('/sign-in/') && document.readyState === 'complete'").await;
}

/// Takes a screenshot of a wide window and of a narrow one.
async fn look(page: &Browser, name: &str) {
    page.set_viewport(1280, 800, "light").await;
    page.screenshot(&format!("django-shop-{name}")).await;
    page.set_viewport(390, 844, "dark").await;
    page.screenshot(&format!("django-shop-{name}-narrow")).await;
    let overflow = page.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().is_some_and(|pixels| pixels <= 0), "{name} scrolls sideways by {overflow}");
    page.set_viewport(1280, 800, "light").await;
}

fn shows(selector: &str, text: &str) -> String {
    format!("[...document.querySelectorAll('{selector}')].some((one) => one.innerText.includes('{text}'))")
}

#[tokio::test]
async fn two_users_of_the_django_shop_agree_on_a_price() {
    let folder = tempfile::tempdir().expect("create a folder");
    if let Err(reason) = node::run("python3", &["-c", "import ensurepip, venv"], folder.path(), &[]).await {
        return node::skip("examples/django-shop", &reason);
    }
    let shop = checkout(folder.path());
    let program = shop.join("run").display().to_string();
    // The first start installs packages, which takes longer than tests wait for anything else.
    node::run(&program, &["--help"], &shop, &[]).await.expect("install the packages");
    let start_browser = || Browser::start(Engine::Chromium);
    let (Some(alice), Some(bruno)) = tokio::join!(start_browser(), start_browser()) else { return };
    let site = format!("http://127.0.0.1:{}", free_port().expect("a free port"));
    let env = vec![
        ("ALLOWED_ORIGINS", site.clone()),
        ("WEBHOOK_URL", format!("{site}/realtime/webhook/")),
        ("WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
    ];
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let _shop = start(&shop, &site, &stack);
    eventually("the shop", async || stack.http().get(&site).send().await.ok().map(drop)).await;

    sign_in(&alice, &site, 1).await;
    alice.until("document.querySelectorAll('.listings li').length === 6").await;
    look(&alice, "listings").await;
    alice.click("[href='/listings/1/']").await;
    alice.until("document.querySelector('#contact')").await;
    look(&alice, "listing").await;
    alice.click("#contact").await;
    alice.until(&shows("#messages .mine", "est-ce toujours disponible")).await;

    sign_in(&bruno, &site, 2).await;
    bruno.until("document.querySelector('#unread').innerText === '1'").await;
    bruno.goto(&format!("{site}/messages/")).await;
    bruno.until(&shows("#inbox li", "est-ce toujours disponible")).await;
    look(&bruno, "inbox").await;
    bruno.click("#inbox a:has(.badge)").await;
    bruno.until(&shows("#messages .theirs", "est-ce toujours disponible")).await;
    alice.until(&shows("#messages .mine", "✓✓")).await;
    bruno.keys("[name=text]", "Oui, il est là.\n").await;
    alice.until(&shows("#messages .theirs", "Oui, il est là.")).await;

    // A declined offer, and an accepted one. A new row takes the focus from none.
    bruno.run("document.querySelector('#messages .theirs button').focus()", vec![]).await;
    for (amount, button, state) in [("50", "declined", "refusée"), ("99.5", "accepted", "acceptée")] {
        alice.keys("[name=amount]", &format!("{amount}\n")).await;
        bruno.until(&format!("document.querySelector('[data-to={button}]')")).await;
        if button == "declined" {
            assert_eq!(bruno.eval("document.activeElement.innerText").await, "Signaler");
        } else {
            look(&bruno, "offer").await;
        }
        bruno.click(&format!("[data-to={button}]")).await;
        alice.until(&shows(".offer .state", state)).await;
        bruno.until(&format!("!document.querySelector('[data-to={button}]')")).await;
    }
    assert_eq!(alice.eval("document.querySelectorAll('.offer').length").await, 2);
    look(&alice, "accepted").await;

    alice.click("[data-to=paid]").await;
    bruno.until(&shows("#toasts li", "alice a acheté « Vélo de ville »")).await;
    look(&bruno, "sold").await;
    alice.until(&shows(".about .state", "Vendu")).await;
    alice.click("#bell summary").await;
    alice.until(&shows("#bell li", "Paiement confirmé")).await;
    look(&alice, "notifications").await;

    report(&alice, &bruno, &site).await;
}

/// A report becomes a webhook, and a row in the admin.
async fn report(alice: &Browser, staff: &Browser, site: &str) {
    alice.run("window.prompt = () => 'Il ment'", vec![]).await;
    alice.click("#messages .theirs button.link").await;
    alice.until(&shows("#messages .theirs button", "Signalé")).await;
    sign_in(staff, site, 100).await;
    let reports = format!("{site}/admin/vyzio_realtime/report/");
    eventually("the report in the admin", async || {
        staff.goto(&reports).await;
        let row = "document.querySelector('#result_list')?.innerText ?? ''";
        let row = staff.eval(row).await.as_str().unwrap_or_default().to_owned();
        (row.contains("Il ment") && row.contains("Oui, il est là.")).then_some(())
    })
    .await;
    staff.screenshot("django-shop-admin").await;
}
