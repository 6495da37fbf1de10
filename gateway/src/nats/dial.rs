//! Coming to a connection with a NATS server: which, encrypted or not, and as whom.

use super::{
    error::Lost,
    protocol::{self, Op},
};
use anyhow::Context;
use async_nats::{
    ServerAddr,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use bytes::{Buf, BytesMut};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use service::config;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long coming to a connection with one server may take.
const DIAL: Duration = Duration::from_secs(3);
/// Servers that are remembered, those of the configuration and those that others told of.
const SERVERS: usize = 64;
/// Bytes of a message that no server takes more than.
const MESSAGE: usize = 64 * 1024 * 1024;

/// Where NATS is, and as whom the gateway comes.
pub struct Dialer {
    servers: Vec<ServerAddr>,
    user: Option<(String, String)>,
    credentials: Option<Credentials>,
}

/// What a file of credentials holds.
struct Credentials {
    jwt: String,
    key: KeyPair,
}

/// Bytes to and from a server, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection on which the server has said that it takes us.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// What was read and not yet heard.
    pub buffer: BytesMut,
    /// Bytes of a message, at most.
    pub max: usize,
}

/// What a server is like.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    max_payload: usize,
    /// To be signed, where we come with credentials.
    #[serde(default)]
    nonce: String,
    /// The other servers.
    #[serde(default)]
    connect_urls: Vec<String>,
}

/// What we tell a server of ourselves.
#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'a str,
    version: &'a str,
    protocol: u8,
    headers: bool,
    echo: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl Dialer {
    /// Reads where NATS is, and the credentials.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub fn new(config: &config::Nats) -> anyhow::Result<Self> {
        let credentials = config.nats_creds.as_ref().map(|file| {
            let text = std::fs::read_to_string(file).context("NATS_CREDS names a file that can't be read")?;
            Credentials::parse(&text).context("NATS_CREDS names a file without credentials")
        });
        let servers = config.servers()?;
        Ok(Self { user: config::user_in(&servers), servers, credentials: credentials.transpose()? })
    }

    /// Tries each server once, in any order, until one takes us.
    ///
    /// # Errors
    /// Why the last one didn't.
    pub async fn dial(&mut self) -> Result<Connection, Lost> {
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        fastrand::shuffle(&mut order);
        let mut last = Lost::Closed;
        for index in order {
            let server = self.servers[index].clone();
            match timeout(DIAL, self.greet(&server)).await {
                Ok(Ok((connection, others))) => {
                    self.remember(&others);
                    return Ok(connection);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = Lost::Silent,
            }
        }
        Err(last)
    }

    /// A server said anew what it is like: servers of a cluster come and go.
    pub fn learn(&mut self, info: &str) {
        if let Ok(info) = serde_json::from_str::<Info>(info) {
            self.remember(&info.connect_urls);
        }
    }

    fn remember(&mut self, others: &[String]) {
        for server in others.iter().filter_map(|other| other.parse::<ServerAddr>().ok()) {
            if self.servers.len() < SERVERS && !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
    }

    async fn greet(&self, server: &ServerAddr) -> Result<(Connection, Vec<String>), Lost> {
        let addrs: Vec<_> = server.socket_addrs().await?.collect();
        let stream = TcpStream::connect(&addrs[..]).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream: Box::new(stream), buffer: BytesMut::new(), max: MESSAGE };
        let info = connection.info().await?;
        let tls_required = info.tls_required || server.tls_required();
        if tls_required {
            connection = connection.encrypted(server.host()).await?;
        }
        let greeting = serde_json::to_string(&self.introduction(&info.nonce, tls_required)?);
        let greeting = format!("CONNECT {}\r\nPING\r\n", greeting.map_err(io::Error::from)?);
        connection.stream.write_all(greeting.as_bytes()).await?;
        connection.stream.flush().await?;
        connection.accepted().await?;
        if info.max_payload > 0 {
            connection.max = info.max_payload.min(MESSAGE);
        }
        Ok((connection, info.connect_urls))
    }

    fn introduction(&self, nonce: &str, tls_required: bool) -> Result<Connect<'_>, Lost> {
        let sig = self.credentials.as_ref().map(|credentials| credentials.key.sign(nonce.as_bytes()));
        let sig = sig.transpose().map_err(|error| Lost::Refused(error.to_string()))?;
        Ok(Connect {
            verbose: false,
            pedantic: false,
            tls_required,
            name: "gateway events",
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1, // Servers that come and go are told.
            headers: true,
            echo: true,
            user: self.user.as_ref().map(|(user, _)| user.as_str()),
            pass: self.user.as_ref().map(|(_, password)| password.as_str()),
            jwt: self.credentials.as_ref().map(|credentials| credentials.jwt.as_str()),
            sig: sig.map(|signature| base64url(&signature)),
        })
    }
}

impl Connection {
    async fn info(&mut self) -> Result<Info, Lost> {
        loop {
            if let Some((op, len)) = protocol::decode(&self.buffer, self.max)? {
                let Op::Info(info) = op else { return Err(protocol::Broken::Unknown.into()) };
                let info = serde_json::from_str(info).map_err(io::Error::from)?;
                self.buffer.advance(len);
                return Ok(info);
            }
            self.read().await?;
        }
    }

    /// Waits until the server has answered the ping behind the introduction.
    async fn accepted(&mut self) -> Result<(), Lost> {
        loop {
            while let Some((op, len)) = protocol::decode(&self.buffer, self.max)? {
                match op {
                    Op::Pong => {
                        self.buffer.advance(len);
                        return Ok(());
                    }
                    Op::Error(why) => return Err(Lost::Refused(why.to_owned())),
                    // What it is like may change while it looks who we are.
                    Op::Info(_) | Op::Ok | Op::Ping | Op::Message(_) => self.buffer.advance(len),
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Lost> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 { Err(Lost::Closed) } else { Ok(()) }
    }

    async fn encrypted(self, host: &str) -> Result<Self, Lost> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(host, self.stream).await?;
        Ok(Self { stream: Box::new(stream), ..self })
    }
}

impl Credentials {
    /// A token and a seed, each between two lines of dashes.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().map(str::trim);
        let mut after = |name: &str| {
            lines.find(|line| line.starts_with("---") && line.contains(name));
            lines.next().context("it ends too early")
        };
        let jwt = after("BEGIN NATS USER JWT")?.to_owned();
        // Its text must not be part of an error.
        let key = KeyPair::from_seed(after("BEGIN USER NKEY SEED")?);
        Ok(Self { jwt, key: key.map_err(|_| anyhow::anyhow!("the seed can't be read"))? })
    }
}

/// Base64 with the letters for addresses, without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0, |number, index| {
            number << 8 | usize::from(three.get(index).copied().unwrap_or_default())
        });
        for index in 0..=three.len() {
            text.push(char::from(LETTERS[number >> (18 - 6 * index) & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_its_document_says() {
        // RFC 4648, section 10, and the two letters that differ.
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn credentials_sign_what_the_server_asks() {
        let pair = KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let file = format!(
            "-----BEGIN NATS USER JWT-----\r\neyJ0.abc\r\n------END NATS USER JWT------\r\n\r\n\
             *** IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let credentials = Credentials::parse(&file).unwrap();
        assert_eq!(credentials.jwt, "eyJ0.abc");
        pair.verify(b"nonce", &credentials.key.sign(b"nonce").unwrap()).unwrap();
        assert!(Credentials::parse("nothing").is_err());
        let Err(error) = Credentials::parse(&file.replace(&seed, "SUSECRET")) else { panic!("was taken") };
        assert!(!format!("{error:#}").contains("SUSECRET"));
    }
}
