//! Signs tokens as the backend of a marketplace does.

use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns a token with these claims, signed with HS256. Adds `iat`, and `exp` after `lifetime`, unless they are there.
///
/// # Errors
/// If the claims are not an object.
pub fn sign(secret: &str, mut claims: Value, lifetime: Duration) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
    let object = claims.as_object_mut().context("claims are a JSON object")?;
    object.entry("iat").or_insert_with(|| json!(now.as_secs()));
    object.entry("exp").or_insert_with(|| json!((now + lifetime).as_secs()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("sign a token")
}
