//! The keys that tokens are verified with: one that the configuration holds, or a set that is published at a URL.

use crate::config::Tokens;
use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use reqwest::{StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use service::Backoff;
use std::{
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the URL of a key set may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a key set is asked for again, though nothing is missing.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// How long after an answer the URL is not asked again, whatever keys tokens name.
const AGAIN: Duration = Duration::from_secs(10);
/// Bytes of a key set; real ones have a few KiB.
const SET_BYTES: usize = 256 * 1024;
/// Keys of a set; more are not looked at.
const SET_KEYS: usize = 64;
/// Bytes of the shortest RSA modulus that is verified with: 2048 bits. A whole key of fewer bits is shorter, too.
const RSA_BYTES: usize = 256;
/// Bytes of a point on P-256, and of an Ed25519 key.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// A key, and the one algorithm that it is for. A token's header can choose neither.
pub struct Key {
    id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) verifies: DecodingKey,
}

/// The keys that tokens may be signed with.
pub enum Keys {
    /// The configuration's.
    Configured(Arc<Key>),
    /// Those of a URL.
    Published(Arc<KeySet>),
}

impl Keys {
    /// The keys that the configuration means.
    ///
    /// # Errors
    /// Unless it means exactly one kind, and that can be used.
    pub fn new(tokens: &Tokens) -> anyhow::Result<Self> {
        let given = |variable: &Option<String>| variable.clone().filter(|value| !value.trim().is_empty());
        let (secret, pem, url) =
            (given(&tokens.jwt_secret), given(&tokens.jwt_public_key), given(&tokens.jwt_jwks_url));
        match (secret, pem, url) {
            (Some(secret), None, None) => {
                let verifies = DecodingKey::from_secret(secret.as_bytes());
                Ok(Self::Configured(Arc::new(Key { id: None, algorithm: Algorithm::HS256, verifies })))
            }
            (None, Some(pem), None) => public_key(&pem).map(|key| Self::Configured(Arc::new(key))),
            (None, None, Some(url)) => KeySet::new(&url).map(|set| Self::Published(Arc::new(set))),
            _ => bail!("configuration: exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL is needed"),
        }
    }

    /// The key for a token whose header names this one.
    pub fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        match self {
            Self::Configured(key) => Some(key.clone()),
            Self::Published(set) => set.find(id),
        }
    }
}

