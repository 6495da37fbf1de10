//! The keys that verify tokens: one key from the configuration, or a key set that is published at a URL; during a
//! rotation, the former keys as well.

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

/// Time limit of a request for the key set.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Average interval at which the key set is fetched even if no key is missing.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Minimum interval between two fetches, whatever keys tokens name.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum size of a key set, in bytes. Real ones have a few KiB.
const SET_BYTES: usize = 256 * 1024;
/// Maximum number of keys in a set. Further keys are ignored.
const SET_KEYS: usize = 64;
/// Size of the shortest accepted RSA modulus, in bytes: 2048 bits. The DER form of a 1024-bit or 1536-bit key is
/// smaller, too.
const RSA_BYTES: usize = 256;
/// Size of a point on P-256, in bytes.
const P256_BYTES: usize = 65;
/// Size of an Ed25519 key, in bytes.
const ED25519_BYTES: usize = 32;

/// A key and its only algorithm, so that a token's header cannot choose another algorithm.
pub struct Key {
    id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) decoding_key: DecodingKey,
}

/// The keys of the gateway.
pub struct Keys {
    current: Source,
    /// Former keys, whose tokens are still accepted.
    pub(crate) previous: Vec<Key>,
}

/// The source of the current keys.
enum Source {
    /// One key from the configuration.
    Configured(Arc<Key>),
    /// A key set at a URL.
    Published(Arc<KeySet>),
}

impl Keys {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If the configuration does not contain exactly one source of keys, or its key is invalid.
    pub fn new(tokens: &Tokens) -> anyhow::Result<Self> {
        let given = |variable: &Option<String>| variable.clone().filter(|value| !value.trim().is_empty());
        let (secret, pem, url) =
            (given(&tokens.jwt_secret), given(&tokens.jwt_public_key), given(&tokens.jwt_jwks_url));
        let current = match (secret, pem, url) {
            (Some(secret), None, None) => Source::Configured(Arc::new(secret_key(&secret))),
            (None, Some(pem), None) => Source::Configured(Arc::new(public_key("JWT_PUBLIC_KEY", &pem)?)),
            (None, None, Some(url)) => Source::Published(Arc::new(KeySet::new(&url)?)),
            _ => {
                bail!("configuration: set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL")
            }
        };
        let mut previous: Vec<_> = given(&tokens.jwt_secret_previous).iter().map(|s| secret_key(s)).collect();
        if let Some(pem) = given(&tokens.jwt_public_key_previous) {
            previous.push(public_key("JWT_PUBLIC_KEY_PREVIOUS", &pem)?);
        }
        Ok(Self { current, previous })
    }

    /// The current key for a token whose header has this key id.
    pub fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        match &self.current {
            Source::Configured(key) => Some(key.clone()),
            Source::Published(set) => set.find(id),
        }
    }

    /// The key set, if the keys are published at a URL.
    pub const fn key_set(&self) -> Option<&Arc<KeySet>> {
        match &self.current {
            Source::Configured(_) => None,
            Source::Published(set) => Some(set),
        }
    }
}

fn secret_key(secret: &str) -> Key {
    let decoding_key = DecodingKey::from_secret(secret.as_bytes());
    Key { id: None, algorithm: Algorithm::HS256, decoding_key }
}

