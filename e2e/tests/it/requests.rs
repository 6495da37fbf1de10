//! HTTP requests that are too large, too slow or ambiguous, written byte by byte.

use e2e::{Kind, Options, Stack, eventually, token, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Waits until `times` requests were refused because of a limit. The gateway counts a refusal after it has closed the
/// connection.
async fn wait_for_refused(stack: &Stack, limit: &str, times: u64) {
    let name = format!("gateway_requests_refused_total{{limit=\"{limit}\"}}");
    let is_counted = async || stack.metric(Kind::Gateway, 0, &name).await as u64 == times;
    eventually(&format!("{times} requests refused because of {limit}"), is_counted).await;
}

/// Reads the response until the gateway closes the connection.
async fn read_response(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    within("the end of a connection", stream.read_to_end(&mut response)).await.ok();
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn requests_that_are_too_large_too_slow_or_ambiguous_are_refused() {
    let env = [("HEAD_SECONDS", "1"), ("BODY_SECONDS", "1"), ("HEAD_BYTES", "8192"), ("BODY_BYTES", "20000")];
    let env = env.map(|(key, value)| (key, value.to_owned())).to_vec();
    let stack = Stack::with(Options { env, ..Options::default() }).await;
    let connect = async || TcpStream::connect(stack.host(0)).await.unwrap();
    let head = format!(
        "POST /api/reports HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        stack.host(0),
        token(1)
    );

    let mut large = connect().await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    large.write_all(long.as_bytes()).await.unwrap();
    assert!(read_response(&mut large).await.starts_with("HTTP/1.1 431 "));
    wait_for_refused(&stack, "head_bytes", 1).await;

    // A connection without a request, and a head that never ends although bytes keep arriving.
    let mut silent = connect().await;
    assert_eq!(read_response(&mut silent).await, "");
    let (mut reader, mut writer) = connect().await.into_split();
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        read = within("the end of a slow head", reader.read_to_end(&mut rest)) => drop(read),
        () = drip => {}
    }
    wait_for_refused(&stack, "head_time", 2).await;

    let mut large = connect().await;
    large.write_all(format!("{head}content-length: 20001\r\n\r\n").as_bytes()).await.unwrap();
    large.write_all(&[b' '; 20_001]).await.unwrap();
    let response = read_response(&mut large).await;
    assert!(response.starts_with("HTTP/1.1 413 ") && response.contains("payload_too_large"), "{response}");
    wait_for_refused(&stack, "body_bytes", 1).await;

    let mut slow = connect().await;
    slow.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    let response = read_response(&mut slow).await;
    assert!(response.starts_with("HTTP/1.1 408 ") && response.contains("\"timeout\""), "{response}");
    wait_for_refused(&stack, "body_time", 1).await;

    // Requests that two parsers could frame differently are refused.
    for smuggled in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n\r\n{\"x\":1",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "content-length: +5\r\n\r\nhello",
        " folded: header\r\n\r\n",
    ] {
        let mut stream = connect().await;
        stream.write_all(format!("{head}{smuggled}").as_bytes()).await.unwrap();
        let response = read_response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{smuggled}: {response}");
        assert_eq!(response.matches("HTTP/1.1").count(), 1, "{smuggled}: {response}");
    }
}
