use super::*;
use crate::{
    admission::tokens::{Rejected, Verifier},
    config::tests::tokens,
};
use axum::{Router, routing::get};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpListener;

const RSA: (&str, &str) =
    (include_str!("../../../testdata/rsa.pem"), include_str!("../../../testdata/rsa.pub.pem"));
const P256: (&str, &str) =
    (include_str!("../../../testdata/p256.pem"), include_str!("../../../testdata/p256.pub.pem"));
const ED25519: (&str, &str) =
    (include_str!("../../../testdata/ed25519.pem"), include_str!("../../../testdata/ed25519.pub.pem"));
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEwXPwUcJjj50O0kPIKrlra6ppzsMWsh8V
7hoqi1XOFS2EVqiJ2vSPh8Ngzjo9RJXMOIkLTM9diJxbk8L+TkRlrqKj56Jiygp9
idJaeSA1MMAIPMvg9ScTkUQNj4Sto2La
-----END PUBLIC KEY-----";

fn signing(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(RSA.0.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(P256.0.as_bytes()),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED25519.0.as_bytes()),
        _ => Ok(EncodingKey::from_secret(b"a secret of the tests")),
    }
    .unwrap()
}

/// A token of user 7.
fn signed(header: &Header, key: &EncodingKey) -> String {
    let soon = contract::Timestamp::now().unix() + 60;
    jsonwebtoken::encode(header, &json!({"user_id": 7, "exp": soon}), key).unwrap()
}

fn named(algorithm: Algorithm, id: &str) -> Header {
    Header { kid: Some(id.to_owned()), ..Header::new(algorithm) }
}

fn verifier(pem: &str) -> Verifier {
    Verifier::new(Tokens { jwt_secret: None, jwt_public_key: Some(pem.to_owned()), ..tokens() }).unwrap()
}

#[test]
fn a_public_key_verifies_only_its_own_algorithm() {
    let kinds = [(Algorithm::RS256, RSA.1), (Algorithm::ES256, P256.1), (Algorithm::EdDSA, ED25519.1)];
    for (algorithm, pem) in kinds {
        let one_line = pem.replace('\n', "\\n");
        for pem in [pem, &one_line] {
            let verifier = verifier(pem);
            for (other, _) in kinds {
                let accepted = verifier.verify(&signed(&Header::new(other), &signing(other))).is_ok();
                assert_eq!(accepted, other == algorithm, "{other:?} by a key for {algorithm:?}");
            }
            // Algorithm confusion: the public key, used as the secret of HS256.
            for secret in [pem, pem.trim_end()] {
                let forged =
                    signed(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(secret.as_bytes()));
                assert!(verifier.verify(&forged).is_err());
            }
        }
    }
}

#[test]
fn exactly_one_valid_source_of_keys_is_required() {
    let refused = |secret: Option<&str>, pem: Option<&str>, url: Option<&str>| {
        let owned = |value: Option<&str>| value.map(str::to_owned);
        let (jwt_secret, jwt_public_key, jwt_jwks_url) = (owned(secret), owned(pem), owned(url));
        let tokens = Tokens { jwt_secret, jwt_public_key, jwt_jwks_url, ..tokens() };
        let line = Keys::new(&tokens).err().unwrap().to_string();
        assert!(!line.contains('\n') && line.starts_with("configuration: "), "{line}");
        line
    };
    let one = "configuration: set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL";
    assert_eq!(refused(None, None, None), one);
    assert_eq!(refused(Some(" "), None, Some("")), one);
    assert_eq!(refused(Some("s"), Some(RSA.1), None), one);
    assert_eq!(refused(None, Some(RSA.1), Some("https://shop.example/jwks")), one);
    assert!(refused(None, Some(RSA.0), None).ends_with("JWT_PUBLIC_KEY contains a private key"));
    for pem in ["nonsense", P384] {
        assert!(refused(None, Some(pem), None).contains("JWT_PUBLIC_KEY is not a PEM public key"));
    }
    assert!(refused(None, None, Some("file:///etc/keys")).contains("JWT_JWKS_URL"));
    assert!(refused(None, None, Some("keys")).contains("JWT_JWKS_URL"));
}

