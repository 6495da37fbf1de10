//! A Chromium for one test.

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

/// Names of Chromium's program.
const CHROMIUM: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// No sandbox, because tests may run as root. Other flags suppress background traffic.
const FLAGS: [&str; 12] = [
    "--headless",
    // The pages of the guide expect a French browser.
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

/// A browser with one page. Dropping it stops it.
pub struct Browser {
    client: Client,
    session: String,
    http: reqwest::Client,
    _driver: Child, // Before `_profile`: dropped first.
    _profile: TempDir,
}

/// Paths of Chromium and chromedriver. If one is missing, reports that the test is skipped and returns `None`.
pub fn installed() -> Option<(PathBuf, PathBuf)> {
    let found = CHROMIUM.into_iter().find_map(on_path).zip(on_path("chromedriver"));
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let reason =
            "Chromium or chromedriver is missing; on Debian: apt-get install chromium chromium-driver";
        // Not `eprintln!`, whose output is shown only if a test fails.
        std::io::stderr().write_all(format!("\n*** SKIPPED: {test}: {reason} ***\n\n").as_bytes()).ok();
    }
    found
}

impl Browser {
    /// Starts a browser with additional flags. Without Chromium, reports that the test is skipped and returns `None`.
    pub async fn start(flags: &[&str]) -> Option<Self> {
        Self::launch(flags, json!({})).await
    }

    /// Starts one that keeps what its page asks for, for [`Browser::requests`].
    pub async fn recorded() -> Option<Self> {
        Self::launch(&[], json!({"browser": "ALL", "performance": "ALL"})).await
    }

