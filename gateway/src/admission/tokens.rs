//! Verification of tokens, which identify clients.

use crate::{
    admission::jwks::{Key, KeySet, Keys},
    config::{TokenExpiry, Tokens},
};
use aws_lc_rs::{digest, hmac};
use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use contract::{Lang, Timestamp, UserId, text::display_name};
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};
use std::{collections::HashMap, sync::Arc};

/// Allowed clock difference, in seconds.
const LEEWAY: u64 = 5;
/// Maximum size of a token, in bytes. Real tokens have well under 1 KiB.
const TOKEN_BYTES: usize = 8 * 1024;

/// The text whose HMAC identifies a secret.
const SIGNING_KEY: &[u8] = b"vyzio signing key";

/// The identity in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user_id: UserId,
    /// The display name in the token.
    pub username: Option<String>,
    /// The language in the token.
    pub lang: Option<Lang>,
    /// The token's expiry.
    pub expires_at: Timestamp,
    /// The part of the token that revocations refer to.
    pub stamp: Stamp,
}

/// The part of a token that revocations refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The time of issue in Unix seconds, if the token states it.
    pub issued_at: Option<i64>,
    /// The token's own id, if it has one.
    pub jti: Option<Arc<str>>,
}

/// The reason why a token is rejected. It appears in our logs only; clients learn no reason.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The request contains no token.
    #[error("no token")]
    Missing,
    /// The token is larger than [`TOKEN_BYTES`].
    #[error("the token is too long")]
    TooLong,
    /// The format, the signature or a standard claim is invalid.
    #[error("the token is not valid")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// The header contains `crit`: extensions that a verifier must understand.
    #[error("the token's header has critical extensions")]
    Critical,
    /// The token names a key that we do not have.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The user's sessions were ended after the token was issued.
    #[error("the token is revoked")]
    Revoked,
    /// A claim that we require is missing or invalid.
    #[error("the claim {0} is missing or invalid")]
    Claim(&'static str),
}

/// Verifies tokens.
pub struct Verifier {
    keys: Keys,
    validations: HashMap<Algorithm, Validation>,
    tokens: Tokens,
}

impl Verifier {
    /// Creates a verifier.
    ///
    /// # Errors
    /// If the configuration does not contain exactly one source of keys, or its key is invalid.
    pub fn new(tokens: Tokens) -> anyhow::Result<Self> {
        let algorithms = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        Ok(Self {
            keys: Keys::new(&tokens)?,
            validations: algorithms.map(|algorithm| (algorithm, validation(&tokens, algorithm))).into(),
            tokens,
        })
    }

    /// The key set, if the keys are published at a URL.
    pub const fn key_set(&self) -> Option<&Arc<KeySet>> {
        self.keys.key_set()
    }