#[test]
fn during_a_rotation_tokens_of_both_keys_are_accepted() {
    let secret = |secret: &[u8]| signed(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(secret));
    let by_p256 = signed(&Header::new(Algorithm::ES256), &signing(Algorithm::ES256));
    let given = |value: &str| Some(value.to_owned());
    let rotating = Tokens { jwt_secret: given("new"), jwt_secret_previous: given("old"), ..tokens() };
    let verifier = Verifier::new(rotating.clone()).unwrap();
    assert!(verifier.verify(&secret(b"new")).is_ok() && verifier.verify(&secret(b"old")).is_ok());
    assert!(verifier.verify(&secret(b"older")).is_err() && verifier.verify(&by_p256).is_err());
    // An empty variable is no key.
    let rotated = Tokens { jwt_secret_previous: given(" "), ..rotating.clone() };
    for forged in [&b"old"[..], b"", b" "] {
        assert!(Verifier::new(rotated.clone()).unwrap().verify(&secret(forged)).is_err());
    }
    // From a secret to a key pair, from one key pair to another, and to a key set.
    let from_secret = Tokens { jwt_secret: None, jwt_public_key: given(ED25519.1), ..rotating };
    let from_pair = Tokens { jwt_public_key_previous: given(P256.1), ..from_secret.clone() };
    let to_set = Tokens {
        jwt_public_key: None,
        jwt_jwks_url: given("https://shop.example/jwks"),
        ..from_pair.clone()
    };
    for (tokens, by_pair) in [(from_secret, false), (from_pair, true), (to_set, true)] {
        let verifier = Verifier::new(tokens).unwrap();
        assert!(verifier.verify(&secret(b"old")).is_ok());
        assert_eq!(verifier.verify(&by_p256).is_ok(), by_pair);
        // A public key, used as the secret of HS256.
        assert!(verifier.verify(&secret(P256.1.as_bytes())).is_err());
    }
    let private = Tokens { jwt_public_key_previous: given(RSA.0), ..tokens() };
    let line = Verifier::new(private).err().unwrap().to_string();
    assert!(line.ends_with("JWT_PUBLIC_KEY_PREVIOUS contains a private key"), "{line}");
}

#[test]
fn keys_and_algorithms_in_a_header_are_not_trusted() {
    let verifier = verifier(RSA.1);
    let mut jwk = Jwk::from_encoding_key(&signing(Algorithm::ES256), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("mine".to_owned());
    let mut header = named(Algorithm::ES256, "mine");
    header.jwk = Some(jwk);
    header.jku = Some("https://evil.example/jwks".to_owned());
    header.x5u = Some("https://evil.example/x509".to_owned());
    assert!(verifier.verify(&signed(&header, &signing(Algorithm::ES256))).is_err());
    // Rejected even with a valid signature.
    let critical = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::RS256) };
    let refused = verifier.verify(&signed(&critical, &signing(Algorithm::RS256)));
    assert!(matches!(refused, Err(Rejected::Critical)), "{refused:?}");
    let mut huge = Header::new(Algorithm::RS256);
    huge.extras.insert("x", "x".repeat(8 * 1024));
    let refused = verifier.verify(&signed(&huge, &signing(Algorithm::RS256)));
    assert!(matches!(refused, Err(Rejected::TooLong)), "{refused:?}");
    // `none` in any spelling, and the key's own algorithm without a signature.
    let whole = signed(&Header::new(Algorithm::RS256), &signing(Algorithm::RS256));
    assert!(verifier.verify(&whole).is_ok());
    let (message, _) = whole.rsplit_once('.').unwrap();
    let claims = message.split_once('.').unwrap().1;
    for token in [
        format!("eyJhbGciOiJub25lIn0.{claims}."), // {"alg":"none"}
        format!("eyJhbGciOiJOb25lIn0.{claims}."), // {"alg":"None"}
        format!("{message}."),
        message.to_owned(),
        format!("{whole}.{claims}"),
    ] {
        assert!(verifier.verify(&token).is_err(), "{token}");
    }
}

/// A server of a key set.
struct Publisher {
    url: String,
    response: Arc<Mutex<(u16, String)>>,
    requests: Arc<AtomicUsize>,
}

impl Publisher {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (response, requests) =
            (Arc::new(Mutex::new((200, String::new()))), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (response.clone(), requests.clone());
        let serve = async move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = current.lock().unwrap().clone();
            (StatusCode::from_u16(status).unwrap(), body)
        };
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/jwks.json", get(serve))).await },
        );
        Self { url, response, requests }
    }

    fn publish(&self, keys: &[(Algorithm, &str)]) {
        let jwk = |(algorithm, id): &(Algorithm, &str)| {
            let mut jwk = Jwk::from_encoding_key(&signing(*algorithm), *algorithm).unwrap();
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        };
        let keys: Vec<Jwk> = keys.iter().map(jwk).collect();
        self.respond(200, &json!({ "keys": keys }).to_string());
    }

    fn respond(&self, status: u16, body: &str) {
        *self.response.lock().unwrap() = (status, body.to_owned());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn verifier(&self) -> anyhow::Result<Verifier> {
        let tokens = Tokens { jwt_secret: None, jwt_jwks_url: Some(self.url.clone()), ..tokens() };
        let verifier = Verifier::new(tokens)?;
        verifier.key_set().unwrap().start(&CancellationToken::new()).await?;
        Ok(verifier)
    }
}

