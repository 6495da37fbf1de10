//! What load is put on, and how it is talked to.

use crate::{
    link::{self, Ended, Link, Reader, Refused},
    processes::Watched,
};
use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use std::{
    net::SocketAddr,
    ops::ControlFlow,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A system under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name in reports.
    pub name: String,
    /// How its clients talk.
    pub dialect: Dialect,
    /// Where clients connect, in turn.
    pub addresses: Vec<SocketAddr>,
    /// What signs its tokens.
    pub secret: String,
    /// What runs of it.
    pub processes: Vec<Watched>,
    /// Its NATS, if it has one.
    pub nats: Option<String>,
    /// Its Postgres.
    pub database: Option<String>,
    /// Statements that make conversations in its Postgres, where it has no other way.
    pub conversations: Option<&'static str>,
}

/// How clients talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A socket for each conversation, frames of JSON: the guide's, which ours is, too.
    Guide,
    /// Socket.IO over WebSocket: engine.io packets around `["event", …]`.
    SocketIo,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A conversation.
    Chat(i64),
    /// A conversation, from after this message on.
    ChatAfter(i64, i64),
    /// Who types in a conversation.
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

/// What a user is called, in tokens and wherever a backend names it.
pub fn username(user: i64) -> String {
    format!("user{user}")
}

impl Target {
    /// What its process is called that holds the clients' sockets: the first of all.
    pub fn front(&self) -> &str {
        self.processes.first().map_or("", |process| &process.name)
    }

    /// A token as the marketplace's backend issues it.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn token(&self, user: i64) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("tell the time")?.as_secs();
        let claims = json!({"user_id": user, "username": username(user), "token_type": "access",
            "iat": now, "exp": now + 3 * 3600, "jti": format!("{user:032x}")});
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).context("sign a token")
    }

    /// Opens a socket in a user's name; it is of use when this returns. `number` says which socket of all it is.
    ///
    /// # Errors
    /// When it is refused.
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

/// A client that is connected.
#[derive(Debug)]
pub struct Client {
    link: Rc<Link>,
    reader: Reader,
    dialect: Dialect,
}

/// What a client sends with.
#[derive(Debug, Clone)]
pub struct Sender {
    link: Rc<Link>,
    dialect: Dialect,
}

impl Client {
    /// What it sends with.
    pub fn sender(&self) -> Sender {
        Sender { link: self.link.clone(), dialect: self.dialect }
    }

    /// Socket.IO's own handshake, inside of the socket's.
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
            Ended::Enough if joined => Ok(()),
            Ended::Enough => Err(Refused::Closed(None)),
            Ended::Closed(code) => Err(Refused::Closed(code)),
        }
    }

    /// Gives the JSON of every frame to `on_frame`, until that has enough or the server closes the socket.
    pub async fn hear(&mut self, mut on_frame: impl FnMut(&[u8]) -> ControlFlow<()>) -> Ended {
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

    /// Reads only what keeps it alive, until the server closes it.
    pub async fn idle(mut self) -> Option<u16> {
        match self.hear(|_| ControlFlow::Continue(())).await {
            Ended::Closed(code) => code,
            Ended::Enough => None,
        }
    }
}

impl Sender {
    /// Sends a chat message; the text needs no escapes in JSON. False if the server doesn't read any more.
    pub fn message(&self, text: &str) -> bool {
        match self.dialect {
            Dialect::Guide => self.link.send(&format!(r#"{{"message":"{text}"}}"#)),
            Dialect::SocketIo => self.link.send(&format!(r#"42["message",{{"message":"{text}"}}]"#)),
        }
    }

    /// Says whether the user types.
    pub fn typing(&self, is_typing: bool) -> bool {
        match self.dialect {
            Dialect::Guide => self.link.send(&format!(r#"{{"is_typing":{is_typing}}}"#)),
            Dialect::SocketIo => self.link.send(&format!(r#"42["typing",{{"is_typing":{is_typing}}}]"#)),
        }
    }

    /// Says goodbye; the server ends the connection.
    pub fn close(&self) {
        self.link.close();
    }
}

/// A server's frame, as much of it as the generator looks at.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// Its type.
    #[serde(rename = "type", borrow)]
    pub kind: &'a str,
    /// Its number in its log, where the system has that.
    #[serde(default)]
    pub seq: Option<u64>,
    /// A message's text.
    #[serde(default, borrow)]
    pub content: Option<&'a str>,
    /// Whether someone types.
    #[serde(default)]
    pub is_typing: Option<bool>,
    /// What an event said.
    #[serde(default, borrow)]
    pub data: Option<Data<'a>>,
}

/// What an event of ours said.
#[derive(Debug, Deserialize)]
pub struct Data<'a> {
    /// Its stamp.
    #[serde(default, borrow)]
    pub stamp: Option<&'a str>,
}

/// What each message carries to be known by: its sender's place, its number, and when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which of the conversation's senders.
    pub sender: usize,
    /// Which of the sender's messages, from 0.
    pub number: u64,
    /// When it was due, in nanoseconds of the run.
    pub due: u64,
}

impl Stamp {
    /// As text of at least this many characters.
    pub fn text(self, characters: usize) -> String {
        let mut text = format!("{} {} {} ", self.sender, self.number, self.due);
        text.extend(std::iter::repeat_n('.', characters.saturating_sub(text.len() + 1)));
        text.push('!'); // Servers trim.
        text
    }

    /// From such a text.
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
