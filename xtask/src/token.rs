//! `cargo xtask token`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;

use crate::local;

/// Default lifetime of a token: a week, in minutes.
pub const A_WEEK: u64 = 7 * 24 * 60;

/// Print a token for the local stack.
///
/// It is signed for the gateway of `cargo xtask up`, and valid in a socket's `?token=` and for the HTTP API.
#[derive(Args)]
pub struct Token {
    /// Id of the user, a positive integer
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    user: i64,
    /// Display name of the user
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Lifetime in minutes; 7 days by default
    #[arg(long, value_name = "N", default_value_t = A_WEEK, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..=10 * 366 * 24 * 60))]
    minutes: u64,
}

impl Token {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        println!("{}", token(&local::jwt_secret()?, self.user, self.username.as_deref(), self.minutes)?);
        Ok(ExitCode::SUCCESS)
    }
}

/// Creates a token as a backend would issue it, with the claims that the gateway is configured to read.
pub fn token(secret: &str, user: i64, username: Option<&str>, minutes: u64) -> anyhow::Result<String> {
    let configured = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    let mut claims = json!({"token_type": "access", "iat": testkit::token::now()});
    claims[configured("USER_ID_CLAIM").as_deref().unwrap_or("user_id")] = user.into();
    if let Some(username) = username {
        claims[configured("USERNAME_CLAIM").as_deref().unwrap_or("username")] = username.into();
    }
    if let Some(issuer) = configured("JWT_ISSUER") {
        claims["iss"] = issuer.into();
    }
    if let Some(audience) = configured("JWT_AUDIENCE") {
        claims["aud"] = audience.into();
    }
    testkit::token::sign(secret, claims, Duration::from_secs(minutes * 60))
}
