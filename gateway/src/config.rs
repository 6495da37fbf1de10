//! The gateway's configuration.

use clap::{Args, Parser, ValueEnum};
use service::config::{Nats, Telemetry};
use std::{fmt, net::SocketAddr};

/// Lets clients in: WebSockets and HTTP on one side, NATS on the other.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Config {
    /// NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// Logs.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Tokens.
    #[command(flatten)]
    pub tokens: Tokens,
    /// Where clients connect
    #[arg(long, env = "GATEWAY_ADDR", default_value = "0.0.0.0:8000")]
    pub gateway_addr: SocketAddr,
    /// Instead of GATEWAY_ADDR: this port on every address
    #[arg(long, env = "PORT")]
    pub port: Option<u16>,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9000")]
    pub admin_addr: SocketAddr,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
    /// Origins whose pages may connect, separated by commas; * for all. A page of the gateway's own origin always may
    #[arg(long, env = "ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Frames that wait for one client, at most; more closes it with 1013
    #[arg(long, env = "OUTBOX_FRAMES", default_value = "1024", value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub outbox_frames: u32,
    /// Bytes that wait for one client, at most; more closes it with 1013
    #[arg(long, env = "OUTBOX_BYTES", default_value = "1048576", value_parser = clap::value_parser!(u32).range(131_072..))]
    pub outbox_bytes: u32,
    /// Seconds over which sockets are closed when the gateway stops
    #[arg(long, env = "DRAIN_SECONDS", default_value = "10", value_parser = clap::value_parser!(u8).range(0..=20))]
    pub drain_seconds: u8,
    /// Serves the demo page at /demo/
    #[arg(long, env = "DEMO")]
    pub demo: bool,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}

impl Config {
    /// Where clients connect.
    pub fn listen_addr(&self) -> SocketAddr {
        match self.port {
            Some(port) => SocketAddr::from(([0, 0, 0, 0], port)),
            None => self.gateway_addr,
        }
    }

    /// Whether pages of any origin may connect.
    pub fn allows_every_origin(&self) -> bool {
        self.allowed_origins.iter().any(|origin| origin.trim() == "*")
    }
}

/// How much one user, one address and everyone together may ask.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Messages of one user per second; 0 for no limit
    #[arg(long, env = "SEND_RATE", default_value = "10")]
    pub send_rate: u32,
    /// Messages of one user at once
    #[arg(long, env = "SEND_BURST", default_value = "40")]
    pub send_burst: u32,
    /// Messages of one user in one conversation per second; 0 for no more than SEND_RATE
    #[arg(long, env = "CONVERSATION_SEND_RATE", default_value = "0")]
    pub conversation_send_rate: u32,
    /// Messages of one user in one conversation at once
    #[arg(long, env = "CONVERSATION_SEND_BURST", default_value = "20")]
    pub conversation_send_burst: u32,
    /// Starts and ends of typing of one user per second; 0 for no limit
    #[arg(long, env = "TYPING_RATE", default_value = "10")]
    pub typing_rate: u32,
    /// Starts and ends of typing of one user at once
    #[arg(long, env = "TYPING_BURST", default_value = "40")]
    pub typing_burst: u32,
    /// Calls of the HTTP API of one user per second; 0 for no limit
    #[arg(long, env = "CALL_RATE", default_value = "50")]
    pub call_rate: u32,
    /// Calls of the HTTP API of one user at once
    #[arg(long, env = "CALL_BURST", default_value = "200")]
    pub call_burst: u32,
    /// Conversations that one user opens per second; 0 for no limit
    #[arg(long, env = "CONVERSATION_RATE", default_value = "1")]
    pub conversation_rate: u32,
    /// Conversations that one user opens at once
    #[arg(long, env = "CONVERSATION_BURST", default_value = "30")]
    pub conversation_burst: u32,
    /// Read markers of one user, over sockets, per second; 0 for no limit
    #[arg(long, env = "READ_RATE", default_value = "50")]
    pub read_rate: u32,
    /// Read markers of one user, over sockets, at once
    #[arg(long, env = "READ_BURST", default_value = "200")]
    pub read_burst: u32,
    /// Frames of any kind of one user per second, over all sockets; 0 for no limit
    #[arg(long, env = "FRAME_RATE", default_value = "200")]
    pub frame_rate: u32,
    /// Frames of any kind of one user at once
    #[arg(long, env = "FRAME_BURST", default_value = "2000")]
    pub frame_burst: u32,
    /// Subscriptions of one user on multiplexed sockets per second; 0 for no limit
    #[arg(long, env = "SUBSCRIBE_RATE", default_value = "50")]
    pub subscribe_rate: u32,
    /// Subscriptions of one user on multiplexed sockets at once
    #[arg(long, env = "SUBSCRIBE_BURST", default_value = "500")]
    pub subscribe_burst: u32,
    /// Sockets of one user at this gateway
    #[arg(long, env = "SOCKETS_PER_USER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub sockets_per_user: u32,
    /// Handshakes from one address per second; 0 for no limit
    #[arg(long, env = "HANDSHAKE_RATE", default_value = "1000")]
    pub handshake_rate: u32,
    /// Handshakes from one address at once
    #[arg(long, env = "HANDSHAKE_BURST", default_value = "10000")]
    pub handshake_burst: u32,
    /// Handshakes under way at once; a few more wait, the rest is told to come again
    #[arg(long, env = "HANDSHAKES_UNDER_WAY", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub handshakes_under_way: u32,
    /// Bytes of a request's head
    #[arg(long, env = "HEAD_BYTES", default_value = "16384", value_parser = clap::value_parser!(u32).range(8192..=1_048_576))]
    pub head_bytes: u32,
    /// Seconds that a request's head may take, and that a connection may be kept without one
    #[arg(long, env = "HEAD_SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub head_seconds: u16,
    /// Bytes of a request's body
    #[arg(long, env = "BODY_BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(16_384..=1_048_576))]
    pub body_bytes: u32,
    /// Seconds that a request's body may take
    #[arg(long, env = "BODY_SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub body_seconds: u16,
    /// Bytes of a frame, or of a message in several; more closes the socket with 1009
    #[arg(long, env = "FRAME_BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(16_384..=1_048_576))]
    pub frame_bytes: u32,
    /// Seconds without a sign of life after which a socket is closed; it is pinged after five twelfths of them
    #[arg(long, env = "IDLE_SECONDS", default_value = "60", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub idle_seconds: u16,
    /// Networks, separated by commas, whose X-Forwarded-For is believed
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Days for which a revocation is remembered: as long as a token can live
    #[arg(long, env = "REVOCATION_DAYS", default_value = "90", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub revocation_days: u32,
}