/// Reads a PEM. Its line ends may be written as `\n`, because some variables can hold only one line.
fn public_key(variable: &str, pem: &str) -> anyhow::Result<Key> {
    let pem = pem.replace("\\n", "\n");
    ensure!(!pem.contains("PRIVATE KEY"), "configuration: {variable} contains a private key");
    let pem = pem.as_bytes();
    let candidates = [
        (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
        (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
        (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
    ];
    let key = candidates.into_iter().find_map(|(algorithm, parsed)| {
        let decoding_key = parsed.ok().filter(|key| has_valid_length(algorithm, key))?;
        Some(Key { id: None, algorithm, decoding_key })
    });
    key.with_context(|| {
        format!(
            "configuration: {variable} is not a PEM public key for RS256 (2048 bits or more), ES256 (P-256) or EdDSA \
             (Ed25519)"
        )
    })
}

fn has_valid_length(algorithm: Algorithm, key: &DecodingKey) -> bool {
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

/// The reason why the key set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A retry may succeed.
    #[error("JWT_JWKS_URL is not available")]
    Transient(#[source] anyhow::Error),
    /// The response is not a key set that we can use.
    #[error("configuration: JWT_JWKS_URL can't be used: {0}")]
    Invalid(String),
}

/// A JSON Web Key Set (RFC 7517). It is fetched at the start, about every five minutes, and when a token names an
/// unknown key, but at most every ten seconds. If a fetch fails, the last keys remain valid.
pub struct KeySet {
    url: Url,
    client: reqwest::Client,
    keys: RwLock<Vec<Arc<Key>>>,
    /// The earliest time of the next fetch for an unknown key.
    next_fetch: RwLock<Instant>,
    min_interval: Duration,
    /// Requests a fetch for an unknown key.
    fetch_requested: Notify,
    /// The number of fetches.
    fetches: watch::Sender<u64>,
}

impl KeySet {
    fn new(url: &str) -> anyhow::Result<Self> {
        Self::with_min_interval(url, MIN_INTERVAL)
    }

    fn with_min_interval(url: &str, min_interval: Duration) -> anyhow::Result<Self> {
        let url: Url = url.trim().parse().context("configuration: JWT_JWKS_URL is not a URL")?;
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "configuration: JWT_JWKS_URL must be an http or https URL"
        );
        // Redirects are refused, because keys must come only from the configured URL.
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none())
            .build()
            .context("create an HTTP client for JWT_JWKS_URL")?;
        Ok(Self {
            url,
            client,
            keys: RwLock::default(),
            next_fetch: RwLock::new(Instant::now()),
            min_interval,
            fetch_requested: Notify::new(),
            fetches: watch::Sender::new(0),
        })
    }

    /// The key with this id. A token without a key id matches the only key of a set.
    fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        let keys = self.keys.read().expect("no holder of this lock panics");
        match (id, keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    /// Waits for the first keys. Returns false if the token is cancelled first.
    ///
    /// # Errors
    /// If the response is not a key set that we can use.
    pub async fn start(&self, shutdown: &CancellationToken) -> anyhow::Result<bool> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        loop {
            let fetched = tokio::select! {
                fetched = self.fetch() => fetched,
                () = shutdown.cancelled() => return Ok(false),
            };
            match fetched {
                Ok(()) => return Ok(true),
                Err(FetchError::Transient(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "waiting for JWT_JWKS_URL");
                }
                Err(error @ FetchError::Invalid(_)) => return Err(error.into()),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.cancelled() => return Ok(false),
            }
        }
    }

    /// Fetches the key set if this key is unknown, unless the last fetch was too recent. Concurrent callers wait for
    /// the same fetch.
    pub async fn fetch_key(&self, id: Option<&str>) {
        let mut fetches = self.fetches.subscribe();
        if self.find(id).is_some() || Instant::now() < self.next_fetch() {
            return;
        }
        self.fetch_requested.notify_one();
        timeout(FETCH_TIMEOUT, fetches.changed()).await.ok();
    }

    /// Fetches the key set periodically and on request, until the token is cancelled.
    pub async fn follow(self: Arc<Self>, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = self.fetch_requested.notified() => {
                    if Instant::now() < self.next_fetch() {
                        continue;
                    }
                }
                () = sleep(REFRESH_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = ended.cancelled() => return,
            }
            if let Err(error) = self.fetch().await {
                tracing::warn!(
                    error = service::bus::chain(&error),
                    "fetch JWT_JWKS_URL; the last keys remain valid"
                );
            }
        }
    }

    fn next_fetch(&self) -> Instant {
        *self.next_fetch.read().expect("no holder of this lock panics")
    }

    async fn fetch(&self) -> Result<(), FetchError> {
        let fetched = self.download().await.and_then(|body| read(&body));
        let result = if fetched.is_ok() { "ok" } else { "failed" };
        metrics::counter!("gateway_key_refreshes_total", "result" => result).increment(1);
        let fetched = fetched.map(|keys| *self.keys.write().expect("no holder of this lock panics") = keys);
        *self.next_fetch.write().expect("no holder of this lock panics") = Instant::now() + self.min_interval;
        self.fetches.send_modify(|fetches| *fetches += 1);
        fetched
    }

    async fn download(&self) -> Result<Vec<u8>, FetchError> {
        let transient = |error: reqwest::Error| FetchError::Transient(error.without_url().into());
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let mut response = request.send().await.map_err(transient)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(FetchError::Transient(anyhow::anyhow!("the response is {status}")));
            }
            status => return Err(FetchError::Invalid(format!("the response is {status}"))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transient)? {
            if body.len() + chunk.len() > SET_BYTES {
                return Err(FetchError::Invalid(format!("the response has more than {SET_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Reads the usable keys of a set. Other keys are skipped, because a set may serve other purposes too.
pub fn read(body: &[u8]) -> Result<Vec<Arc<Key>>, FetchError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body)
        .map_err(|_| FetchError::Invalid("the response is not a JSON Web Key Set".to_owned()))?;
    let mut keys = Vec::new();
    for (index, key) in set.keys.into_iter().take(SET_KEYS).enumerate() {
        match read_key(key) {
            Ok(key) => keys.push(Arc::new(key)),
            Err(reason) => tracing::debug!(index, reason, "a key of JWT_JWKS_URL is not usable"),
        }
    }
    if keys.is_empty() {
        let reason = "it contains no key for RS256, ES256 (P-256) or EdDSA (Ed25519)";
        return Err(FetchError::Invalid(reason.to_owned()));
    }
    Ok(keys)
}

fn read_key(key: Value) -> Result<Key, &'static str> {
    let jwk: Jwk = serde_json::from_value(key).map_err(|_| "not a JSON Web Key")?;
    if jwk.common.public_key_use.is_some_and(|key_use| key_use != PublicKeyUse::Signature) {
        return Err("not for signatures");
    }
    if jwk.common.key_operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("not for verifying");
    }
    let (algorithm, name, decoding_key) = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => {
            (Algorithm::RS256, KeyAlgorithm::RS256, DecodingKey::from_rsa_components(&key.n, &key.e))
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256, DecodingKey::from_ec_components(&key.x, &key.y))
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA, DecodingKey::from_ed_components(&key.x))
        }
        // Symmetric keys too: a published key is not a secret.
        _ => return Err("neither RSA nor P-256 nor Ed25519"),
    };
    if jwk.common.key_algorithm.is_some_and(|other| other != name) {
        return Err("for another algorithm");
    }
    let decoding_key = decoding_key.map_err(|_| "not base64")?;
    if !has_valid_length(algorithm, &decoding_key) {
        return Err("of the wrong length");
    }
    Ok(Key { id: jwk.common.key_id, algorithm, decoding_key })
}

#[cfg(test)]
mod tests;
