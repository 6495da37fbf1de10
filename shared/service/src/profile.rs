//! CPU profiles of the running process, in the format of pprof.
//!
//! No heap profiles: they would need another allocator, whose memory and speed differ from those of a normal build.

use axum::{
    extract::Query,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use pprof::{ProfilerGuard, ProfilerGuardBuilder, protos::Message};
use std::time::Duration;

/// Samples per second of CPU time. Not a round number, so that it does not coincide with periodic work.
const FREQUENCY: i32 = 99;
/// Libraries in which unwinding may deadlock.
const NOT_UNWOUND: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Parameters of a profile.
#[derive(serde::Deserialize)]
pub(crate) struct Parameters {
    #[serde(default = "ten")]
    seconds: u64,
}

const fn ten() -> u64 {
    10
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("seconds must be between 1 and 60")]
    Seconds,
    #[error("another profile is being taken")]
    Running,
    #[error("take a profile")]
    Failed(#[source] anyhow::Error),
}

impl From<pprof::Error> for ProfileError {
    fn from(error: pprof::Error) -> Self {
        match error {
            pprof::Error::Running => Self::Running,
            error => Self::Failed(error.into()),
        }
    }
}

impl IntoResponse for ProfileError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Seconds => StatusCode::BAD_REQUEST,
            Self::Running => StatusCode::CONFLICT,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{}\n", crate::bus::chain(&self))).into_response()
    }
}

/// Profiles the process for some seconds. Only one profile is taken at a time; it ends early if the client leaves.
pub(crate) async fn profile(
    Query(Parameters { seconds }): Query<Parameters>,
) -> Result<Response, ProfileError> {
    if !(1..=60).contains(&seconds) {
        return Err(ProfileError::Seconds);
    }
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&NOT_UNWOUND).build()?;
    tracing::info!(seconds, "taking a profile");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    // Finding the names of the functions takes long.
    let encoded = tokio::task::spawn_blocking(move || encode(&guard)).await;
    let encoded = encoded.map_err(|error| ProfileError::Failed(error.into()))??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], encoded).into_response())
}

fn encode(guard: &ProfilerGuard<'_>) -> Result<Vec<u8>, ProfileError> {
    let profile = guard.report().build()?.pprof()?;
    profile.write_to_bytes().map_err(|error| ProfileError::Failed(error.into()))
}