#[tokio::test]
async fn keys_of_every_kind_are_found_by_their_ids() {
    let publisher = Publisher::start().await;
    let kinds = [(Algorithm::RS256, "r"), (Algorithm::ES256, "e"), (Algorithm::EdDSA, "d")];
    publisher.publish(&kinds);
    let verifier = publisher.verifier().await.unwrap();
    for (algorithm, id) in kinds {
        for (_, name) in kinds {
            let accepted = verifier.verify(&signed(&named(algorithm, name), &signing(algorithm))).is_ok();
            assert_eq!(accepted, name == id, "{algorithm:?} named {name}");
        }
        let unnamed = verifier.verify(&signed(&Header::new(algorithm), &signing(algorithm)));
        assert!(matches!(unnamed, Err(Rejected::UnknownKey)), "{unnamed:?}");
    }
    publisher.publish(&kinds[..1]);
    let verifier = publisher.verifier().await.unwrap();
    assert!(verifier.verify(&signed(&Header::new(Algorithm::RS256), &signing(Algorithm::RS256))).is_ok());
    let forged = EncodingKey::from_secret(RSA.1.as_bytes());
    assert!(verifier.verify(&signed(&named(Algorithm::HS256, "r"), &forged)).is_err());
}

#[tokio::test]
async fn a_set_is_fetched_for_unknown_keys_but_rarely_and_once_for_all() {
    let publisher = Publisher::start().await;
    publisher.publish(&[(Algorithm::RS256, "old")]);
    let set = Arc::new(KeySet::with_min_interval(&publisher.url, Duration::ZERO).unwrap());
    let ended = CancellationToken::new();
    assert!(set.start(&ended).await.unwrap());
    let task = tokio::spawn(set.clone().follow(ended.clone()));
    publisher.publish(&[(Algorithm::RS256, "old"), (Algorithm::ES256, "new")]);
    futures_util::future::join_all((0..50).map(|_| set.fetch_key(Some("new")))).await;
    assert!(set.find(Some("new")).is_some() && set.find(Some("old")).is_some());
    let requests = publisher.requests();
    assert!((2..=3).contains(&requests), "fifty callers caused {} requests", requests - 1);

    // A key that is no longer published is no longer valid. If a fetch fails, the last keys remain valid.
    publisher.publish(&[(Algorithm::ES256, "new")]);
    set.fetch_key(Some("other")).await;
    assert!(set.find(Some("old")).is_none());
    for (status, body) in [(503, "{}"), (404, ""), (200, r#"{"keys": []}"#), (200, "oops")] {
        publisher.respond(status, body);
        set.fetch_key(Some("other")).await;
        assert!(set.find(Some("new")).is_some(), "{status} {body}");
    }
    ended.cancel();
    task.await.unwrap();

    let set = Arc::new(KeySet::with_min_interval(&publisher.url, Duration::from_secs(3600)).unwrap());
    publisher.publish(&[(Algorithm::RS256, "old")]);
    let ended = CancellationToken::new();
    assert!(set.start(&ended).await.unwrap());
    let requests = publisher.requests();
    let task = tokio::spawn(set.clone().follow(ended.clone()));
    for name in 0..50 {
        set.fetch_key(Some(&name.to_string())).await;
    }
    assert_eq!(publisher.requests(), requests, "no fetch before the minimum interval has passed");
    ended.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_keys_and_fails_on_an_invalid_response() {
    let publisher = Publisher::start().await;
    for (status, body, reason) in [
        (404, "", "404"),
        (302, "", "302"),
        (200, "<html>", "not a JSON Web Key Set"),
        (
            200,
            r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {}, 5]}"#,
            "no key",
        ),
    ] {
        publisher.respond(status, body);
        let line = publisher.verifier().await.err().unwrap().to_string();
        assert!(line.starts_with("configuration: JWT_JWKS_URL can't be used: "), "{line}");
        assert!(line.contains(reason) && !line.contains('\n'), "{line}");
    }
    publisher.respond(503, "");
    let requests = publisher.requests();
    let start = tokio::spawn({
        let set = KeySet::new(&publisher.url).unwrap();
        async move { set.start(&CancellationToken::new()).await }
    });
    while publisher.requests() < requests + 2 {
        tokio::task::yield_now().await;
    }
    publisher.publish(&[(Algorithm::EdDSA, "d")]);
    assert!(start.await.unwrap().unwrap());
}
