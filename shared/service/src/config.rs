//! Configuration from environment variables, each also a flag. It is read once.

use anyhow::Context;
use async_nats::ServerAddr;
use clap::{Arg, Args, Parser, Subcommand, ValueEnum, error::ContextKind, error::ErrorKind};
use std::{env, ffi::OsString, fmt, path::PathBuf, process::ExitCode};

/// Connection to NATS.
#[derive(Clone, Args)]
pub struct Nats {
    /// NATS servers, separated by commas; each may contain user and password
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,
    /// File with NATS credentials (JWT and nkey seed)
    #[arg(long, env = "NATS_CREDS")]
    pub nats_creds: Option<PathBuf>,
}

/// The servers of `NATS_URL`.
pub struct Servers {
    /// Their addresses, without a user: the client logs the addresses.
    pub addresses: Vec<ServerAddr>,
    /// User and password of the first address that has them. They also apply to servers discovered later.
    pub user: Option<(String, String)>,
}

impl Nats {
    /// The servers.
    ///
    /// # Errors
    /// If one of them is not an address.
    pub fn servers(&self) -> anyhow::Result<Servers> {
        const INVALID: &str = "NATS_URL is not a list of NATS URLs";
        let addresses = self.nats_url.split(',').map(|url| url.trim().parse());
        let addresses = addresses.collect::<Result<Vec<ServerAddr>, _>>().context(INVALID)?;
        let user_of =
            |server: &ServerAddr| Some((server.username()?.to_owned(), server.password()?.to_owned()));
        let user = addresses.iter().find_map(user_of);
        let addresses = addresses.into_iter().map(without_user).collect::<Option<_>>().context(INVALID)?;
        Ok(Servers { addresses, user })
    }
}

fn without_user(server: ServerAddr) -> Option<ServerAddr> {
    let mut url = server.into_inner();
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    ServerAddr::from_url(url).ok()
}

impl fmt::Debug for Nats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Nats").finish_non_exhaustive()
    }
}

/// An optional event for backends, on the stream EVENTS_OUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptionalEvent {
    /// `chat.changed`, by chat-service: a message was edited or deleted.
    Changed,
    /// `chat.sent`, by notify-service: a message was sent.
    Sent,
    /// `chat.read`, by notify-service: a user has read up to a message.
    Read,
    /// `chat.opened`, by chat-service and notify-service: a conversation was created.
    Opened,
    /// `presence.changed`, by notify-service: a user came or left.
    Presence,
}

/// Whether a part is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is on.
    On,
    /// It is off.
    Off,
}

/// Connection to Postgres.
#[derive(Clone, Args)]
pub struct Database {
    /// Postgres URL, such as postgres://user:password@host/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Postgres URL for migrations if DATABASE_URL leads to a pooler in transaction mode, such as PgBouncer: it must
    /// lead to Postgres itself. With this variable, statements are not cached
    #[arg(long, env = "DATABASE_DIRECT_URL", hide_env_values = true)]
    pub database_direct_url: Option<String>,
    /// Maximum number of connections to Postgres; chat-service adds one for joins, notify-service two for its writes
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value = "10", value_parser = clap::value_parser!(u32).range(2..=500))]
    pub database_connections: u32,
}

impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Database").field("connections", &self.database_connections).finish_non_exhaustive()
    }
}

/// Commands of a service with a database. Without a command, it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Migrate the schema, then exit
    Migrate,
}

/// Logs and traces.
#[derive(Debug, Clone, Args)]
pub struct Telemetry {
    /// Log format: text for people, json for machines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Log filter: a level, or a list of target=level
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub rust_log: String,
    /// OpenTelemetry collector for traces, such as http://host:4318; no traces if unset. The other standard variables
    /// apply, such as OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The reason why the program exits instead of running.
pub enum Exit {
    /// Text of `--help` or `--version`.
    Info(clap::Error),
    /// Configuration error: one line that names the variable but never its value.
    Invalid(String),
}

impl Exit {
    /// Prints the text and returns the exit code.
    pub fn print(self) -> ExitCode {
        match self {
            Self::Info(text) => match text.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            },
            Self::Invalid(line) => {
                eprintln!("{line}");
                ExitCode::from(2)
            }
        }
    }
}

