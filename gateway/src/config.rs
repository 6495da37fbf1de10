//! The gateway's configuration.

use clap::{Args, Parser, ValueEnum};
use service::config::{Nats, Switch, Telemetry};
use std::{fmt, net::SocketAddr, path::PathBuf};

/// Connects clients (WebSockets and HTTP) with the services (NATS).
#[derive(Debug, Clone, Parser)]
#[command(version = service::version::text())]
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
    /// Address for clients
    #[arg(long, env = "GATEWAY_ADDR", default_value = "0.0.0.0:8000")]
    pub gateway_addr: SocketAddr,
    /// Port for clients, on all IPv4 addresses; replaces GATEWAY_ADDR
    #[arg(long, env = "PORT")]
    pub port: Option<u16>,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9000")]
    pub admin_addr: SocketAddr,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
    /// Backends.
    #[command(flatten)]
    pub backends: Backends,
    /// Origins whose pages may connect, separated by commas; * for all. Pages of the gateway's own origin may always
    /// connect
    #[arg(long, env = "ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Maximum number of frames that wait for one client; beyond it, the socket is closed with 1013
    #[arg(long, env = "OUTBOX_FRAMES", default_value = "1024", value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub outbox_frames: u32,
    /// Maximum number of bytes that wait for one client; beyond it, the socket is closed with 1013
    #[arg(long, env = "OUTBOX_BYTES", default_value = "1048576", value_parser = clap::value_parser!(u32).range(131_072..))]
    pub outbox_bytes: u32,
    /// Minimum time between two batches of messages to chat-service, in milliseconds, unless the first is full or both
    /// come from one sender alone; 0 for none. A longer time costs less CPU where messages are few
    #[arg(long, env = "SEND_GATHER_MS", default_value = "3", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub send_gather_ms: u8,
    /// Whether to know and show which users are present: on or off; the same for all services
    #[arg(long, env = "PRESENCE", value_enum, default_value_t = Switch::On)]
    pub presence: Switch,
    /// Maximum number of people in a conversation whose presence is shown to each other
    #[arg(long, env = "PRESENCE_PEOPLE", default_value = "10", value_parser = clap::value_parser!(u8).range(2..=100))]
    pub presence_people: u8,
    /// Maximum number of seconds over which sockets are closed when the gateway stops
    #[arg(long, env = "DRAIN_SECONDS", default_value = "10", value_parser = clap::value_parser!(u8).range(0..=20))]
    pub drain_seconds: u8,
    /// Whether to serve the demo page at /demo/
    #[arg(long, env = "DEMO")]
    pub demo: bool,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}

impl Config {
    /// The address for clients.
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

/// Limits for one user, for one address and for the gateway.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Messages of one user per second; 0 for no limit
    #[arg(long, env = "SEND_RATE", default_value = "10")]
    pub send_rate: u32,
    /// Messages of one user in a burst
    #[arg(long, env = "SEND_BURST", default_value = "40")]
    pub send_burst: u32,
    /// Messages of one user in one conversation per second; 0 for no limit beyond SEND_RATE
    #[arg(long, env = "CONVERSATION_SEND_RATE", default_value = "0")]
    pub conversation_send_rate: u32,
    /// Messages of one user in one conversation in a burst
    #[arg(long, env = "CONVERSATION_SEND_BURST", default_value = "20")]
    pub conversation_send_burst: u32,
    /// Starts and ends of typing of one user per second; 0 for no limit
    #[arg(long, env = "TYPING_RATE", default_value = "10")]
    pub typing_rate: u32,
    /// Starts and ends of typing of one user in a burst
    #[arg(long, env = "TYPING_BURST", default_value = "40")]
    pub typing_burst: u32,
    /// HTTP API calls of one user per second; 0 for no limit
    #[arg(long, env = "CALL_RATE", default_value = "50")]
    pub call_rate: u32,
    /// HTTP API calls of one user in a burst
    #[arg(long, env = "CALL_BURST", default_value = "200")]
    pub call_burst: u32,
    /// HTTP API calls of one backend per second; 0 for no limit
    #[arg(long, env = "BACKEND_RATE", default_value = "500")]
    pub backend_rate: u32,
    /// Conversations that one user opens per second; 0 for no limit
    #[arg(long, env = "CONVERSATION_RATE", default_value = "1")]
    pub conversation_rate: u32,
    /// Conversations that one user opens in a burst
    #[arg(long, env = "CONVERSATION_BURST", default_value = "30")]
    pub conversation_burst: u32,
    /// Read markers of one user per second, sent over sockets; 0 for no limit
    #[arg(long, env = "READ_RATE", default_value = "50")]
    pub read_rate: u32,
    /// Read markers of one user in a burst, sent over sockets
    #[arg(long, env = "READ_BURST", default_value = "200")]
    pub read_burst: u32,
    /// Frames of any kind of one user per second, over all of the user's sockets; 0 for no limit
    #[arg(long, env = "FRAME_RATE", default_value = "200")]
    pub frame_rate: u32,
    /// Frames of any kind of one user in a burst
    #[arg(long, env = "FRAME_BURST", default_value = "2000")]
    pub frame_burst: u32,
    /// Subscriptions of one user on multiplexed sockets per second; 0 for no limit
    #[arg(long, env = "SUBSCRIBE_RATE", default_value = "50")]
    pub subscribe_rate: u32,
    /// Subscriptions of one user on multiplexed sockets in a burst
    #[arg(long, env = "SUBSCRIBE_BURST", default_value = "500")]
    pub subscribe_burst: u32,
    /// Maximum number of sockets of one user on this gateway
    #[arg(long, env = "SOCKETS_PER_USER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub sockets_per_user: u32,
    /// Handshakes from one address per second; 0 for no limit
    #[arg(long, env = "HANDSHAKE_RATE", default_value = "1000")]
    pub handshake_rate: u32,
    /// Handshakes from one address in a burst
    #[arg(long, env = "HANDSHAKE_BURST", default_value = "10000")]
    pub handshake_burst: u32,
    /// Maximum number of handshakes in progress; up to 16 times as many wait, further ones are refused with 503
    #[arg(long, env = "HANDSHAKES_UNDER_WAY", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub handshakes_under_way: u32,
    /// Maximum number of bytes of a request's head
    #[arg(long, env = "HEAD_BYTES", default_value = "16384", value_parser = clap::value_parser!(u32).range(8192..=1_048_576))]
    pub head_bytes: u32,
    /// Seconds in which a request's head must arrive, and after which a connection without a request is closed
    #[arg(long, env = "HEAD_SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub head_seconds: u16,
    /// Maximum number of bytes of a request's body
    #[arg(long, env = "BODY_BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(16_384..=1_048_576))]
    pub body_bytes: u32,
    /// Seconds in which a request's body must arrive
    #[arg(long, env = "BODY_SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub body_seconds: u16,
    /// Maximum number of bytes of a message, in one frame or several; a larger one closes the socket with 1009
    #[arg(long, env = "FRAME_BYTES", default_value = "65536", value_parser = clap::value_parser!(u32).range(16_384..=1_048_576))]
    pub frame_bytes: u32,
    /// Seconds after which a socket is closed if nothing is received from its client; it is pinged after 5/12 of this
    /// time
    #[arg(long, env = "IDLE_SECONDS", default_value = "60", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub idle_seconds: u16,
    /// Networks of proxies, separated by commas, whose X-Forwarded-For or Forwarded header is trusted
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Days for which a revocation is kept: at least the lifetime of a token
    #[arg(long, env = "REVOCATION_DAYS", default_value = "90", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub revocation_days: u32,
}

