//! Options of a stack.

use std::{path::PathBuf, sync::Arc};

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `gateway`.
    Gateway,
    /// `chat-service`.
    Chat,
    /// `notify-service`.
    Notify,
    /// `typing-service`.
    Typing,
}

impl Kind {
    /// All kinds, in the order of [`Options::counts`].
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Chat, Self::Notify, Self::Typing];

    /// Name of the service's program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat-service",
            Self::Notify => "notify-service",
            Self::Typing => "typing-service",
        }
    }

    /// The service's user in `deploy/nats/accounts.conf`.
    pub fn user(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Chat => "chat",
            Self::Notify => "notify",
            Self::Typing => "typing",
        }
    }
}

/// Receives the name of a service (`chat-service-2`) and a line of its output.
pub type OnLine = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Options of a stack.
#[derive(Clone)]
pub struct Options {
    /// Number of replicas of each service, in the order of [`Kind::ALL`].
    pub counts: [usize; 4],
    /// Number of nats-servers. More than one form a cluster.
    pub servers: usize,
    /// Whether NATS has the users of `deploy/nats/accounts.conf`.
    pub accounts: bool,
    /// Additional environment variables of every service.
    pub env: Vec<(&'static str, String)>,
    /// Whether the stack has a Postgres of its own, which a test may kill.
    pub own_postgres: bool,
    /// Whether the services have the roles of `deploy/postgres/init.sql`, which needs `own_postgres`, because roles belong
    /// to a server. By default they are superusers.
    pub roles: bool,
    /// Whether the services connect to Postgres through PgBouncer, which needs `roles`.
    pub pooled: bool,
    /// Whether NATS and the stack's own Postgres wait for the disk, as in production.
    pub durable: bool,
    /// Whether each service connects to NATS and Postgres through proxies of its own.
    pub proxied: bool,
    /// Folder of the services' programs. By default, the folder above the running test.
    pub programs: Option<PathBuf>,
    /// Folder of another release's programs. Every second replica starts with them, and every restart changes the release
    /// of its replica.
    pub other_release: Option<PathBuf>,
    /// Receives the output of the services.
    pub on_line: OnLine,
}

impl Default for Options {
    fn default() -> Self {
        // With this variable, every test runs on a cluster. That is not the default because a cluster starts slowly.
        let (count, servers) = if std::env::var_os("E2E_CLUSTER").is_some() { (2, 3) } else { (1, 1) };
        Self {
            counts: [count; 4],
            servers,
            accounts: true,
            env: Vec::new(),
            own_postgres: false,
            roles: false,
            pooled: false,
            durable: false,
            proxied: false,
            programs: None,
            other_release: None,
            on_line: Arc::new(|_, line| println!("{line}")),
        }
    }
}

impl Options {
    /// One replica of each service and one nats-server, even with `E2E_CLUSTER`: for tests in which a service fails.
    pub fn one_of_each() -> Self {
        Self { counts: [1; 4], servers: 1, ..Self::default() }
    }

    /// A cluster of three nats-servers, and two replicas of each service.
    pub fn cluster() -> Self {
        Self { counts: [2; 4], servers: 3, ..Self::default() }
    }
}