    /// Identifies the key that verifies new tokens, so that a backend can compare it with the one with which it signs:
    /// 16 hexadecimal digits of a hash. `None` if the keys are published at a URL.
    pub fn signing_key_id(&self) -> Option<String> {
        let hash = match (&self.tokens.jwt_secret, &self.tokens.jwt_public_key) {
            (Some(secret), _) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                hmac::sign(&key, SIGNING_KEY).as_ref().to_vec()
            }
            (None, Some(pem)) => {
                let lines = pem.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN"));
                let body: String = lines.skip(1).take_while(|line| !line.starts_with("-----")).collect();
                digest::digest(&digest::SHA256, &BASE64.decode(body).ok()?).as_ref().to_vec()
            }
            (None, None) => return None,
        };
        Some(hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Fetches the key set if it may contain a new key for this token.
    pub async fn fetch_key(&self, token: &str) {
        let Some(set) = self.key_set().filter(|_| token.len() <= TOKEN_BYTES) else { return };
        if let Ok(header) = jsonwebtoken::decode_header(token) {
            let id = header.kid.as_deref();
            if self.keys.find(id).is_none() && self.claims_by_previous(token).is_none() {
                set.fetch_key(id).await;
            }
        }
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// If the token is rejected.
    pub fn verify(&self, token: &str) -> Result<Identity, Rejected> {
        if token.len() > TOKEN_BYTES {
            return Err(Rejected::TooLong);
        }
        // Only the key id of the header is used. Its algorithm, keys and URLs of keys are ignored. Critical extensions
        // (RFC 7515, `crit`) would have to be understood, and none is.
        let header = jsonwebtoken::decode_header(token)?;
        if header.crit.is_some() {
            return Err(Rejected::Critical);
        }
        let current = self.keys.find(header.kid.as_deref()).ok_or(Rejected::UnknownKey);
        let claims = current.and_then(|key| self.claims(token, &key)).or_else(|rejected| {
            let claims = self.claims_by_previous(token).ok_or(rejected)?;
            metrics::counter!("gateway_tokens_by_previous_key_total").increment(1);
            Ok::<_, Rejected>(claims)
        })?;
        // RFC 7519 allows one issuer only; the library also accepts a list.
        if self.tokens.jwt_issuer.is_some() && !claims.get("iss").is_some_and(Value::is_string) {
            return Err(Rejected::Claim("iss"));
        }
        if claims.get("token_type").is_some_and(|kind| kind != "access") {
            return Err(Rejected::Claim("token_type"));
        }
        let now = Timestamp::now().unix();
        let issued_at = match claims.get("iat").filter(|issued| !issued.is_null()) {
            Some(issued) => Some(seconds(issued).ok_or(Rejected::Claim("iat"))?),
            None => None,
        };
        if issued_at.is_some_and(|issued| issued > now.saturating_add(LEEWAY.cast_signed())) {
            return Err(Rejected::Claim("iat"));
        }
        let user_id = claims.get(&self.tokens.user_id_claim).and_then(user_id);
        let expires_at = claims.get("exp").and_then(seconds).and_then(Timestamp::from_unix);
        Ok(Identity {
            user_id: user_id.ok_or(Rejected::Claim("user_id"))?,
            username: claims.get(&self.tokens.username_claim).and_then(Value::as_str).and_then(display_name),
            lang: claims.get("lang").and_then(Value::as_str).and_then(Lang::parse),
            expires_at: expires_at.ok_or(Rejected::Claim("exp"))?,
            stamp: Stamp { issued_at, jti: claims.get("jti").and_then(Value::as_str).map(Arc::from) },
        })
    }

    fn claims(&self, token: &str, key: &Key) -> Result<Map<String, Value>, Rejected> {
        let validation = self.validations.get(&key.algorithm).ok_or(Rejected::UnknownKey)?;
        Ok(jsonwebtoken::decode(token, &key.decoding_key, validation)?.claims)
    }

    /// The claims of a token that a former key verifies.
    fn claims_by_previous(&self, token: &str) -> Option<Map<String, Value>> {
        self.keys.previous.iter().find_map(|key| self.claims(token, key).ok())
    }

    /// The token of a handshake: from `Authorization`, the subprotocol, the query or the cookie, in this order.
    ///
    /// A browser adds a cookie to the requests of any page. So the cookie is used only if the request has an `Origin`,
    /// which has been checked before.
    pub fn token_of(&self, headers: &HeaderMap, query: Option<&str>) -> Option<String> {
        if let Some(token) = bearer(headers).or_else(|| subprotocol(headers)) {
            return Some(token.to_owned());
        }
        if let Some(token) = query.and_then(|query| parameter(query, "token")) {
            return Some(token);
        }
        let name = self.tokens.token_cookie.as_deref().filter(|_| headers.contains_key(header::ORIGIN))?;
        cookie(headers, name).map(str::to_owned)
    }

    /// Number of seconds until a socket with this identity is closed; `None` if its expiry is not enforced.
    pub fn lifetime(&self, identity: &Identity) -> Option<u64> {
        let left = identity.expires_at.unix() - Timestamp::now().unix() + LEEWAY.cast_signed();
        (self.tokens.token_expiry == TokenExpiry::Enforce).then(|| u64::try_from(left).unwrap_or(0))
    }
}

/// The checks for tokens signed with this algorithm.
fn validation(tokens: &Tokens, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    // A claim that is not required may be missing, or have an invalid type.
    let mut required = vec!["exp"];
    validation.validate_aud = tokens.jwt_audience.is_some();
    if let Some(audience) = &tokens.jwt_audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    if let Some(issuer) = &tokens.jwt_issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn user_id(claim: &Value) -> Option<UserId> {
    match claim {
        Value::Number(number) => UserId::new(number.as_i64()?).ok(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// The Unix seconds of a date claim, which may have decimals (RFC 7519, NumericDate).
fn seconds(claim: &Value) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float that is too large saturates, and is then rejected as a date"
    )]
    claim.as_i64().or_else(|| claim.as_f64().map(|seconds| seconds as i64))
}

/// The token in `Authorization`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The subprotocols that a client offers, in order.
fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether a client offers the subprotocol `bearer`. If the response does not select it, a browser closes the
/// connection.
pub fn offers_bearer(headers: &HeaderMap) -> bool {
    subprotocols(headers).any(|protocol| protocol == "bearer")
}

fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    let mut protocols = subprotocols(headers);
    protocols.find(|protocol| *protocol == "bearer")?;
    protocols.next().filter(|token| !token.is_empty())
}

/// The first value of a cookie. Other cookies may contain any bytes, so only this one is read as text.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs =
        headers.get_all(header::COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut values =
        pairs.filter_map(|pair| pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = std::str::from_utf8(values.next()?).ok()?.trim().trim_matches('"');
    (!value.is_empty()).then_some(value)
}

/// The first value of a query parameter, percent-decoded. Tokens and numbers need no other decoding.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use serde_json::json;

    fn verifier() -> Verifier {
        Verifier::new(crate::config::tests::tokens()).unwrap()
    }

    fn sign(claims: &Value) -> String {
        let key = EncodingKey::from_secret(b"a secret of the tests");
        jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
    }

    fn soon() -> i64 {
        Timestamp::now().unix() + 60
    }

    #[test]
    fn tokens_of_simplejwt_are_accepted() {
        for user_id in [json!(456), json!("456")] {
            let claims = json!({"token_type": "access", "exp": soon(), "iat": soon() - 60, "jti": "x", "user_id": user_id});
            assert_eq!(verifier().verify(&sign(&claims)).unwrap().user_id.get(), 456);
        }
    }

    #[test]
    fn invalid_tokens_are_rejected() {
        for claims in [
            json!({"exp": soon()}),
            json!({"user_id": 1}),
            json!({"user_id": 1, "exp": soon() - 120}),
            json!({"user_id": 0, "exp": soon()}),
            json!({"user_id": -4, "exp": soon()}),
            json!({"user_id": 1.5, "exp": soon()}),
            json!({"user_id": "12x", "exp": soon()}),
            json!({"user_id": 1, "exp": soon(), "nbf": soon()}),
            json!({"user_id": 1, "exp": soon(), "iat": soon()}),
            json!({"user_id": 1, "exp": soon(), "token_type": "refresh"}),
        ] {
            assert!(verifier().verify(&sign(&claims)).is_err(), "{claims}");
        }
        let other = EncodingKey::from_secret(b"another secret");
        let forged =
            jsonwebtoken::encode(&Header::default(), &json!({"user_id": 1, "exp": soon()}), &other).unwrap();
        assert!(verifier().verify(&forged).is_err());
        // {"alg":"none"} with a user and a distant expiry.
        let none = "eyJhbGciOiJub25lIn0.eyJ1c2VyX2lkIjoxLCJleHAiOjk5OTk5OTk5OTl9.";
        assert!(verifier().verify(none).is_err());
    }

    #[test]
    fn a_configured_issuer_or_audience_must_be_in_the_token() {
        let with = |issuer: Option<&str>, audience: Option<&str>, claims: Value| {
            let tokens = crate::config::Tokens {
                jwt_issuer: issuer.map(str::to_owned),
                jwt_audience: audience.map(str::to_owned),
                ..crate::config::tests::tokens()
            };
            let mut claims = claims;
            claims["user_id"] = json!(1);
            claims["exp"] = json!(soon());
            Verifier::new(tokens).unwrap().verify(&sign(&claims)).is_ok()
        };
        for audience in [json!("chat"), json!(["shop", "chat"])] {
            assert!(with(None, Some("chat"), json!({"aud": audience})));
        }
        assert!(with(Some("shop"), None, json!({"iss": "shop"})));
        assert!(with(Some("shop"), Some("chat"), json!({"iss": "shop", "aud": "chat"})));
        for claims in [
            json!({}),
            json!({"aud": null}),
            json!({"aud": "shop"}),
            json!({"aud": 1}),
            json!({"aud": true}),
            json!({"aud": {"chat": "chat"}}),
            json!({"aud": []}),
            json!({"aud": ["chat", 1]}),
            json!({"aud": [["chat"]]}),
        ] {
            assert!(!with(None, Some("chat"), claims.clone()), "{claims}");
        }
        for claims in [
            json!({}),
            json!({"iss": null}),
            json!({"iss": "chat"}),
            json!({"iss": 1}),
            json!({"iss": {"shop": "shop"}}),
            json!({"iss": ["shop"]}),
            json!({"iss": []}),
        ] {
            assert!(!with(Some("shop"), None, claims.clone()), "{claims}");
        }
        // If both are configured, both must match.
        assert!(!with(Some("shop"), Some("chat"), json!({"iss": "shop"})));
        assert!(!with(Some("shop"), Some("chat"), json!({"aud": "chat"})));
    }

    #[test]
    fn the_sources_of_a_token_have_a_fixed_order() {
        let (verifier, mut headers) = (verifier(), HeaderMap::new());
        headers
            .append(header::COOKIE, b"name=J\xe9r\xf4me; access_token_old=x".as_slice().try_into().unwrap());
        headers.append(header::COOKIE, "a=b; access_token=c; access_token=d".parse().unwrap());
        assert_eq!(verifier.token_of(&headers, None), None, "a cookie without an Origin is ignored");
        headers.insert(header::ORIGIN, "https://shop.example".parse().unwrap());
        assert_eq!(verifier.token_of(&headers, None), Some("c".into()));
        assert_eq!(verifier.token_of(&headers, Some("after=3&token=q%2Eq")), Some("q.q".into()));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "bearer, p".parse().unwrap());
        assert_eq!(verifier.token_of(&headers, Some("token=q")), Some("p".into()));
        headers.insert(header::AUTHORIZATION, "Bearer h".parse().unwrap());
        assert_eq!(verifier.token_of(&headers, Some("token=q")), Some("h".into()));
    }

    proptest! {
        #[test]
        fn no_token_or_query_panics(text: String) {
            let _ = verifier().verify(&text);
            let _ = parameter(&text, "token");
        }
    }
}