/// Access of backends over HTTP.
#[derive(Clone, Default, Args)]
#[group(skip)]
pub struct Backends {
    /// Keys of backends, as name:secret or name:secret:scope+scope, separated by commas; with any, backends may use
    /// /backend/. Two keys may have one name
    #[arg(long, env = "BACKEND_KEYS", hide_env_values = true)]
    pub backend_keys: Option<String>,
    /// File with keys of backends, separated by commas or line breaks; replaces BACKEND_KEYS
    #[arg(long, env = "BACKEND_KEYS_FILE")]
    pub backend_keys_file: Option<PathBuf>,
}

impl fmt::Debug for Backends {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Backends").finish_non_exhaustive()
    }
}

/// Settings of the token check.
#[derive(Clone, Args)]
#[group(skip)]
pub struct Tokens {
    /// Key of HS256 tokens. Set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Public key of RS256, ES256 or EdDSA tokens, in PEM format
    #[arg(long, env = "JWT_PUBLIC_KEY")]
    pub jwt_public_key: Option<String>,
    /// The former JWT_SECRET, whose tokens are still accepted during a rotation
    #[arg(long, env = "JWT_SECRET_PREVIOUS", hide_env_values = true)]
    pub jwt_secret_previous: Option<String>,
    /// The former JWT_PUBLIC_KEY, whose tokens are still accepted during a rotation
    #[arg(long, env = "JWT_PUBLIC_KEY_PREVIOUS")]
    pub jwt_public_key_previous: Option<String>,
    /// http or https URL of a JSON Web Key Set with the public keys of RS256, ES256 and EdDSA tokens
    #[arg(long, env = "JWT_JWKS_URL", hide_env_values = true)]
    pub jwt_jwks_url: Option<String>,
    /// Issuer that tokens must name; any if unset
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience that tokens must name; any if unset
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Cookie with the token of a page's sockets, used if the handshake contains no other token
    #[arg(long, env = "TOKEN_COOKIE", value_parser = cookie_name)]
    pub token_cookie: Option<String>,
    /// Whether a socket is closed when its token expires, or expiry is checked at the handshake only
    #[arg(long, env = "TOKEN_EXPIRY", value_enum, default_value_t = TokenExpiry::Enforce)]
    pub token_expiry: TokenExpiry,
    /// Claim with the user's id
    #[arg(long, env = "USER_ID_CLAIM", default_value = "user_id")]
    pub user_id_claim: String,
    /// Claim with the user's display name
    #[arg(long, env = "USERNAME_CLAIM", default_value = "username")]
    pub username_claim: String,
}

fn cookie_name(name: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err("a cookie name consists of letters, digits and a few other characters such as _ and -");
    }
    Ok(name.to_owned())
}

impl fmt::Debug for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tokens").field("token_expiry", &self.token_expiry).finish_non_exhaustive()
    }
}

/// The time at which the expiry of tokens is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenExpiry {
    /// At the handshake and while the socket is open.
    Enforce,
    /// At the handshake only.
    Handshake,
}

#[cfg(test)]
impl Limits {
    /// No rate limits, for tests of something else.
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
            backend_rate: 0,
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

    /// The settings for tokens that are signed with the tests' secret.
    pub fn tokens() -> Tokens {
        Tokens {
            jwt_secret: Some("a secret of the tests".into()),
            jwt_public_key: None,
            jwt_secret_previous: None,
            jwt_public_key_previous: None,
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
    fn debug_output_contains_no_secrets() {
        let arguments = [
            "gateway",
            "--jwt-secret",
            "hush",
            "--nats-url",
            "nats://user:hush@127.0.0.1",
            "--backend-keys",
            "shop:hush",
        ];
        let shown = format!("{:?}", Config::parse_from(arguments));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
