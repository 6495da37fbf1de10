//! The configuration of notify-service.

use crate::steps::Steps;
use clap::{ArgAction, Args, Parser, ValueEnum, builder::BoolishValueParser};
use service::config::{Command, Database, Nats, OptionalEvent, Switch, Telemetry};
use std::{fmt, net::SocketAddr, path::PathBuf};

/// The notify service: turns events of backends and chat messages into notifications in users' inboxes.
#[derive(Debug, Clone, Parser)]
#[command(name = "notify-service", version = service::version::text())]
pub struct Config {
    /// Command; without one, the service runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Connection to NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// Connection to Postgres.
    #[command(flatten)]
    pub database: Database,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Address that serves /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9002")]
    pub admin_addr: SocketAddr,
    /// Days for which notifications are kept, whether read or unread
    #[arg(long, env = "NOTIFICATION_RETENTION_DAYS", default_value = "180", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub notification_retention_days: u32,
    /// Folder of notification texts, one file for each language (fr.ftl), that override the built-in texts; reloaded on
    /// SIGHUP
    #[arg(long, env = "CATALOGUE_DIR")]
    pub catalogue_dir: Option<PathBuf>,
    /// Steps of reminders of what users have not read, separated by spaces; off if empty. Each is name:away/present,
    /// the delays for a user who is away and for one who is present, then perhaps :every=time, the minimum time between
    /// two reminders of a user, and :settle, if notify.settled follows: push:20s/3m:settle mail:15m/2h:every=1h
    #[arg(long, env = "REMINDERS", default_value = "", hide_default_value = true)]
    pub reminders: Steps,
    /// Optional events for backends on the stream EVENTS_OUT, separated by commas. This service publishes
    /// opened, sent, read and presence
    #[arg(long = "tell", env = "TELL", value_enum, value_delimiter = ',')]
    pub optional_events: Vec<OptionalEvent>,
    /// Whether the event chat.sent has the text of the message
    #[arg(long, env = "TELL_TEXT", action = ArgAction::Set, value_parser = BoolishValueParser::new(), default_value = "no")]
    pub tell_text: bool,
    /// Whether to know and show which users are present: on or off; the same for all services
    #[arg(long, env = "PRESENCE", value_enum, default_value_t = Switch::On)]
    pub presence: Switch,
    /// Whether the presence of users who have not chosen is shown or hidden
    #[arg(long, env = "PRESENCE_DEFAULT", value_enum, default_value_t = PresenceDefault::Shown)]
    pub presence_default: PresenceDefault,
    /// Webhooks.
    #[command(flatten)]
    pub webhooks: Webhooks,
}

/// The presence of users who have not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresenceDefault {
    /// Shown to users who share a conversation with them.
    Shown,
    /// Hidden.
    Hidden,
}

/// The endpoints that receive events over HTTP.
#[derive(Clone, Default, Args)]
#[group(skip)]
pub struct Webhooks {
    /// TOML file with endpoints of webhooks, at most 20: url, secrets and events of each
    #[arg(long, env = "WEBHOOKS")]
    pub webhooks: Option<PathBuf>,
    /// https URL of one webhook, in place of a file
    #[arg(long, env = "WEBHOOK_URL", hide_env_values = true)]
    pub webhook_url: Option<String>,
    /// Secret of that webhook, whsec_ and base64; during a rotation two, separated by a comma
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: Option<String>,
    /// Events of that webhook, such as chat.sent or chat.*, separated by commas; all if unset
    #[arg(long, env = "WEBHOOK_EVENTS", value_delimiter = ',')]
    pub webhook_events: Vec<String>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Webhooks").field("webhook_events", &self.webhook_events).finish_non_exhaustive()
    }
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}
