//! Signs tokens as the backend of a marketplace does.

use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The current time in Unix seconds, for claims such as `iat`.
///
/// # Panics
/// If the clock is before 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Returns a token with these claims, signed with HS256. Adds an `exp` after `lifetime`, unless the claims have one.
///
/// # Errors
/// If the claims are not an object.
pub fn sign(secret: &str, mut claims: Value, lifetime: Duration) -> anyhow::Result<String> {
    let object = claims.as_object_mut().context("claims are a JSON object")?;
    object.entry("exp").or_insert_with(|| json!(now() + lifetime.as_secs()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("sign a token")
}