/// Reads a PEM, of which the line ends may be written `\n`, as variables that hold one line have them.
fn public_key(pem: &str) -> anyhow::Result<Key> {
    let pem = pem.replace("\\n", "\n");
    ensure!(!pem.contains("PRIVATE KEY"), "configuration: JWT_PUBLIC_KEY holds a private key");
    let pem = pem.as_bytes();
    let readings = [
        (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
        (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
    ];
    let key = readings.into_iter().find_map(|(algorithm, read)| {
        let verifies = read.ok().filter(|key| has_right_length(algorithm, key))?;
        Some(Key { id: None, algorithm, verifies })
    });
    key.context(
        "configuration: JWT_PUBLIC_KEY is no public key in PEM form for RS256 (2048 bits or more), ES256 (P-256) or EdDSA (Ed25519)",
    )
}

fn has_right_length(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let bytes = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
    };
    match algorithm {
        Algorithm::RS256 => bytes >= RSA_BYTES,
        Algorithm::ES256 => bytes == P256_BYTES,
        _ => bytes == ED25519_BYTES,
    }
}

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It may be there later.
    #[error("JWT_JWKS_URL doesn't answer with its keys for now")]
    Passing(#[source] anyhow::Error),
    /// What is there is no key set for us.
    #[error("configuration: JWT_JWKS_URL can't be used: {0}")]
    Wrong(String),
}

/// A JSON Web Key Set (RFC 7517): asked for at the start, every five minutes, and when a token names a key that isn't
/// known, but not more often than every ten seconds, whoever asks. While the URL doesn't answer, the last keys stay.
pub struct KeySet {
    url: Url,
    client: reqwest::Client,
    keys: RwLock<Vec<Arc<Key>>>,
    /// When the URL may be asked again.
    next: RwLock<Instant>,
    again: Duration,
    wanted: Notify,
    rounds: watch::Sender<u64>,
}

impl KeySet {
    fn new(url: &str) -> anyhow::Result<Self> {
        Self::asked_every(url, AGAIN)
    }

    fn asked_every(url: &str, again: Duration) -> anyhow::Result<Self> {
        let url: Url = url.trim().parse().context("configuration: JWT_JWKS_URL is not a URL")?;
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "configuration: JWT_JWKS_URL is neither http nor https"
        );
        // What is configured is where the keys come from; nothing may send the gateway elsewhere for them.
        let client = reqwest::Client::builder()
            .timeout(ANSWER)
            .redirect(redirect::Policy::none())
            .build()
            .context("make an HTTP client for JWT_JWKS_URL")?;
        let (keys, next) = (RwLock::default(), RwLock::new(Instant::now()));
        Ok(Self { url, client, keys, next, again, wanted: Notify::new(), rounds: watch::Sender::new(0) })
    }

    /// A token that names no key is for the only one, where there is only one.
    fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        let keys = self.keys.read().expect("no holder of this lock panics");
        match (id, keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    /// Waits for the first keys; false when the token is cancelled first.
    ///
    /// # Errors
    /// When what the URL answers is no key set for us.
    pub async fn start(&self, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        loop {
            let fetched = tokio::select! {
                fetched = self.fetch() => fetched,
                () = shutdown.cancelled() => return Ok(false),
            };
            match fetched {
                Ok(()) => return Ok(true),
                Err(FetchError::Passing(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "waiting for JWT_JWKS_URL");
                }
                Err(error @ FetchError::Wrong(_)) => return Err(error.into()),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.cancelled() => return Ok(false),
            }
        }
    }

    /// Waits until a key that isn't known is, or the URL has said that there is none. Asks it only if it wasn't asked
    /// a moment ago; everyone who waits meanwhile waits for the same answer.
    pub async fn learn(&self, id: Option<&str>) {
        let mut rounds = self.rounds.subscribe();
        if self.find(id).is_some() || Instant::now() < self.next() {
            return;
        }
        self.wanted.notify_one();
        timeout(ANSWER, rounds.changed()).await.ok();
    }

    /// Asks again now and then, and when a key is missed, until the token is cancelled.
    pub async fn follow(self: Arc<Self>, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wanted.notified() => {
                    if Instant::now() < self.next() {
                        continue;
                    }
                }
                () = sleep(EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = ended.cancelled() => return,
            }
            if let Err(error) = self.fetch().await {
                tracing::warn!(error = service::bus::chain(&error), "the last keys of JWT_JWKS_URL stay");
            }
        }
    }

    fn next(&self) -> Instant {
        *self.next.read().expect("no holder of this lock panics")
    }

    async fn fetch(&self) -> Result<(), FetchError> {
        let fetched = self.ask().await.and_then(|body| read(&body));
        let result = if fetched.is_ok() { "ok" } else { "failed" };
        metrics::counter!("gateway_key_refreshes_total", "result" => result).increment(1);
        let fetched = fetched.map(|keys| *self.keys.write().expect("no holder of this lock panics") = keys);
        *self.next.write().expect("no holder of this lock panics") = Instant::now() + self.again;
        self.rounds.send_modify(|rounds| *rounds += 1);
        fetched
    }

    async fn ask(&self) -> Result<Vec<u8>, FetchError> {
        let passing = |error: reqwest::Error| FetchError::Passing(error.without_url().into());
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let mut response = request.send().await.map_err(passing)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(FetchError::Passing(anyhow::anyhow!("it answers {status}")));
            }
            status => return Err(FetchError::Wrong(format!("it answers {status}"))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(passing)? {
            if body.len() + chunk.len() > SET_BYTES {
                return Err(FetchError::Wrong(format!("its answer has more than {SET_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The keys of a set that tokens can be verified with. Others are nothing wrong: a set may be for more than us.
pub fn read(body: &[u8]) -> Result<Vec<Arc<Key>>, FetchError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body)
        .map_err(|_| FetchError::Wrong("its answer is not a JSON Web Key Set".to_owned()))?;
    let mut keys = Vec::new();
    for (place, key) in set.keys.into_iter().take(SET_KEYS).enumerate() {
        match key_of(key) {
            Ok(key) => keys.push(Arc::new(key)),
            Err(why) => tracing::debug!(place, why, "a key of JWT_JWKS_URL is not for us"),
        }
    }
    if keys.is_empty() {
        let why = "it has no key for RS256, ES256 (P-256) or EdDSA (Ed25519)";
        return Err(FetchError::Wrong(why.to_owned()));
    }
    Ok(keys)
}

fn key_of(key: Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(key).map_err(|_| "not a JSON Web Key")?;
    if jwk.common.public_key_use.is_some_and(|what| what != PublicKeyUse::Signature) {
        return Err("not for signatures");
    }
    if jwk.common.key_operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("not for verifying");
    }
    let (algorithm, name, verifies) = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => {
            (Algorithm::RS256, KeyAlgorithm::RS256, DecodingKey::from_rsa_components(&key.n, &key.e))
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256, DecodingKey::from_ec_components(&key.x, &key.y))
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA, DecodingKey::from_ed_components(&key.x))
        }
        // A secret that is published is none.
        _ => return Err("neither RSA nor on P-256 or Ed25519"),
    };
    if jwk.common.key_algorithm.is_some_and(|other| other != name) {
        return Err("for another algorithm");
    }
    let verifies = verifies.map_err(|_| "not base64")?;
    if !has_right_length(algorithm, &verifies) {
        return Err("of the wrong length");
    }
    Ok(Key { id: jwk.common.key_id, algorithm, verifies })
}

#[cfg(test)]
mod tests;
