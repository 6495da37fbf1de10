//! A system under load, and its clients.

use crate::{
    link::{self, Ended, Link, Reader, Refused},
    processes::Watched,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};
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
    /// Centrifugo's JSON protocol: commands and replies, one in each line.
    Centrifugo,
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

    const fn conversation(self) -> Option<i64> {
        match self {
            Self::Chat(id) | Self::ChatAfter(id, _) | Self::Typing(id) => Some(id),
            Self::Notifications => None,
        }
    }

    /// Name of the channel in Centrifugo, which takes the part before the colon as the namespace.
    fn in_namespace(self) -> String {
        self.conversation().map_or("notifications".to_owned(), |id| format!("conversation:{id}"))
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
    fn token(&self, channel: Channel, user: i64) -> anyhow::Result<String> {
        let mut claims = json!({"user_id": user, "username": username(user), "token_type": "access",
            "iat": testkit::token::now(), "jti": format!("{user:032x}")});
        if self.dialect == Dialect::Centrifugo {
            claims["sub"] = json!(user.to_string());
            claims["channels"] = json!([channel.in_namespace()]); // The server subscribes the client to these.
        }
        testkit::token::sign(&self.secret, claims, Duration::from_secs(3 * 3600))
    }

    /// Opens a socket for a user. It is ready for use when this returns. `number` is the number of the socket in the
    /// run.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn open(&self, channel: Channel, user: i64, number: usize) -> Result<Client, Refused> {
        let token = self.token(channel, user).map_err(std::io::Error::other)?;
        let address = self.addresses[number % self.addresses.len()];
        let path = match self.dialect {
            Dialect::Guide => match channel {
                Channel::ChatAfter(_, after) => format!("{}?after={after}&token={token}", channel.path()),
                _ => format!("{}?token={token}", channel.path()),
            },
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            Dialect::Centrifugo => "/connection/websocket".to_owned(),
        };
        let (link, reader) = link::open(address, &path, number).await?;
        let mut client = Client { link, reader, dialect: self.dialect, channel };
        client.join(&token).await?;
        Ok(client)
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    link: Rc<Link>,
    reader: Reader,
    dialect: Dialect,
    channel: Channel,
}

/// The sending half of a client.
#[derive(Debug, Clone)]
pub struct Sender {
    link: Rc<Link>,
    dialect: Dialect,
    channel: Channel,
}

impl Client {
    /// Returns the sending half.
    pub fn sender(&self) -> Sender {
        Sender { link: self.link.clone(), dialect: self.dialect, channel: self.channel }
    }

    /// Performs the peer's own handshake, inside the socket.
    async fn join(&mut self, token: &str) -> Result<(), Refused> {
        match self.dialect {
            Dialect::Guide => Ok(()),
            Dialect::SocketIo => {
                let auth = json!({"token": token, "conversation_id": self.channel.conversation()});
                let link = self.link.clone();
                let on_packet = |packet: &[u8]| match packet {
                    [b'0', ..] => {
                        link.send(&format!("40{auth}"));
                        None
                    }
                    [b'4', b'0', ..] => Some(true),
                    _ => Some(false),
                };
                self.joined(on_packet).await
            }
            Dialect::Centrifugo => {
                self.link.send(&json!({"id": 1, "connect": {"token": token}}).to_string());
                let on_packet = |packet: &[u8]| Some(replies(packet).any(|reply| reply.connect.is_some()));
                self.joined(on_packet).await
            }
        }
    }

    /// Waits until `on_packet` says whether the server has accepted the client.
    async fn joined(&mut self, mut on_packet: impl FnMut(&[u8]) -> Option<bool>) -> Result<(), Refused> {
        let mut joined = false;
        let ended = self.reader.read(|packet| match on_packet(packet) {
            Some(accepted) => {
                joined = accepted;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        });
        match ended.await {
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
            Dialect::Centrifugo => {
                let link = self.link.clone();
                self.reader
                    .read(|packet| {
                        for reply in replies(packet) {
                            match reply {
                                Reply { push: Some(Push { publication: Some(publication) }), .. } => {
                                    on_frame(publication.data.get().as_bytes())?;
                                }
                                Reply { error: Some(_), .. } => on_frame(br#"{"type":"error"}"#)?,
                                Reply { id: None, push: None, .. } => {
                                    link.send("{}"); // An empty reply is a ping, an empty command a pong.
                                }
                                _ => {}
                            }
                        }
                        ControlFlow::Continue(())
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
            Dialect::Centrifugo => self.publish(&format!(r#"{{"type":"message","content":"{text}"}}"#)),
        }
    }

    /// Sends a typing state.
    pub fn typing(&self, is_typing: bool) -> bool {
        match self.dialect {
            Dialect::Guide => self.link.send(&format!(r#"{{"is_typing":{is_typing}}}"#)),
            Dialect::SocketIo => self.link.send(&format!(r#"42["typing",{{"is_typing":{is_typing}}}]"#)),
            Dialect::Centrifugo => self.publish(&format!(r#"{{"type":"typing","is_typing":{is_typing}}}"#)),
        }
    }

    /// Publishes a frame in Centrifugo, which delivers it unchanged.
    fn publish(&self, frame: &str) -> bool {
        let channel = self.channel.in_namespace();
        self.link.send(&format!(r#"{{"id":2,"publish":{{"channel":"{channel}","data":{frame}}}}}"#))
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

/// A reply of Centrifugo, with the fields that the generator reads.
#[derive(Debug, Deserialize)]
struct Reply<'a> {
    /// Id of the command.
    id: Option<u32>,
    /// The command was not carried out.
    error: Option<IgnoredAny>,
    /// The client is connected.
    connect: Option<IgnoredAny>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

/// Something that the client receives without a command.
#[derive(Debug, Deserialize)]
struct Push<'a> {
    #[serde(rename = "pub", borrow)]
    publication: Option<Publication<'a>>,
}

#[derive(Debug, Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The replies in one packet of Centrifugo.
fn replies(packet: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    packet.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
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

    #[test]
    fn a_packet_of_centrifugo_has_several_replies() {
        let packet = br#"{"id":2,"publish":{}}
{"push":{"channel":"conversation:5","pub":{"data":{"type":"message"},"info":{"user":"1"}}}}
{"id":2,"error":{"code":103}}
{}
"#;
        let mut replies = replies(packet);
        let mut next = || replies.next().unwrap();
        assert!(matches!(next(), Reply { id: Some(2), error: None, push: None, .. }));
        let data = next().push.and_then(|push| push.publication).map(|publication| publication.data.get());
        assert_eq!(data, Some(r#"{"type":"message"}"#));
        assert!(next().error.is_some());
        assert!(matches!(next(), Reply { id: None, error: None, connect: None, push: None }));
        assert!(replies.next().is_none());
    }
}
