//! A system under load, and its clients.

use crate::{
    link::{self, Ended, Link, Reader, Refused},
    processes::Watched,
};
use serde::Deserialize;
use serde_json::json;
use std::{net::SocketAddr, ops::ControlFlow, rc::Rc, time::Duration};

/// A system under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name in reports.
    pub name: String,
    /// Protocol of its clients.
    pub dialect: Dialect,
    /// Addresses of its servers, used in turn.
    pub addresses: Vec<SocketAddr>,
    /// Secret that signs its tokens.
    pub secret: String,
    /// Measured processes.
    pub processes: Vec<Watched>,
    /// URL of its NATS, if it has one.
    pub nats: Option<String>,
    /// URL of its Postgres.
    pub database: Option<String>,
    /// Statements that create conversations in its Postgres, if there is no other way.
    pub conversations: Option<&'static str>,
}

/// Protocol of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The guide's protocol, which our system also uses: a socket for each conversation, with JSON frames.
    Guide,
    /// Socket.IO over WebSocket: engine.io packets around `["event", …]`.
    SocketIo,
}

/// Subject of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A conversation.
    Chat(i64),
    /// A conversation, resumed after this message.
    ChatAfter(i64, i64),
    /// Typing in a conversation.
    Typing(i64),
    /// The user's notifications.
    Notifications,
}

impl Channel {
    fn path(self) -> String {
        match self {
            Self::Chat(id) | Self::ChatAfter(id, _) => format!("/ws/chat/{id}/"),
            Self::Typing(id) => format!("/ws/typing/{id}/"),
            Self::Notifications => "/ws/notifications/".to_owned(),
        }
    }
}

/// Name of a user, in tokens and in requests of backends.
pub fn username(user: i64) -> String {
    format!("user{user}")
}

impl Target {
    /// Name of the process that holds the clients' sockets: the first one.
    pub fn front(&self) -> &str {
        self.processes.first().map_or("", |process| &process.name)
    }

    /// Creates a token as the marketplace's backend would issue it.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn token(&self, user: i64) -> anyhow::Result<String> {
        let claims = json!({"user_id": user, "username": username(user), "token_type": "access",
            "iat": testkit::token::now(), "jti": format!("{user:032x}")});
        testkit::token::sign(&self.secret, claims, Duration::from_secs(3 * 3600))
    }

    /// Opens a socket for a user. It is ready for use when this returns. `number` is the number of the socket in the
    /// run.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn open(&self, channel: Channel, user: i64, number: usize) -> Result<Client, Refused> {
        let token = self.token(user).map_err(std::io::Error::other)?;
        let address = self.addresses[number % self.addresses.len()];
        let path = match self.dialect {
            Dialect::Guide => match channel {
                Channel::ChatAfter(_, after) => format!("{}?after={after}&token={token}", channel.path()),
                _ => format!("{}?token={token}", channel.path()),
            },
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        };
        let (link, reader) = link::open(address, &path, number).await?;
        let mut client = Client { link, reader, dialect: self.dialect };
        if self.dialect == Dialect::SocketIo {
            client.join(channel, &token).await?;
        }
        Ok(client)
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    link: Rc<Link>,
    reader: Reader,
    dialect: Dialect,
}

/// The sending half of a client.
#[derive(Debug, Clone)]
pub struct Sender {
    link: Rc<Link>,
    dialect: Dialect,
}

impl Client {
    /// Returns the sending half.
    pub fn sender(&self) -> Sender {
        Sender { link: self.link.clone(), dialect: self.dialect }
    }

