//! A client's WebSocket.

use crate::{
    documented::{self, Sender},
    within,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, http::StatusCode},
};

/// A client's WebSocket. Every frame that it receives must match its schema.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    channel: &'static str,
    /// First frame of the server on a multiplexed socket, after its receipt.
    pub hello: Option<Value>,
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Panics
    /// If the handshake fails.
    pub async fn open(url: &str) -> Self {
        let opened = within("a handshake", tokio_tungstenite::connect_async(url)).await;
        let (stream, _) = opened.unwrap_or_else(|error| panic!("open {url}: {error}"));
        Self::new(stream, url)
    }

    fn new(stream: WebSocketStream<MaybeTlsStream<TcpStream>>, url: &str) -> Self {
        Self { stream, channel: documented::channel_at(url).expect("the URL of a socket"), hello: None }
    }

    /// Opens a socket with additional headers. Returns the HTTP status if the handshake is refused.
    ///
    /// # Panics
    /// If there is no HTTP response.
    pub async fn try_open(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, StatusCode> {
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match within("a handshake", tokio_tungstenite::connect_async(request)).await {
            Ok((stream, _)) => Ok(Self::new(stream, url)),
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("open {url}: {error}"),
        }
    }

    /// Opens a socket; `None` if the handshake fails.
    pub async fn try_connect(url: &str) -> Option<Self> {
        let opened = within("a handshake", tokio_tungstenite::connect_async(url)).await;
        opened.ok().map(|(stream, _)| Self::new(stream, url))
    }

    /// Sends a JSON frame. Returns whether the socket was open.
    pub async fn try_send(&mut self, frame: Value) -> bool {
        self.stream.send(Message::Text(frame.to_string().into())).await.is_ok()
    }

    /// Sends a text frame.
    ///
    /// # Panics
    /// If the socket is closed.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.stream.send(Message::Text(text.into())).await.expect("send a frame");
    }

    /// Sends a JSON frame.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    /// Sends a chat message without a `client_id`, as the guide's page does.
    pub async fn say(&mut self, text: &str) {
        self.send(json!({ "message": text })).await;
    }

    /// Sends any frame.
    ///
    /// # Panics
    /// If the socket is closed.
    pub async fn send_raw(&mut self, message: Message) {
        self.stream.send(message).await.expect("send a frame");
    }

    /// Sends JSON frames in one write.
    ///
    /// # Panics
    /// If the socket is closed.
    pub async fn send_together(&mut self, frames: &[Value]) {
        for frame in frames {
            self.stream.feed(Message::text(frame.to_string())).await.expect("send a frame");
        }
        self.stream.flush().await.expect("send frames");
    }

    /// Sends a frame up to `count` times without waiting for responses, until the server closes the socket. Returns the
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

    /// Returns whether a pong arrives before the connection ends. Drops the frames before it.
    pub async fn pong(&mut self) -> bool {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Pong(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// Returns whether a pong arrives before the next frame and before the connection ends.
    pub async fn pong_before_frames(&mut self) -> bool {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Pong(_))) => return true,
                Some(Ok(Message::Ping(_))) => {}
                Some(_) | None => return false,
            }
        }
    }

    /// Next frame.
    ///
    /// # Panics
    /// If the socket is closed or no frame arrives.
    pub async fn next(&mut self) -> Value {
        match within("a frame", self.receive()).await {
            Ok(frame) => frame,
            Err(code) => panic!("closed with {code:?} instead of a frame"),
        }
    }

    /// Text of the next frame.
    ///
    /// # Panics
    /// If the socket is closed or no frame arrives.
    pub async fn next_text(&mut self) -> String {
        match within("a frame", self.receive_text()).await {
            Ok((text, _)) => text,
            Err(code) => panic!("closed with {code:?} instead of a frame"),
        }
    }

    /// Next frame of this type. Drops the frames before it.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Next frame, or the close code (`None` if the connection ends without one).
    ///
    /// # Panics
    /// If the frame doesn't match its schema.
    pub async fn receive(&mut self) -> Result<Value, Option<u16>> {
        self.receive_text().await.map(|(_, frame)| frame)
    }

    async fn receive_text(&mut self) -> Result<(String, Value), Option<u16>> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("a JSON frame");
                    documented::check(self.channel, Sender::Server, &frame)
                        .unwrap_or_else(|error| panic!("{error}"));
                    if frame["op"] == "hello" {
                        assert!(self.hello.replace(frame).is_none(), "a second hello");
                        continue;
                    }
                    return Ok((text.as_str().to_owned(), frame));
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Checks that the server has sent nothing: an earlier frame would arrive before the error for an invalid one.
    ///
    /// # Panics
    /// If an earlier frame arrives.
    pub async fn expect_silence(&mut self) {
        self.send_text("this is not JSON").await;
        let frame = self.next().await;
        assert_eq!(frame["code"], "invalid_json", "{frame} came first");
    }

    /// Waits until the socket is closed and returns the close code. Drops the frames before it.
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

    /// Closes the socket.
    pub async fn close(mut self) {
        self.stream.close(None).await.ok();
    }
}
