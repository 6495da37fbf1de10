//! Tokens whose keys are published at a URL.

use e2e::{Kind, Options, Socket, Stack, eventually, token};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../../../gateway/testdata/p256.pem")).unwrap()
}

fn signed(id: &str, user: i64) -> String {
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(60);
    jsonwebtoken::encode(&header, &json!({"user_id": user, "exp": exp.as_secs()}), &key()).unwrap()
}

/// Answers every request with this.
async fn publish(listener: TcpListener, keys: Value) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let body = keys.to_string();
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            stream.write_all(answer.as_bytes()).await.ok();
        }
    }
}

#[tokio::test]
async fn a_gateway_waits_for_the_published_keys_and_takes_only_their_tokens() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let env = vec![("JWT_SECRET", String::new()), ("JWT_JWKS_URL", format!("http://{place}/jwks.json"))];
    let stack = Stack::cold(Options { env, ..Options::default() }).await;
    // It runs, but lets nobody in yet.
    eventually("an answer of /readyz", || async {
        stack.readyz(Kind::Gateway, 0).await.map(|status| assert_eq!(status, 503))
    })
    .await;
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("k1".to_owned());
    let listener = TcpListener::bind(place).await.unwrap();
    let publisher = tokio::spawn(publish(listener, json!({ "keys": [jwk] })));
    stack.ready().await;
    publisher.abort();

    let unread = async |token: &str| {
        let call = stack.http().get(format!("http://{}/api/unread", stack.host(0))).bearer_auth(token);
        call.send().await.unwrap().status().as_u16()
    };
    let open = async |token: &str| {
        Socket::open(&format!("ws://{}/ws/notifications/?token={token}", stack.host(0))).await
    };
    assert_eq!(unread(&signed("k1", 1)).await, 200);
    let mut socket = open(&signed("k1", 1)).await;
    socket.send(json!({"type": "auth", "token": signed("k1", 1)})).await;
    assert_eq!(socket.next().await["type"], "auth");
    for refused in [signed("k2", 1), token(1)] {
        assert_eq!(unread(&refused).await, 401);
        assert_eq!(open(&refused).await.closed().await, Some(4401));
        socket.send(json!({"type": "auth", "token": refused})).await;
        assert_eq!(socket.next().await["code"], "unauthorized");
    }
}
