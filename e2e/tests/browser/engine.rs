//! Chromium and Firefox: their programs, drivers and settings.

use serde_json::{Value, json};
use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
};
use testkit::{Program, provision};

/// A browser engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Chromium,
    Firefox,
}

/// No sandbox, because tests may run as root. Other flags suppress background traffic.
const CHROMIUM_FLAGS: [&str; 12] = [
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

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Chromium, Self::Firefox];

    /// Paths of the browser and of its driver. If one is missing, reports that the test is skipped and returns `None`.
    pub fn installed(self) -> Option<(PathBuf, PathBuf)> {
        let (programs, driver, packages): (&[&str], _, _) = match self {
            Self::Chromium => (
                &["chromium", "chromium-browser", "google-chrome"],
                on_path("chromedriver"),
                "on Debian: apt-get install chromium chromium-driver",
            ),
            Self::Firefox => (
                &["firefox-esr", "firefox"],
                on_path("geckodriver").or_else(provision::fetched_geckodriver),
                "on Debian: apt-get install firefox-esr; cargo install geckodriver",
            ),
        };
        let found = programs.iter().find_map(|program| on_path(program)).zip(driver);
        if found.is_none() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let reason = format!("{self:?} or its driver is missing; {packages}");
            // Not `eprintln!`, whose output is shown only if a test fails.
            std::io::stderr().write_all(format!("\n*** SKIPPED: {test}: {reason} ***\n\n").as_bytes()).ok();
        }
        found
    }

    /// The driver's program with its arguments.
    pub fn driver(self, path: PathBuf, port: u16, profile: &Path) -> Program {
        let driver = Program::new(path).arg(format!("--port={port}"));
        match self {
            Self::Chromium => driver.arg("--log-level=SEVERE"),
            // The system access sets the color scheme of a page.
            Self::Firefox => driver
                .args(["--log=fatal", "--allow-system-access"])
                .args(["--profile-root".as_ref(), profile.as_os_str()]),
        }
    }

    /// The capabilities of a session. `flags` and `logs` are Chromium's.
    pub fn capabilities(self, program: &Path, flags: &[&str], profile: &Path, logs: Value) -> Value {
        match self {
            Self::Chromium => {
                let data = format!("--user-data-dir={}", profile.join("data").display());
                let args: Vec<&str> =
                    CHROMIUM_FLAGS.iter().chain(flags).copied().chain([data.as_str()]).collect();
                json!({
                    "browserName": "chrome",
                    "goog:chromeOptions": {"args": args, "binary": program},
                    "goog:loggingPrefs": logs,
                })
            }
            Self::Firefox => json!({
                "browserName": "firefox",
                "moz:firefoxOptions": {
                    "args": ["-headless"],
                    "binary": program,
                    // Without the viewer of JSON, whose page has a policy that blocks the tests' scripts.
                    "prefs": {"intl.accept_languages": "fr", "devtools.jsonview.enabled": false},
                },
            }),
        }
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
