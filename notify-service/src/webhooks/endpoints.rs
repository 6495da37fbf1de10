//! The endpoints of webhooks, as the operator configures them.

use crate::config::Webhooks;
use anyhow::{Context, bail, ensure};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::Url;
use serde::Deserialize;
use service::{config::check_name, streams::covers};
use std::{collections::BTreeMap, fmt, fs, net::IpAddr};

/// Maximum number of endpoints.
const ENDPOINTS: usize = 20;
/// Prefix of a secret (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";
/// Name of the endpoint of `WEBHOOK_URL`.
const DEFAULT_NAME: &str = "default";
/// Subjects of all events for backends, none of which covers another.
const ALL_EVENTS: [&str; 4] = ["chat.>", "notify.>", "presence.>", "users.>"];

/// A receiver of events.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub name: String,
    pub url: Url,
    /// One or, during a rotation, two.
    pub secrets: Vec<Secret>,
    /// Subjects of its events, none of which covers another.
    pub events: Vec<String>,
}

/// A key with which deliveries are signed.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

impl Secret {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let expected = "a secret is whsec_ and base64 of 24 to 64 bytes";
        let base64 = text.trim().strip_prefix(SECRET_PREFIX).context(expected)?;
        // The cause would contain a part of the secret.
        let key = BASE64.decode(base64).map_err(|_| anyhow::anyhow!(expected))?;
        ensure!((24..=64).contains(&key.len()), expected);
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The signature of a delivery, as in the header `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signature = hmac::sign(&self.0, format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(signature))
    }
}

/// An endpoint in the file `WEBHOOKS`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    secrets: Vec<String>,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    insecure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    endpoints: BTreeMap<String, Entry>,
}

/// Reads the endpoints of a configuration.
///
/// # Errors
/// If an endpoint is invalid. The error contains no part of a secret.
pub fn load(config: &Webhooks) -> anyhow::Result<Vec<Endpoint>> {
    let is_set = |text: &&String| !text.trim().is_empty();
    let url = config.webhook_url.as_ref().filter(is_set);
    let file = config.webhooks.as_ref().filter(|file| !file.as_os_str().is_empty());
    match (file, url) {
        (None, None) => Ok(Vec::new()),
        (Some(_), Some(_)) => bail!("configuration: set WEBHOOKS or WEBHOOK_URL, not both"),
        (Some(file), None) => {
            let text = fs::read_to_string(file).context("configuration: read WEBHOOKS")?;
            parse(&text).context("configuration: WEBHOOKS")
        }
        (None, Some(url)) => {
            let secrets = config.webhook_secret.as_ref().filter(is_set);
            let secrets = secrets.context("configuration: WEBHOOK_URL needs WEBHOOK_SECRET")?;
            let entry = Entry {
                url: url.clone(),
                secrets: secrets.split(',').map(str::to_owned).collect(),
                events: config.webhook_events.iter().filter(is_set).cloned().collect(),
                insecure: false,
            };
            let endpoint = endpoint(DEFAULT_NAME.to_owned(), entry);
            Ok(vec![endpoint.context("configuration: WEBHOOK_URL, WEBHOOK_SECRET, WEBHOOK_EVENTS")?])
        }
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Endpoint>> {
    // The library's error shows the line, which may contain a secret.
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
        anyhow::anyhow!("not the TOML of endpoints: {} (near line {line})", error.message())
    })?;
    ensure!(file.endpoints.len() <= ENDPOINTS, "more than {ENDPOINTS} endpoints");
    let entries = file.endpoints.into_iter();
    entries
        .map(|(name, entry)| {
            let context = format!("endpoint {name:?}");
            endpoint(name, entry).context(context)
        })
        .collect()
}

fn endpoint(name: String, entry: Entry) -> anyhow::Result<Endpoint> {
    check_name(&name)?;
    // Not the cause, because the address may contain a password.
    let url = Url::parse(entry.url.trim()).map_err(|_| anyhow::anyhow!("url is not a URL"))?;
    match url.scheme() {
        "https" => {}
        "http" if entry.insecure || is_loopback(&url) => {}
        "http" => bail!("url must be https, unless insecure = true"),
        _ => bail!("url must be https"),
    }
    ensure!((1..=2).contains(&entry.secrets.len()), "there must be one secret, or two during a rotation");
    let secrets = entry.secrets.iter().map(|secret| Secret::parse(secret)).collect::<anyhow::Result<_>>()?;
    Ok(Endpoint { name, url, secrets, events: subjects(&entry.events)? })
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The subjects of events, without those that another covers: a consumer's filters must not overlap.
fn subjects(events: &[String]) -> anyhow::Result<Vec<String>> {
    if events.is_empty() {
        return Ok(ALL_EVENTS.map(str::to_owned).to_vec());
    }
    let mut subjects: Vec<String> = Vec::new();
    for event in events {
        let event = event.trim();
        let is_valid = ALL_EVENTS.iter().any(|all| covers(all, event))
            && event.bytes().all(|byte| byte.is_ascii_lowercase() || b"._*>".contains(&byte))
            && event
                .split('.')
                .all(|token| !token.is_empty() && (token.len() == 1 || !token.contains(['*', '>'])));
        ensure!(is_valid, "an event is such as chat.sent or chat.*, not {event:?}");
        if !subjects.iter().any(|known| covers(known, event)) {
            subjects.retain(|known| !covers(event, known));
            subjects.push(event.to_owned());
        }
    }
    Ok(subjects)
}

/// Parses a file for the tests of deliveries.
#[cfg(test)]
pub fn tests_parse(text: &str) -> Vec<Endpoint> {
    parse(text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::streams::{EVENTS_OUT_SUBJECTS, WEBHOOK_SUBJECTS};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn one(lines: &str) -> anyhow::Result<Endpoint> {
        let text = format!("[endpoints.shop]\nsecrets = [\"{SECRET}\"]\n{lines}");
        parse(&text).map(|mut endpoints| endpoints.remove(0))
    }

    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = Secret::parse(SECRET).unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn only_loopback_may_be_without_tls() {
        for (line, is_valid) in [
            ("url = \"https://shop.example/hooks\"", true),
            ("url = \"http://127.0.0.1:8080/\"", true),
            ("url = \"http://[::1]/\"", true),
            ("url = \"http://localhost/\"", true),
            ("url = \"http://shop.example/\"", false),
            ("url = \"http://localhost.shop.example/\"", false),
            ("url = \"http://127.0.0.1.shop.example/\"", false),
            ("url = \"http://shop.example/\"\ninsecure = true", true),
            ("url = \"ftp://127.0.0.1/\"\ninsecure = true", false),
            ("url = \"shop\"", false),
        ] {
            assert_eq!(one(line).is_ok(), is_valid, "{line}");
        }
    }

    #[test]
    fn events_that_another_covers_are_left_out() {
        let events =
            |list: &str| one(&format!("url = \"https://a/\"\nevents = [{list}]")).map(|one| one.events);
        let all = one("url = \"https://a/\"").unwrap().events;
        assert_eq!(all, ALL_EVENTS);
        for subject in EVENTS_OUT_SUBJECTS.iter().filter(|subject| **subject != WEBHOOK_SUBJECTS) {
            assert!(all.iter().any(|event| covers(event, subject)), "{subject}");
            assert_eq!(events(&format!("{subject:?}")).unwrap(), [*subject]);
        }
        assert_eq!(
            events(r#""chat.sent", "chat.*", "chat.read", "users.erased""#).unwrap(),
            ["chat.*", "users.erased"]
        );
        assert_eq!(events(r#""chat.sent", "chat.sent""#).unwrap(), ["chat.sent"]);
        for wrong in
            ["events.x", "chat", "chat.", "chat.se*", ">", "*", "chat.a b", "webhook.shop", "deadletters.>"]
        {
            assert!(events(&format!("{wrong:?}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn invalid_files_are_refused_without_their_secrets() {
        let many: String = (0..=ENDPOINTS)
            .map(|number| format!("[endpoints.e{number}]\nurl = \"https://a/\"\nsecrets = [\"{SECRET}\"]\n"))
            .collect();
        let three = format!(
            "[endpoints.a]\nurl = \"https://a/\"\nsecrets = [\"{SECRET}\", \"{SECRET}\", \"{SECRET}\"]"
        );
        let short = "[endpoints.a]\nurl = \"https://a/\"\nsecrets = [\"whsec_MfKQ9r8G\"]";
        let plain = format!("[endpoints.a]\nurl = \"https://a/\"\nsecrets = [\"{}\"]", &SECRET[6..]);
        let unknown = format!("[endpoints.a]\nurl = \"https://a/\"\nsecrets = [\"{SECRET}\"]\ntimeout = 5");
        let broken = format!("[endpoints.a]\nsecrets = [\"{SECRET}\"");
        let name = format!("[endpoints.Shop]\nurl = \"https://a/\"\nsecrets = [\"{SECRET}\"]");
        let none = "[endpoints.a]\nurl = \"https://a/\"\nsecrets = []";
        for text in [&*many, &three, short, &plain, &unknown, &broken, &name, none] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(!error.contains("MfKQ9r8G"), "{error}");
        }
        assert!(!format!("{:?}", one("url = \"https://a/\"").unwrap()).contains("MfKQ9r8G"));
    }

    #[test]
    fn one_endpoint_needs_only_variables() {
        let variables = Webhooks {
            webhook_url: Some("http://127.0.0.1:1/".to_owned()),
            webhook_secret: Some(format!("{SECRET},{SECRET}")),
            webhook_events: vec!["chat.sent".to_owned()],
            ..Webhooks::default()
        };
        let endpoints = load(&variables).unwrap();
        assert_eq!((endpoints[0].name.as_str(), endpoints[0].secrets.len()), ("default", 2));
        assert!(load(&Webhooks { webhook_secret: None, ..variables.clone() }).is_err());
        assert!(load(&Webhooks { webhooks: Some("x".into()), ..variables }).is_err());
        assert!(load(&Webhooks::default()).unwrap().is_empty());
        let empty = Webhooks {
            webhook_url: Some(String::new()),
            webhook_events: vec![String::new()],
            ..Webhooks::default()
        };
        assert!(load(&empty).unwrap().is_empty(), "compose passes unset variables as empty ones");
    }
}
