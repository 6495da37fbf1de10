//! Tokens whose keys are published at a URL (`JWT_JWKS_URL`).

use e2e::{Kind, Options, Socket, Stack, eventually, token, within};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use testkit::{Child, Program, free_port, place};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../../../gateway/testdata/p256.pem")).unwrap()
}

fn signed(id: &str, user: i64) -> String {
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(60);
    jsonwebtoken::encode(&header, &json!({"user_id": user, "exp": exp.as_secs()}), &key()).unwrap()
}

/// Key set that contains the key with this id.
fn key_set(id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::ES256).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    json!({ "keys": [jwk] })
}

/// Serves this key set in response to every request.
async fn serve(listener: TcpListener, keys: Value) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let body = keys.to_string();
        let response =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            stream.write_all(response.as_bytes()).await.ok();
        }
    }
}

#[tokio::test]
async fn a_gateway_waits_for_the_published_keys_and_accepts_only_their_tokens() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let env = vec![("JWT_SECRET", String::new()), ("JWT_JWKS_URL", format!("http://{addr}/jwks.json"))];
    let stack = Stack::start_without_waiting(Options { env, ..Options::default() }).await;
    // The gateway runs but is not ready.
    eventually("a response of /readyz", || async {
        stack.readyz(Kind::Gateway, 0).await.map(|status| assert_eq!(status, 503))
    })
    .await;
    let listener = TcpListener::bind(addr).await.unwrap();
    let publisher = tokio::spawn(serve(listener, key_set("k1")));
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

/// An HTTPS server with a certificate of the tests' certificate authority.
const TLS_SERVER: &str = "
import http.server, ssl, sys
port, certificate, folder = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
def handler(*arguments):
    return http.server.SimpleHTTPRequestHandler(*arguments, directory=folder)
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
";

fn testdata(file: &str) -> String {
    place::workspace().join("gateway/testdata").join(file).to_str().unwrap().to_owned()
}

fn serve_over_tls(port: u16, folder: &tempfile::TempDir) -> Child {
    std::fs::write(folder.path().join("jwks.json"), key_set("k1").to_string()).unwrap();
    let (port, folder) = (port.to_string(), folder.path().to_str().unwrap().to_owned());
    let arguments = ["-c", TLS_SERVER, &port, &testdata("tls.pem"), &folder].map(str::to_owned);
    Program::new("python3").args(arguments).spawn().unwrap()
}

#[tokio::test]
async fn published_keys_are_read_over_tls_only_from_a_server_with_a_trusted_certificate() {
    let (port, folder) = (free_port().unwrap(), tempfile::tempdir().unwrap());
    let _publisher = serve_over_tls(port, &folder);
    let env =
        vec![("JWT_SECRET", String::new()), ("JWT_JWKS_URL", format!("https://127.0.0.1:{port}/jwks.json"))];
    // The system does not trust the tests' authority.
    let refused = Arc::new(Notify::new());
    let notify = refused.clone();
    let on_line = Arc::new(move |name: &str, line: &str| {
        if name.starts_with("gateway") && line.contains("JWT_JWKS_URL") && line.contains("certificate") {
            notify.notify_one();
        }
    });
    let stack =
        Stack::start_without_waiting(Options { env: env.clone(), on_line, ..Options::default() }).await;
    within("the gateway to refuse the certificate", refused.notified()).await;
    assert_ne!(stack.readyz(Kind::Gateway, 0).await, Some(200));
    drop(stack);

    let env = [env, vec![("SSL_CERT_FILE", testdata("ca.pem"))]].concat();
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let call = stack.http().get(format!("http://{}/api/unread", stack.host(0))).bearer_auth(signed("k1", 1));
    assert_eq!(call.send().await.unwrap().status(), 200);
}
