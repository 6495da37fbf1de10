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
fn a_public_key_of_each_kind_verifies_its_own_algorithm_and_no_other() {
    let kinds = [(Algorithm::RS256, RSA.1), (Algorithm::ES256, P256.1), (Algorithm::EdDSA, ED25519.1)];
    for (algorithm, pem) in kinds {
        let one_line = pem.replace('\n', "\\n");
        for pem in [pem, &one_line] {
            let verifier = verifier(pem);
            for (other, _) in kinds {
                let taken = verifier.verify(&signed(&Header::new(other), &signing(other))).is_ok();
                assert_eq!(taken, other == algorithm, "{other:?} by a key for {algorithm:?}");
            }
            // The public key, which everyone has, taken for a secret: the classic confusion of algorithms.
            for secret in [pem, pem.trim_end()] {
                let forged =
                    signed(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(secret.as_bytes()));
                assert!(verifier.verify(&forged).is_err());
            }
        }
    }
}

#[test]
fn exactly_one_usable_kind_of_key_is_needed() {
    let refused = |secret: Option<&str>, pem: Option<&str>, url: Option<&str>| {
        let owned = |value: Option<&str>| value.map(str::to_owned);
        let (jwt_secret, jwt_public_key, jwt_jwks_url) = (owned(secret), owned(pem), owned(url));
        let tokens = Tokens { jwt_secret, jwt_public_key, jwt_jwks_url, ..tokens() };
        let line = Keys::new(&tokens).err().unwrap().to_string();
        assert!(!line.contains('\n') && line.starts_with("configuration: "), "{line}");
        line
    };
    let one = "configuration: exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL is needed";
    assert_eq!(refused(None, None, None), one);
    assert_eq!(refused(Some(" "), None, Some("")), one);
    assert_eq!(refused(Some("s"), Some(RSA.1), None), one);
    assert_eq!(refused(None, Some(RSA.1), Some("https://shop.example/jwks")), one);
    assert!(refused(None, Some(RSA.0), None).ends_with("JWT_PUBLIC_KEY holds a private key"));
    for pem in ["nonsense", P384] {
        assert!(refused(None, Some(pem), None).contains("JWT_PUBLIC_KEY is no public key"));
    }
    assert!(refused(None, None, Some("file:///etc/keys")).contains("JWT_JWKS_URL"));
    assert!(refused(None, None, Some("keys")).contains("JWT_JWKS_URL"));
}