    async fn launch(flags: &[&str], logs: Value) -> Option<Self> {
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
            "goog:loggingPrefs": logs,
        }))
        .expect("capabilities are an object");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&url).await.expect("start Chromium");
        // Longer than the timeout of `until`, whose failure message is more detailed.
        let timeouts = TimeoutConfiguration::new(Some(TIMEOUT * 2), None, None);
        client.update_timeouts(timeouts).await.expect("set the timeouts");
        let session = client.session_id().await.expect("a session").expect("its id");
        let session = format!("{url}/session/{session}");
        Some(Self { client, session, http, _driver: driver, _profile: profile })
    }

    /// Opens a URL.
    pub async fn goto(&self, url: &str) {
        within("a page", self.client.goto(url)).await.expect("a page");
    }

    /// Runs the body of a function in the page and returns its result.
    pub async fn run(&self, body: &str, args: Vec<Value>) -> Value {
        within("a script", self.client.execute(body, args)).await.expect("the result of a script")
    }

    /// Value of an expression in the page.
    pub async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"), vec![]).await
    }

    /// Runs scripts one after the other at the top level of the page.
    pub async fn inject(&self, scripts: &[&str]) {
        let body = "for (const text of arguments[0]) {
                const script = document.createElement('script');
                script.textContent = text;
                document.head.append(script);
            }";
        self.run(body, vec![json!(scripts)]).await;
    }

    /// Waits until an expression in the page is true, and returns its value.
    ///
    /// # Panics
    /// If it takes longer than [`TIMEOUT`].
    pub async fn until(&self, expression: &str) -> Value {
        let value = self.poll(expression, TIMEOUT.as_millis()).await;
        if let Some(error) = value.get("error") {
            let page = self.eval("document.body.innerText").await;
            panic!("waited {TIMEOUT:?} for {expression}, which is {error}, on this page:\n{page}");
        }
        value["value"].clone()
    }

    /// Returns whether an expression in the page becomes true within this time.
    pub async fn becomes_true(&self, expression: &str, milliseconds: u32) -> bool {
        self.poll(expression, milliseconds.into()).await.get("error").is_none()
    }

    async fn poll(&self, expression: &str, milliseconds: u128) -> Value {
        let script = format!(
            "const done = arguments[0];
            const end = performance.now() + {milliseconds};
            const check = () => {{
                let value;
                try {{ value = {expression}; }} catch (error) {{ value = null; }}
                if (value) done({{ value }});
                else if (performance.now() > end) done({{ error: String(value) }});
                else setTimeout(check, 20);
            }};
            check();"
        );
        let waited = self.client.execute_async(&script, vec![]);
        waited.await.unwrap_or_else(|error| panic!("wait for {expression}: {error}"))
    }

    /// First element that matches a selector.
    ///
    /// # Panics
    /// If there is none.
    pub async fn element(&self, selector: &str) -> Element {
        let found = self.client.find(Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("find {selector}: {error}"))
    }

    /// Types with key events.
    pub async fn keys(&self, selector: &str, text: &str) {
        self.element(selector).await.send_keys(text).await.expect("type");
    }

    /// Clicks on an element.
    pub async fn click(&self, selector: &str) {
        self.element(selector).await.click().await.expect("click");
    }

    /// The controlled window.
    pub async fn window(&self) -> WindowHandle {
        self.client.window().await.expect("a window")
    }

    /// Opens another tab of the same profile and switches to it.
    pub async fn new_window(&self) -> WindowHandle {
        let opened = self.client.new_window(true).await.expect("a new tab");
        self.switch(&opened.handle).await;
        opened.handle
    }

    /// Closes the controlled window.
    pub async fn close_window(&self) {
        self.client.close_window().await.expect("close a window");
    }

    /// Switches to another window.
    pub async fn switch(&self, window: &WindowHandle) {
        self.client.switch_to_window(window.clone()).await.expect("switch windows");
    }

    /// Sets the size of the page and its color scheme, `light` or `dark`.
    pub async fn set_viewport(&self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Sends a command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) {
        self.chromedriver("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    /// The addresses that pages of an origin have asked for, in a [recorded](Browser::recorded) browser, since this was
    /// last called.
    pub async fn requests(&self, origin: &str) -> Vec<String> {
        let events = self.log("performance").await;
        let events = events.iter().filter_map(|entry| entry["message"].as_str());
        let events = events.map(|text| serde_json::from_str::<Value>(text).expect("an event of DevTools"));
        let asked = events.filter(|event| event["message"]["method"] == "Network.requestWillBeSent");
        let asked = asked.map(|mut event| event["message"]["params"].take());
        let asked = asked.filter(|asked| text(&asked["documentURL"]).starts_with(origin));
        asked.map(|asked| text(&asked["request"]["url"]).to_owned()).collect()
    }

    /// The warnings and errors in the console of a [recorded](Browser::recorded) browser since this was last called,
    /// but for those of its own first page.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let entries = entries.iter().filter(|entry| ["WARNING", "SEVERE"].contains(&text(&entry["level"])));
        let messages = entries.map(|entry| text(&entry["message"]).to_owned());
        messages.filter(|message| !message.starts_with("chrome://")).collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let mut answer = self.chromedriver("se/log", json!({"type": kind})).await;
        serde_json::from_value(answer["value"].take()).expect("a list of entries")
    }

    /// A command of chromedriver's own, and its answer.
    async fn chromedriver(&self, command: &str, body: Value) -> Value {
        let call = self.http.post(format!("{}/{command}", self.session)).json(&body);
        let answer = within("chromedriver", call.send()).await.expect("an answer");
        assert!(answer.status().is_success(), "{command}: {answer:?}");
        within("chromedriver", answer.json()).await.expect("an answer in JSON")
    }

    /// Saves a screenshot in the target folder.
    pub async fn screenshot(&self, name: &str) {
        // Ends all animations, so that screenshots are reproducible.
        self.run("document.getAnimations().forEach((one) => { try { one.finish(); } catch {} })", vec![])
            .await;
        let picture = within("a screenshot", self.client.screenshot()).await.expect("a screenshot");
        let test = env::current_exe().expect("this program");
        let folder = test.ancestors().nth(3).expect("the target folder").join("screenshots");
        fs::create_dir_all(&folder).expect("create a folder");
        fs::write(folder.join(format!("{name}.png")), picture).expect("write a file");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
