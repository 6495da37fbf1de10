//! What is under `deploy`, `docker-compose.yml` and the Dockerfiles, as far as it can be checked without a container
//! engine. What a check needs is provided by `cargo xtask test`; a check whose tool can't be had is skipped, loudly.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod context;
mod dashboard;
mod docker;
mod files;
mod tools;