/// Maximum length of a name that an operator chooses, in characters.
const NAME_MAX: usize = 32;

/// Checks a name that an operator chooses, of a backend or a webhook. It becomes a part of subjects and a label of
/// metrics.
///
/// # Errors
/// If it can't be used.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    anyhow::ensure!(
        (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_valid),
        "the name must be 1 to {NAME_MAX} of a-z, 0-9, _ and -"
    );
    Ok(())
}

/// Reads a configuration from the arguments and the environment. An empty variable, as compose passes it on, is an
/// unset one.
///
/// # Errors
/// If the configuration is invalid, or only a text was requested.
pub fn read<C: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<C, Exit> {
    let command = C::command().mut_args(without_empty_variable);
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| C::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Info(error),
        _ => Exit::Invalid(error_line::<C>(&error)),
    })
}

fn without_empty_variable(argument: Arg) -> Arg {
    let value = argument.get_env().and_then(env::var_os);
    if value.is_some_and(|value| value.is_empty()) { argument.env(None::<&'static str>) } else { argument }
}

fn error_line<C: Parser>(error: &clap::Error) -> String {
    let names = match error.get(ContextKind::InvalidArg) {
        Some(names) => names.to_string().replace('\n', ", "),
        None => return error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let variables: Vec<String> = names.split(", ").map(variable_of::<C>).collect();
    let variables = variables.join(", ");
    let problem = match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::MissingRequiredArgument, _) => "is missing".to_owned(),
        (ErrorKind::ArgumentConflict, _) => "conflicts with another setting".to_owned(),
        (ErrorKind::UnknownArgument, _) => "is not a flag; see --help".to_owned(),
        (_, Some(source)) => format!("is invalid: {source}"),
        (ErrorKind::InvalidValue, _) => match error.get(ContextKind::ValidValue) {
            Some(valid) => format!("must be one of: {valid}"),
            None => "is invalid".to_owned(),
        },
        _ => "is invalid".to_owned(),
    };
    format!("configuration: {variables} {problem}")
}

/// Returns `DATABASE_URL` for `--database-url <DATABASE_URL>`.
fn variable_of<C: Parser>(flag: &str) -> String {
    let long = flag.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
    C::command()
        .get_arguments()
        .find(|argument| argument.get_long() == Some(long))
        .and_then(|argument| argument.get_env())
        .map_or_else(|| flag.to_owned(), |variable| variable.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Config {
        #[command(flatten)]
        _database: Database,
        #[arg(long, env = "A_TEST_COUNT", default_value = "1")]
        _count: u8,
    }

    fn error_of(arguments: &[&str]) -> String {
        let arguments = std::iter::once("test").chain(arguments.iter().copied()).map(OsString::from);
        match read::<Config>(arguments) {
            Err(Exit::Invalid(line)) => line,
            _ => panic!("the configuration was accepted"),
        }
    }

    #[test]
    fn a_name_fits_into_a_subject() {
        for (name, is_valid) in [
            ("shop", true),
            ("shop-2_b", true),
            (&"n".repeat(32), true),
            (&"n".repeat(33), false),
            ("", false),
            ("Shop", false),
            ("a.b", false),
            ("a b", false),
            ("é", false),
        ] {
            assert_eq!(check_name(name).is_ok(), is_valid, "{name}");
        }
    }

    #[test]
    fn an_invalid_setting_is_reported_in_one_line_without_its_value() {
        assert_eq!(error_of(&[]), "configuration: DATABASE_URL is missing");
        let line = error_of(&["--database-url", "postgres://x", "--count", "secret"]);
        assert!(line.starts_with("configuration: A_TEST_COUNT is invalid"), "{line}");
        assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
        assert!(error_of(&["--nonsense"]).starts_with("configuration: --nonsense is not a flag"));
    }
}