#[test]
fn what_a_header_brings_is_not_trusted() {
    let verifier = verifier(RSA.1);
    let mut jwk = Jwk::from_encoding_key(&signing(Algorithm::ES256), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("mine".to_owned());
    let mut header = named(Algorithm::ES256, "mine");
    header.jwk = Some(jwk);
    header.jku = Some("https://evil.example/jwks".to_owned());
    header.x5u = Some("https://evil.example/x509".to_owned());
    assert!(verifier.verify(&signed(&header, &signing(Algorithm::ES256))).is_err());
    // Understood by us or not, signed rightly or not.
    let critical = Header { crit: Some(vec!["b64".to_owned()]), ..Header::new(Algorithm::RS256) };
    let refused = verifier.verify(&signed(&critical, &signing(Algorithm::RS256)));
    assert!(matches!(refused, Err(Rejected::Critical)), "{refused:?}");
    let mut huge = Header::new(Algorithm::RS256);
    huge.extras.insert("x", "x".repeat(8 * 1024));
    let refused = verifier.verify(&signed(&huge, &signing(Algorithm::RS256)));
    assert!(matches!(refused, Err(Rejected::TooLong)), "{refused:?}");
    // `none`, however it is spelled; and without a signature though the algorithm is the key's.
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

/// A place where keys are published.
struct Publisher {
    url: String,
    body: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Publisher {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (body, asked) = (Arc::new(Mutex::new((200, String::new()))), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (body.clone(), asked.clone());
        let serve = async move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answer.lock().unwrap().clone();
            (StatusCode::from_u16(status).unwrap(), body)
        };
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/jwks.json", get(serve))).await },
        );
        Self { url, body, asked }
    }

    fn publish(&self, keys: &[(Algorithm, &str)]) {
        let jwk = |(algorithm, id): &(Algorithm, &str)| {
            let mut jwk = Jwk::from_encoding_key(&signing(*algorithm), *algorithm).unwrap();
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        };
        let keys: Vec<Jwk> = keys.iter().map(jwk).collect();
        self.answer(200, &json!({ "keys": keys }).to_string());
    }

    fn answer(&self, status: u16, body: &str) {
        *self.body.lock().unwrap() = (status, body.to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn verifier(&self) -> anyhow::Result<Verifier> {
        let tokens = Tokens { jwt_secret: None, jwt_jwks_url: Some(self.url.clone()), ..tokens() };
        let verifier = Verifier::new(tokens)?;
        verifier.key_set().unwrap().start(&CancellationToken::new()).await?;
        Ok(verifier)
    }
}

#[tokio::test]
async fn keys_of_every_kind_are_found_by_their_names() {
    let publisher = Publisher::start().await;
    let kinds = [(Algorithm::RS256, "r"), (Algorithm::ES256, "e"), (Algorithm::EdDSA, "d")];
    publisher.publish(&kinds);
    let verifier = publisher.verifier().await.unwrap();
    for (algorithm, id) in kinds {
        for (_, name) in kinds {
            let taken = verifier.verify(&signed(&named(algorithm, name), &signing(algorithm))).is_ok();
            assert_eq!(taken, name == id, "{algorithm:?} named {name}");
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
async fn a_set_is_asked_again_for_unknown_keys_but_not_often_and_by_one() {
    let publisher = Publisher::start().await;
    publisher.publish(&[(Algorithm::RS256, "old")]);
    let set = Arc::new(KeySet::asked_every(&publisher.url, Duration::ZERO).unwrap());
    let ended = CancellationToken::new();
    assert!(set.start(&ended).await.unwrap());
    let task = tokio::spawn(set.clone().follow(ended.clone()));
    let learn_all = async || futures_util::future::join_all((0..50).map(|_| set.learn(Some("new")))).await;
    publisher.publish(&[(Algorithm::RS256, "old"), (Algorithm::ES256, "new")]);
    learn_all().await;
    assert!(set.find(Some("new")).is_some() && set.find(Some("old")).is_some());
    let asked = publisher.asked();
    assert!((2..=3).contains(&asked), "fifty waited for {} questions", asked - 1);

    // What isn't published any more is not taken any more; but while there is no answer, the last keys stay.
    publisher.publish(&[(Algorithm::ES256, "new")]);
    set.learn(Some("other")).await;
    assert!(set.find(Some("old")).is_none());
    for (status, body) in [(503, "{}"), (404, ""), (200, r#"{"keys": []}"#), (200, "oops")] {
        publisher.answer(status, body);
        set.learn(Some("other")).await;
        assert!(set.find(Some("new")).is_some(), "{status} {body}");
    }
    ended.cancel();
    task.await.unwrap();

    let set = Arc::new(KeySet::asked_every(&publisher.url, Duration::from_secs(3600)).unwrap());
    publisher.publish(&[(Algorithm::RS256, "old")]);
    let ended = CancellationToken::new();
    assert!(set.start(&ended).await.unwrap());
    let asked = publisher.asked();
    let task = tokio::spawn(set.clone().follow(ended.clone()));
    for name in 0..50 {
        set.learn(Some(&name.to_string())).await;
    }
    assert_eq!(publisher.asked(), asked, "whoever asks for keys that aren't there makes no calls");
    ended.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_start_waits_for_keys_and_fails_where_there_will_be_none() {
    let publisher = Publisher::start().await;
    for (status, body, why) in [
        (404, "", "404"),
        (302, "", "302"),
        (200, "<html>", "not a JSON Web Key Set"),
        (
            200,
            r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {}, 5]}"#,
            "no key",
        ),
    ] {
        publisher.answer(status, body);
        let line = publisher.verifier().await.err().unwrap().to_string();
        assert!(line.starts_with("configuration: JWT_JWKS_URL can't be used: "), "{line}");
        assert!(line.contains(why) && !line.contains('\n'), "{line}");
    }
    publisher.answer(503, "");
    let asked = publisher.asked();
    let start = tokio::spawn({
        let set = KeySet::new(&publisher.url).unwrap();
        async move { set.start(&CancellationToken::new()).await }
    });
    while publisher.asked() < asked + 2 {
        tokio::task::yield_now().await;
    }
    publisher.publish(&[(Algorithm::EdDSA, "d")]);
    assert!(start.await.unwrap().unwrap());
}
