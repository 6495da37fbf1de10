//! A client's socket.

use crate::{
    documented::{self, By},
    within,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, http::StatusCode},
};

/// A client's socket. Every frame that it receives must be as documented.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    channel: &'static str,
    /// The server's first frame on a multiplexed socket, once it was received.
    pub hello: Option<Value>,
}

impl Socket {
    /// Opens one.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn open(url: &str) -> Self {
        let opened = within("a handshake", tokio_tungstenite::connect_async(url)).await;
        let (stream, _) = opened.unwrap_or_else(|error| panic!("open {url}: {error}"));
        Self::on(stream, url)
    }

    fn on(stream: WebSocketStream<MaybeTlsStream<TcpStream>>, url: &str) -> Self {
        Self { stream, channel: documented::channel_at(url).expect("an address of a socket"), hello: None }
    }

    /// Opens one with more headers, or says with which status it was refused.
    ///
    /// # Panics
    /// When there is no answer of HTTP.
    pub async fn try_open(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, StatusCode> {
        let mut request = url.into_client_request().expect("an address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match within("a handshake", tokio_tungstenite::connect_async(request)).await {
            Ok((stream, _)) => Ok(Self::on(stream, url)),
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("open {url}: {error}"),
        }
    }

    /// Opens one, if the server is there and lets us in.
    pub async fn try_connect(url: &str) -> Option<Self> {
        let opened = within("a handshake", tokio_tungstenite::connect_async(url)).await;
        opened.ok().map(|(stream, _)| Self::on(stream, url))
    }

    /// Sends a frame of JSON; whether the socket is still open.
    pub async fn try_send(&mut self, frame: Value) -> bool {
        self.stream.send(Message::Text(frame.to_string().into())).await.is_ok()
    }

    /// Sends a text frame.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.stream.send(Message::Text(text.into())).await.expect("send a frame");
    }

    /// Sends a frame of JSON.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    /// Sends a message as the guide's page does.
    pub async fn say(&mut self, text: &str) {
        self.send(json!({ "message": text })).await;
    }

    /// Sends a frame of another kind.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_raw(&mut self, message: Message) {
        self.stream.send(message).await.expect("send a frame");
    }

    /// Sends frames in one write.
    ///
    /// # Panics
    /// If the socket is closed.
    pub async fn send_together(&mut self, frames: &[Value]) {
        for frame in frames {
            self.stream.feed(Message::text(frame.to_string())).await.expect("send a frame");
        }
        self.stream.flush().await.expect("send frames");
    }

    /// Sends a frame up to `count` times, without waiting for answers, until the server closes the socket; returns the
    /// close code.
    pub async fn flood(self, text: &str, count: usize) -> Option<u16> {
        let (mut sink, mut stream) = self.stream.split();
        let send = async {
            for _ in 0..count {
                if sink.send(Message::text(text)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let closed = async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        let closed = async {
            tokio::select! { () = send => None, code = closed => code }
        };
        within("a close", closed).await
    }

    /// Whether a pong arrives before the connection ends; frames before it are dropped.
    pub async fn pong(&mut self) -> bool {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Pong(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// The next frame.
    ///
    /// # Panics
    /// When the socket is closed instead, or none comes.
    pub async fn next(&mut self) -> Value {
        match within("a frame", self.receive()).await {
            Ok(frame) => frame,
            Err(code) => panic!("closed with {code:?} instead of a frame"),
        }
    }

    /// The next frame of this type; those before it are dropped.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// The next frame, or the close code (`None` where the connection just ended).
    ///
    /// # Panics
    /// When the frame isn't as documented.
    pub async fn receive(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    documented::check(self.channel, By::Server, &frame).unwrap_or_else(|why| panic!("{why}"));
                    if frame["op"] == "hello" {
                        assert!(self.hello.replace(frame).is_none(), "a second hello");
                        continue;
                    }
                    return Ok(frame);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Checks that nothing was sent until now: everything that was would come before the answer to a wrong frame.
    ///
    /// # Panics
    /// When something else comes first.
    pub async fn expect_silence(&mut self) {
        self.send_text("this is not JSON").await;
        let frame = self.next().await;
        assert_eq!(frame["code"], "invalid_json", "{frame} came first");
    }

    /// The code that the socket is closed with; frames before that are dropped.
    pub async fn closed(&mut self) -> Option<u16> {
        within("a close", async {
            loop {
                if let Err(code) = self.receive().await {
                    return code;
                }
            }
        })
        .await
    }

    /// Leaves.
    pub async fn close(mut self) {
        self.stream.close(None).await.ok();
    }
}