/// How tokens are checked.
#[derive(Clone, Args)]
#[group(skip)]
pub struct Tokens {
    /// Key of HS256 tokens; exactly one of this and the next two is needed
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Public key in PEM form of RS256, ES256 or EdDSA tokens
    #[arg(long, env = "JWT_PUBLIC_KEY")]
    pub jwt_public_key: Option<String>,
    /// Where the public keys of RS256, ES256 and EdDSA tokens are published (a JSON Web Key Set, over http or https)
    #[arg(long, env = "JWT_JWKS_URL", hide_env_values = true)]
    pub jwt_jwks_url: Option<String>,
    /// The only issuer whose tokens are taken
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The audience that tokens must be for
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// The cookie that a page's sockets bring their token in, where they bring it in no other way
    #[arg(long, env = "TOKEN_COOKIE", value_parser = cookie_name)]
    pub token_cookie: Option<String>,
    /// Whether sockets close when their token ends, or it only matters at the handshake
    #[arg(long, env = "TOKEN_EXPIRY", value_enum, default_value_t = TokenExpiry::Enforce)]
    pub token_expiry: TokenExpiry,
    /// The claim that holds the user's id
    #[arg(long, env = "USER_ID_CLAIM", default_value = "user_id")]
    pub user_id_claim: String,
    /// The claim that holds the user's display name
    #[arg(long, env = "USERNAME_CLAIM", default_value = "username")]
    pub username_claim: String,
}

fn cookie_name(name: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err("a cookie's name has letters, digits and a few signs such as _ and -");
    }
    Ok(name.to_owned())
}

impl fmt::Debug for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tokens").field("token_expiry", &self.token_expiry).finish_non_exhaustive()
    }
}

/// When a token's end matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenExpiry {
    /// Always.
    Enforce,
    /// At the handshake only.
    Handshake,
}

#[cfg(test)]
impl Limits {
    /// No limits, for tests of something else.
    pub fn unlimited() -> Self {
        Self {
            send_rate: 0,
            send_burst: 0,
            conversation_send_rate: 0,
            conversation_send_burst: 0,
            typing_rate: 0,
            typing_burst: 0,
            call_rate: 0,
            call_burst: 0,
            conversation_rate: 0,
            conversation_burst: 0,
            read_rate: 0,
            read_burst: 0,
            frame_rate: 0,
            frame_burst: 0,
            subscribe_rate: 0,
            subscribe_burst: 0,
            sockets_per_user: u32::MAX,
            handshake_rate: 0,
            handshake_burst: 0,
            handshakes_under_way: 1_000,
            head_bytes: 16_384,
            head_seconds: 10,
            body_bytes: 65_536,
            body_seconds: 10,
            frame_bytes: 65_536,
            idle_seconds: 60,
            trusted_proxies: Vec::new(),
            revocation_days: 1,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Tokens signed with a secret of the tests.
    pub fn tokens() -> Tokens {
        Tokens {
            jwt_secret: Some("a secret of the tests".into()),
            jwt_public_key: None,
            jwt_jwks_url: None,
            jwt_issuer: None,
            jwt_audience: None,
            token_cookie: Some("access_token".into()),
            token_expiry: TokenExpiry::Enforce,
            user_id_claim: "user_id".into(),
            username_claim: "username".into(),
        }
    }

    #[test]
    fn a_configuration_with_secrets_shows_none() {
        let arguments = ["gateway", "--jwt-secret", "hush", "--nats-url", "nats://user:hush@127.0.0.1"];
        let shown = format!("{:?}", Config::parse_from(arguments));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
