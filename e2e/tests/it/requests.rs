//! Requests that are too large or too slow, byte by byte.

use e2e::{Kind, Options, Stack, eventually, token, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Waits until as many requests were refused for a limit: a connection is counted after its end, which its client may
/// see first.
async fn refused(stack: &Stack, limit: &str, times: u64) {
    let name = format!("gateway_requests_refused_total{{limit=\"{limit}\"}}");
    let counted = async || (stack.metric(Kind::Gateway, 0, &name).await as u64 == times).then_some(());
    eventually(&format!("{times} refused for {limit}"), counted).await;
}

/// What a connection is answered, until the gateway ends it.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    within("the end of a connection", stream.read_to_end(&mut answer)).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn requests_that_are_too_large_or_too_slow_end() {
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
    assert!(answer(&mut large).await.starts_with("HTTP/1.1 431 "));
    refused(&stack, "head_bytes", 1).await;

    // Nothing at all; and a head that never ends, although a byte of it comes now and then.
    let mut silent = connect().await;
    assert_eq!(answer(&mut silent).await, "");
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
    refused(&stack, "head_time", 2).await;

    let mut large = connect().await;
    large.write_all(format!("{head}content-length: 20001\r\n\r\n").as_bytes()).await.unwrap();
    large.write_all(&[b' '; 20_001]).await.unwrap();
    let said = answer(&mut large).await;
    assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("payload_too_large"), "{said}");
    refused(&stack, "body_bytes", 1).await;

    let mut slow = connect().await;
    slow.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    let said = answer(&mut slow).await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("\"timeout\""), "{said}");
    refused(&stack, "body_time", 1).await;

    // What two readers could take for two requests is taken for none.
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
        let said = answer(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{smuggled}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{smuggled}: {said}");
    }
}
