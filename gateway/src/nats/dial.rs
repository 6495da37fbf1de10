//! Opens connections to NATS servers: chooses a server, encrypts the connection and authenticates the gateway.

use super::{
    error::ConnectionError,
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

/// Time limit of a connection attempt to one server.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of known servers: those of the configuration, and those that other servers have announced.
const SERVERS: usize = 64;
/// Maximum size of a message, in bytes. No server can be configured to accept more.
const MESSAGE: usize = 64 * 1024 * 1024;

/// The NATS servers, and the gateway's credentials.
pub struct Dialer {
    servers: Vec<ServerAddr>,
    user: Option<(String, String)>,
    credentials: Option<Credentials>,
}

/// The content of a credentials file.
struct Credentials {
    jwt: String,
    key: KeyPair,
}

/// A TCP or TLS stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that the server has accepted.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// Bytes that were read but not yet decoded.
    pub buffer: BytesMut,
    /// Maximum size of a message, in bytes.
    pub max: usize,
}

/// The server's `INFO`.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    max_payload: usize,
    /// Text to sign with the credentials.
    #[serde(default)]
    nonce: String,
    /// Addresses of the cluster's servers.
    #[serde(default)]
    connect_urls: Vec<String>,
}

/// The options of `CONNECT`.
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
    no_responders: bool,
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
    /// Reads the addresses and the credentials.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &config::Nats) -> anyhow::Result<Self> {
        let credentials = config.nats_creds.as_ref().map(|file| {
            let text = std::fs::read_to_string(file).context("NATS_CREDS names a file that can't be read")?;
            Credentials::parse(&text).context("NATS_CREDS names a file without credentials")
        });
        let servers = config.servers()?;
        let config::Servers { addresses, user } = servers;
        Ok(Self { servers: addresses, user, credentials: credentials.transpose()? })
    }

    /// Tries each server once, in random order, until one accepts the connection.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn dial(&mut self) -> Result<Connection, ConnectionError> {
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        fastrand::shuffle(&mut order);
        let mut last = ConnectionError::Closed;
        for index in order {
            let server = self.servers[index].clone();
            match timeout(DIAL_TIMEOUT, self.connect(&server)).await {
                Ok(Ok((connection, others))) => {
                    self.add_servers(&others);
                    return Ok(connection);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = ConnectionError::AnswerTimeout,
            }
        }
        Err(last)
    }

    /// Takes a later `INFO`, which a server sends when servers of its cluster come and go.
    pub fn update(&mut self, info: &str) {
        if let Ok(info) = serde_json::from_str::<Info>(info) {
            self.add_servers(&info.connect_urls);
        }
    }

    fn add_servers(&mut self, others: &[String]) {
        for server in others.iter().filter_map(|other| other.parse::<ServerAddr>().ok()) {
            if self.servers.len() < SERVERS && !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
    }

    /// Connects to a server. Also returns the addresses of the cluster's servers.
    async fn connect(&self, server: &ServerAddr) -> Result<(Connection, Vec<String>), ConnectionError> {
        let addrs: Vec<_> = server.socket_addrs().await?.collect();
        let stream = TcpStream::connect(&addrs[..]).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream: Box::new(stream), buffer: BytesMut::new(), max: MESSAGE };
        let info = connection.read_info().await?;
        let tls_required = info.tls_required || server.tls_required();
        if tls_required {
            connection = connection.encrypt(server.host()).await?;
        }
        let options = serde_json::to_string(&self.options(&info.nonce, tls_required)?);
        let commands = format!("CONNECT {}\r\nPING\r\n", options.map_err(io::Error::from)?);
        connection.stream.write_all(commands.as_bytes()).await?;
        connection.stream.flush().await?;
        connection.read_pong().await?;
        if info.max_payload > 0 {
            connection.max = info.max_payload.min(MESSAGE);
        }
        Ok((connection, info.connect_urls))
    }

    fn options(&self, nonce: &str, tls_required: bool) -> Result<Connect<'_>, ConnectionError> {
        let sig = self.credentials.as_ref().map(|credentials| credentials.key.sign(nonce.as_bytes()));
        let sig = sig.transpose().map_err(|error| ConnectionError::Refused(error.to_string()))?;
        Ok(Connect {
            verbose: false,
            pedantic: false,
            tls_required,
            name: "gateway",
            lang: "rust",
            version: service::version::VERSION,
            protocol: 1, // The server sends `INFO` when the cluster changes.
            headers: true,
            no_responders: true,
            echo: true,
            user: self.user.as_ref().map(|(user, _)| user.as_str()),
            pass: self.user.as_ref().map(|(_, password)| password.as_str()),
            jwt: self.credentials.as_ref().map(|credentials| credentials.jwt.as_str()),
            sig: sig.map(|signature| base64url(&signature)),
        })
    }
}

impl Connection {
    async fn read_info(&mut self) -> Result<Info, ConnectionError> {
        loop {
            if let Some((op, len)) = protocol::decode(&self.buffer, self.max)? {
                let Op::Info(info) = op else { return Err(protocol::ProtocolError::InvalidLine.into()) };
                let info = serde_json::from_str(info).map_err(io::Error::from)?;
                self.buffer.advance(len);
                return Ok(info);
            }
            self.read().await?;
        }
    }

    /// Waits for the answer to the ping behind `CONNECT`, which shows that the server accepts the connection.
    async fn read_pong(&mut self) -> Result<(), ConnectionError> {
        loop {
            while let Some((op, len)) = protocol::decode(&self.buffer, self.max)? {
                match op {
                    Op::Pong => {
                        self.buffer.advance(len);
                        return Ok(());
                    }
                    Op::Error(reason) => return Err(ConnectionError::Refused(reason.to_owned())),
                    // The cluster may change during authentication.
                    Op::Info(_) | Op::Ok | Op::Ping | Op::Message(_) => self.buffer.advance(len),
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ConnectionError> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(ConnectionError::Closed);
        }
        Ok(())
    }

    async fn encrypt(self, host: &str) -> Result<Self, ConnectionError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(host, self.stream).await?;
        Ok(Self { stream: Box::new(stream), ..self })
    }
}

impl Credentials {
    /// Parses a token and a seed, each between two lines of dashes.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().map(str::trim);
        let mut after = |name: &str| {
            lines.find(|line| line.starts_with("---") && line.contains(name));
            lines.next().context("the file ends too early")
        };
        let jwt = after("BEGIN NATS USER JWT")?.to_owned();
        // The seed must not be part of an error.
        let key = KeyPair::from_seed(after("BEGIN USER NKEY SEED")?);
        Ok(Self { jwt, key: key.map_err(|_| anyhow::anyhow!("the seed is invalid"))? })
    }
}

/// Base64 with the URL-safe alphabet and without padding.
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
    fn base64_matches_the_rfc() {
        // The test vectors of RFC 4648, section 10, and the two characters of the URL-safe alphabet.
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn credentials_sign_the_servers_nonce() {
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
        let Err(error) = Credentials::parse(&file.replace(&seed, "SUSECRET")) else { panic!("accepted") };
        assert!(!format!("{error:#}").contains("SUSECRET"));
    }
}
