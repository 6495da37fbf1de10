//! A Chromium of a test's own.

use e2e::{TIMEOUT, eventually, within};
use fantoccini::{
    Client, ClientBuilder, Locator,
    elements::Element,
    wd::{Capabilities, TimeoutConfiguration, WindowHandle},
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::{env, fs, io::Write, path::PathBuf, sync::Arc};
use tempfile::TempDir;
use testkit::{Child, Output, Program, Signal, free_port};

/// What Chromium may be called.
const CHROMIUM: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// No sandbox, as tests may run as root; the rest keeps it quiet and on this machine.
const FLAGS: [&str; 12] = [
    "--headless",
    // What the guide's pages show is in French: the language of who looks at them.
    "--accept-lang=fr",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1280,800",
];

/// A browser with one page. Dropped, it is gone.
pub struct Browser {
    client: Client,
    session: String,
    http: reqwest::Client,
    _driver: Child, // Before `_profile`: dropped first.
    _profile: TempDir,
}

/// Chromium and what drives it; `None`, said loudly, where they are missing and the test is to be skipped.
pub fn installed() -> Option<(PathBuf, PathBuf)> {
    let found = CHROMIUM.into_iter().find_map(on_path).zip(on_path("chromedriver"));
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let why = "no Chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver";
        // Past `eprintln!`, which is only shown of tests that fail.
        std::io::stderr().write_all(format!("\n*** SKIPPED: {test}: {why} ***\n\n").as_bytes()).ok();
    }
    found
}

impl Browser {
    /// Starts one with these flags as well; `None`, said loudly, where there is none to start.
    pub async fn start(flags: &[&str]) -> Option<Self> {
        let (chromium, driver) = installed()?;
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let port = free_port().expect("a free port");
        let driver = Program::new(driver)
            .args([format!("--port={port}"), "--log-level=SEVERE".to_owned()])
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stop_signal(Signal::Term)
            .remove(profile.path())
            .output(Output::Lines(Arc::new(|line| println!("{line}"))))
            .spawn()
            .expect("start chromedriver");
        let http = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{port}");
        let status = format!("{url}/status");
        eventually("chromedriver", async || http.get(&status).send().await.ok().map(drop)).await;

        let data = format!("--user-data-dir={}", profile.path().join("data").display());
        let args: Vec<&str> = FLAGS.iter().chain(flags).copied().chain([data.as_str()]).collect();
        let capabilities: Capabilities = serde_json::from_value(json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args, "binary": chromium },
        }))
        .expect("capabilities are an object");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&url).await.expect("start Chromium");
        // `until` has its own end, which says more.
        let timeouts = TimeoutConfiguration::new(Some(TIMEOUT * 2), None, None);
        client.update_timeouts(timeouts).await.expect("set the timeouts");
        let session = client.session_id().await.expect("a session").expect("its id");
        let session = format!("{url}/session/{session}");
        Some(Self { client, session, http, _driver: driver, _profile: profile })
    }

    /// Goes to an address.
    pub async fn goto(&self, url: &str) {
        within("a page", self.client.goto(url)).await.expect("a page");
    }

    /// Runs a function's body in the page; what it returns.
    pub async fn run(&self, body: &str, args: Vec<Value>) -> Value {
        within("a script", self.client.execute(body, args)).await.expect("a script's answer")
    }

    /// The value of an expression in the page.
    pub async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"), vec![]).await
    }

    /// Runs scripts in the page as its own, on the top level, one right after the other.
    pub async fn inject(&self, scripts: &[&str]) {
        let body = "for (const text of arguments[0]) {
                const script = document.createElement('script');
                script.textContent = text;
                document.head.append(script);
            }";
        self.run(body, vec![json!(scripts)]).await;
    }

    /// Waits until an expression in the page is true; its value.
    ///
    /// # Panics
    /// When it takes longer than [`TIMEOUT`].
    pub async fn until(&self, expression: &str) -> Value {
        let value = self.wait_for(expression, TIMEOUT.as_millis()).await;
        if let Some(error) = value.get("error") {
            let page = self.eval("document.body.innerText").await;
            panic!("waited {TIMEOUT:?} for {expression}, which is {error}\non this page:\n{}", page);
        }
        value["value"].clone()
    }

    /// Whether an expression in the page becomes true within this time.
    pub async fn soon(&self, expression: &str, milliseconds: u32) -> bool {
        self.wait_for(expression, milliseconds.into()).await.get("error").is_none()
    }

    async fn wait_for(&self, expression: &str, milliseconds: u128) -> Value {
        let script = format!(
            "const done = arguments[0];
            const end = performance.now() + {milliseconds};
            const look = () => {{
                let value;
                try {{ value = {expression}; }} catch (error) {{ value = null; }}
                if (value) done({{ value }});
                else if (performance.now() > end) done({{ error: String(value) }});
                else setTimeout(look, 20);
            }};
            look();"
        );
        let waited = self.client.execute_async(&script, vec![]);
        waited.await.unwrap_or_else(|error| panic!("wait for {expression}: {error}"))
    }

    /// The element that a selector finds first; it must be there.
    pub async fn element(&self, selector: &str) -> Element {
        let found = self.client.find(Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("find {selector}: {error}"))
    }

    /// Types as a person does.
    pub async fn keys(&self, selector: &str, text: &str) {
        self.element(selector).await.send_keys(text).await.expect("type");
    }

    /// Clicks as a person does.
    pub async fn click(&self, selector: &str) {
        self.element(selector).await.click().await.expect("click");
    }

    /// The window that is driven.
    pub async fn window(&self) -> WindowHandle {
        self.client.window().await.expect("a window")
    }

    /// Opens another tab of the same profile, and drives that one.
    pub async fn new_window(&self) -> WindowHandle {
        let opened = self.client.new_window(true).await.expect("a new tab");
        self.switch(&opened.handle).await;
        opened.handle
    }

    /// Drives another window.
    pub async fn switch(&self, window: &WindowHandle) {
        self.client.switch_to_window(window.clone()).await.expect("switch windows");
    }

    /// Makes the page this large, in the light or the dark scheme.
    pub async fn look(&self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Sends a command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({"cmd": command, "params": parameters});
        let call = self.http.post(format!("{}/goog/cdp/execute", self.session)).json(&body);
        let answer = within("DevTools", call.send()).await.expect("an answer");
        assert!(answer.status().is_success(), "{command}: {answer:?}");
    }

    /// Keeps a picture of what is on the screen, in the target folder.
    pub async fn screenshot(&self, name: &str) {
        // What moves in has arrived, and every picture shows the same.
        self.run("document.getAnimations().forEach((one) => { try { one.finish(); } catch {} })", vec![])
            .await;
        let picture = within("a screenshot", self.client.screenshot()).await.expect("a screenshot");
        let test = env::current_exe().expect("this program");
        let folder = test.ancestors().nth(3).expect("the target folder").join("screenshots");
        fs::create_dir_all(&folder).expect("make a folder");
        fs::write(folder.join(format!("{name}.png")), picture).expect("write a file");
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
