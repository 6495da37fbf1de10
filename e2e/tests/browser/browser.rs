//! A browser for one test.

use crate::engine::Engine;
use e2e::{TIMEOUT, eventually, within};
use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, MouseActions, PointerAction},
    elements::Element,
    wd::{Capabilities, TimeoutConfiguration, WindowHandle},
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::{
    env, fs,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use testkit::{Child, Output, Signal, free_port};

/// The Enter key in WebDriver.
const ENTER: &str = "\u{e007}";

/// A browser with one page. Dropping it stops it.
pub struct Browser {
    engine: Engine,
    client: Client,
    session: String,
    http: reqwest::Client,
    _driver: Child, // Before `_profile`: dropped first.
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser. If it is missing, reports that the test is skipped and returns `None`.
    pub async fn start(engine: Engine) -> Option<Self> {
        Self::launch(engine, &[], json!({})).await
    }

    /// Starts a Chromium with additional flags.
    pub async fn with_flags(flags: &[&str]) -> Option<Self> {
        Self::launch(Engine::Chromium, flags, json!({})).await
    }

    /// Starts a Chromium that keeps what its page asks for, for [`Browser::requests`].
    pub async fn recorded() -> Option<Self> {
        Self::launch(Engine::Chromium, &[], json!({"browser": "ALL", "performance": "ALL"})).await
    }

    async fn launch(engine: Engine, flags: &[&str], logs: Value) -> Option<Self> {
        let (program, driver) = engine.installed()?;
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let port = free_port().expect("a free port");
        let driver = engine
            .driver(driver, port, profile.path())
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stop_signal(Signal::Term)
            .remove(profile.path())
            .output(Output::Lines(Arc::new(|line| println!("{line}"))))
            .spawn()
            .expect("start the driver");
        let http = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{port}");
        let status = format!("{url}/status");
        eventually("the driver", async || http.get(&status).send().await.ok().map(drop)).await;

        let capabilities = engine.capabilities(&program, flags, profile.path(), logs);
        let capabilities: Capabilities =
            serde_json::from_value(capabilities).expect("capabilities are an object");
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&url).await.expect("start the browser");
        // Longer than the timeout of `until`, whose failure message is more detailed.
        let timeouts = TimeoutConfiguration::new(Some(TIMEOUT * 2), None, None);
        client.update_timeouts(timeouts).await.expect("set the timeouts");
        let session = client.session_id().await.expect("a session").expect("its id");
        let session = format!("{url}/session/{session}");
        Some(Self { engine, client, session, http, _driver: driver, _profile: profile })
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
        let end = Instant::now() + Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        loop {
            match self.client.execute_async(&script, vec![]).await {
                Ok(value) => return value,
                // A page that goes away ends the scripts in it.
                Err(error) if Instant::now() > end => panic!("wait for {expression}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// First element that matches a selector.
    ///
    /// # Panics
    /// If there is none.
    pub async fn element(&self, selector: &str) -> Element {
        let found = self.client.find(Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("find {selector}: {error}"))
    }

    /// Types with key events. A newline is the Enter key.
    pub async fn keys(&self, selector: &str, text: &str) {
        let text = text.replace('\n', ENTER);
        self.element(selector).await.send_keys(&text).await.expect("type");
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
        match self.engine {
            Engine::Chromium => {
                let metrics = json!({
                    "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
                });
                self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
                let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
                self.devtools("Emulation.setEmulatedMedia", features).await;
            }
            Engine::Firefox => {
                let scheme = if scheme == "dark" { 0 } else { 1 };
                let preference = "layout.css.prefers-color-scheme.content-override";
                self.privileged(&format!("Services.prefs.setIntPref('{preference}', {scheme})")).await;
                // A window is larger than its page.
                let frame = self.eval("[outerWidth - innerWidth, outerHeight - innerHeight]").await;
                let outer = |size: u32, index: usize| size + frame[index].as_u64().unwrap_or_default() as u32;
                let resized = self.client.set_window_size(outer(width, 0), outer(height, 1));
                within("a window", resized).await.expect("set the size of the window");
            }
        }
    }

    /// Takes the network away from all pages, or gives it back.
    pub async fn set_offline(&self, offline: bool) {
        match self.engine {
            Engine::Chromium => {
                let conditions = json!({
                    "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
                });
                self.devtools("Network.enable", json!({})).await;
                self.devtools("Network.emulateNetworkConditions", conditions).await;
            }
            Engine::Firefox => self.privileged(&format!("Services.io.offline = {offline}")).await,
        }
    }

    /// Moves the pointer to a point of the page.
    pub async fn point(&self, x: f64, y: f64) {
        let duration = Some(Duration::ZERO);
        let to = PointerAction::MoveTo { duration, x, y };
        let moved = MouseActions::new("mouse".to_owned()).then(to);
        within("a movement", self.client.perform_actions(moved)).await.expect("move the pointer");
    }

    /// Sends a command of the DevTools protocol to Chromium.
    async fn devtools(&self, command: &str, parameters: Value) {
        self.driver("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    /// Runs a script in Firefox itself.
    async fn privileged(&self, script: &str) {
        self.driver("moz/context", json!({"context": "chrome"})).await;
        self.run(script, vec![]).await;
        self.driver("moz/context", json!({"context": "content"})).await;
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
        let mut answer = self.driver("se/log", json!({"type": kind})).await;
        serde_json::from_value(answer["value"].take()).expect("a list of entries")
    }

    /// A command that only this driver has, and its answer.
    async fn driver(&self, command: &str, body: Value) -> Value {
        let call = self.http.post(format!("{}/{command}", self.session)).json(&body);
        let answer = within("the driver", call.send()).await.expect("an answer");
        assert!(answer.status().is_success(), "{command}: {answer:?}");
        within("the driver", answer.json()).await.expect("an answer in JSON")
    }

    /// Saves a screenshot in the target folder, as `<name>-<engine>.png`.
    pub async fn screenshot(&self, name: &str) {
        // Ends all animations, so that screenshots are reproducible.
        self.run("document.getAnimations().forEach((one) => { try { one.finish(); } catch {} })", vec![])
            .await;
        let picture = within("a screenshot", self.client.screenshot()).await.expect("a screenshot");
        let test = env::current_exe().expect("this program");
        let folder = test.ancestors().nth(3).expect("the target folder").join("screenshots");
        fs::create_dir_all(&folder).expect("create a folder");
        fs::write(folder.join(format!("{name}-{:?}.png", self.engine).to_lowercase()), picture)
            .expect("write a file");
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
