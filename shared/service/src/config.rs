//! Configuration: environment variables, each also a flag, read once.

use anyhow::Context;
use async_nats::ServerAddr;
use clap::{Args, Parser, ValueEnum, error::ContextKind, error::ErrorKind};
use std::{ffi::OsString, fmt, path::PathBuf, process::ExitCode};

/// How to reach NATS.
#[derive(Clone, Args)]
pub struct Nats {
    /// NATS servers, separated by commas; user and password may be part of each
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,
    /// File with NATS credentials (JWT and nkey seed)
    #[arg(long, env = "NATS_CREDS")]
    pub nats_creds: Option<PathBuf>,
}

impl Nats {
    /// Its servers.
    ///
    /// # Errors
    /// When one of them is no address.
    pub fn servers(&self) -> anyhow::Result<Vec<ServerAddr>> {
        let addresses = self.nats_url.split(',').map(|url| url.trim().parse());
        addresses.collect::<Result<_, _>>().context("NATS_URL is not a list of NATS addresses")
    }
}

/// The user and the password that one of the addresses names. Servers that are heard of later take the same.
pub fn user_in(servers: &[ServerAddr]) -> Option<(String, String)> {
    servers.iter().find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())))
}

impl fmt::Debug for Nats {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Nats").finish_non_exhaustive()
    }
}

/// How to reach Postgres.
#[derive(Clone, Args)]
pub struct Database {
    /// Postgres, such as postgres://user:password@host/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Connections to Postgres, at most; chat-service has one more, for who comes in, notify-service two, for what it stores
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value = "10", value_parser = clap::value_parser!(u32).range(2..=500))]
    pub database_connections: u32,
}

impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Database").field("connections", &self.database_connections).finish_non_exhaustive()
    }
}

/// What is logged, and how, and where traces go.
#[derive(Debug, Clone, Args)]
pub struct Telemetry {
    /// Logs for people or for machines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or a list of target=level
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub rust_log: String,
    /// Where traces go: an OpenTelemetry collector, as http://host:4318; none unless set. The other standard variables
    /// apply, such as OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no configuration to run with.
pub enum Exit {
    /// `--help` or `--version` was asked for: its text.
    Asked(clap::Error),
    /// Something is wrong: one line that names the variable, never its value.
    Wrong(String),
}

impl Exit {
    /// Prints it, and says with which code to exit.
    pub fn print(self) -> ExitCode {
        match self {
            Self::Asked(text) => match text.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            },
            Self::Wrong(line) => {
                eprintln!("{line}");
                ExitCode::from(2)
            }
        }
    }
}

/// Reads a configuration from these arguments and the environment.
///
/// # Errors
/// When there is none to run with.
pub fn read<C: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<C, Exit> {
    C::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Asked(error),
        _ => Exit::Wrong(one_line::<C>(&error)),
    })
}

fn one_line<C: Parser>(error: &clap::Error) -> String {
    let names = match error.get(ContextKind::InvalidArg) {
        Some(names) => names.to_string().replace('\n', ", "),
        None => return error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let variables: Vec<String> = names.split(", ").map(variable_of::<C>).collect();
    let variables = variables.join(", ");
    let why = match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::MissingRequiredArgument, _) => "is missing".to_owned(),
        (ErrorKind::ArgumentConflict, _) => "excludes another setting that is also there".to_owned(),
        (ErrorKind::UnknownArgument, _) => "is not a flag; --help lists them".to_owned(),
        (_, Some(source)) => format!("is wrong: {source}"),
        (ErrorKind::InvalidValue, _) => match error.get(ContextKind::ValidValue) {
            Some(valid) => format!("must be one of: {valid}"),
            None => "is wrong".to_owned(),
        },
        _ => "is wrong".to_owned(),
    };
    format!("configuration: {variables} {why}")
}

/// `DATABASE_URL` for `--database-url <DATABASE_URL>`.
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

    fn wrong(arguments: &[&str]) -> String {
        let arguments = std::iter::once("test").chain(arguments.iter().copied()).map(OsString::from);
        match read::<Config>(arguments) {
            Err(Exit::Wrong(line)) => line,
            _ => panic!("was taken"),
        }
    }

    #[test]
    fn a_wrong_setting_is_one_line_that_names_it_and_not_its_value() {
        assert_eq!(wrong(&[]), "configuration: DATABASE_URL is missing");
        let line = wrong(&["--database-url", "postgres://x", "--count", "secret"]);
        assert!(line.starts_with("configuration: A_TEST_COUNT is wrong"), "{line}");
        assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
        assert!(wrong(&["--nonsense"]).starts_with("configuration: --nonsense is not a flag"));
    }
}