    /// Performs Socket.IO's own handshake, inside the socket.
    async fn join(&mut self, channel: Channel, token: &str) -> Result<(), Refused> {
        let conversation = match channel {
            Channel::Chat(id) | Channel::ChatAfter(id, _) | Channel::Typing(id) => Some(id),
            Channel::Notifications => None,
        };
        let auth = json!({"token": token, "conversation_id": conversation});
        let link = self.link.clone();
        let mut joined = false;
        let ended = self
            .reader
            .read(|packet| match packet {
                [b'0', ..] => {
                    link.send(&format!("40{auth}"));
                    ControlFlow::Continue(())
                }
                [b'4', b'0', ..] => {
                    joined = true;
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Break(()),
            })
            .await;
        match ended {
            Ended::Stopped if joined => Ok(()),
            Ended::Stopped => Err(Refused::Closed(None)),
            Ended::Closed(code) => Err(Refused::Closed(code)),
        }
    }

    /// Calls `on_frame` with the JSON of each frame, until it breaks or the server closes the socket.
    pub async fn receive(&mut self, mut on_frame: impl FnMut(&[u8]) -> ControlFlow<()>) -> Ended {
        match self.dialect {
            Dialect::Guide => self.reader.read(on_frame).await,
            Dialect::SocketIo => {
                let link = self.link.clone();
                self.reader
                    .read(|packet| match packet {
                        [b'2'] => {
                            link.send("3"); // engine.io's own ping.
                            ControlFlow::Continue(())
                        }
                        // 42["message",{…}]
                        [b'4', b'2', event @ ..] => match event.iter().position(|byte| *byte == b',') {
                            Some(comma) => on_frame(event[comma + 1..].strip_suffix(b"]").unwrap_or(event)),
                            None => ControlFlow::Continue(()),
                        },
                        _ => ControlFlow::Continue(()),
                    })
                    .await
            }
        }
    }

    /// Reads and ignores all frames until the server closes the socket. Returns the close code.
    pub async fn idle(mut self) -> Option<u16> {
        match self.receive(|_| ControlFlow::Continue(())).await {
            Ended::Closed(code) => code,
            Ended::Stopped => None,
        }
    }
}

impl Sender {
    /// Sends a chat message, whose text must need no escapes in JSON. Returns false if the server no longer reads.
    pub fn message(&self, text: &str) -> bool {
        match self.dialect {
            Dialect::Guide => self.link.send(&format!(r#"{{"message":"{text}"}}"#)),
            Dialect::SocketIo => self.link.send(&format!(r#"42["message",{{"message":"{text}"}}]"#)),
        }
    }

    /// Sends a typing state.
    pub fn typing(&self, is_typing: bool) -> bool {
        match self.dialect {
            Dialect::Guide => self.link.send(&format!(r#"{{"is_typing":{is_typing}}}"#)),
            Dialect::SocketIo => self.link.send(&format!(r#"42["typing",{{"is_typing":{is_typing}}}]"#)),
        }
    }

    /// Starts the closing handshake; the server then closes the connection.
    pub fn close(&self) {
        self.link.close();
    }
}

/// A server's frame, with the fields that the generator reads.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// Type of the frame.
    #[serde(rename = "type", borrow)]
    pub kind: &'a str,
    /// Number in the log, if the system has numbers.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Text of a message.
    #[serde(default, borrow)]
    pub content: Option<&'a str>,
    /// Typing state.
    #[serde(default)]
    pub is_typing: Option<bool>,
    /// Data of an event.
    #[serde(default, borrow)]
    pub data: Option<Data<'a>>,
}

/// Data of one of our events.
#[derive(Debug, Deserialize)]
pub struct Data<'a> {
    /// Text of its stamp.
    #[serde(default, borrow)]
    pub stamp: Option<&'a str>,
}

/// Identity of a message: its sender, its number, and the time at which it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Index of the sender in the conversation.
    pub sender: usize,
    /// Number of the message of this sender, from 0.
    pub number: u64,
    /// Time at which it was due, in nanoseconds of the run.
    pub due: u64,
}

impl Stamp {
    /// Formats the stamp as a text of at least this many characters.
    pub fn text(self, characters: usize) -> String {
        let mut text = format!("{} {} {} ", self.sender, self.number, self.due);
        text.extend(std::iter::repeat_n('.', characters.saturating_sub(text.len() + 1)));
        text.push('!'); // Servers trim texts.
        text
    }

    /// Parses such a text.
    pub fn of(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut part = || parts.next()?.parse::<u64>().ok();
        let (sender, number, due) = (part()?, part()?, part()?);
        Some(Self { sender: usize::try_from(sender).ok()?, number, due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_message() {
        let stamp = Stamp { sender: 3, number: 41, due: 1_234_567_890 };
        for characters in [0, 30, 200] {
            let text = stamp.text(characters);
            assert!(text.len() >= characters && text.trim() == text);
            assert_eq!(Stamp::of(&text), Some(stamp));
        }
        assert_eq!(Stamp::of("something else"), None);
    }
}
