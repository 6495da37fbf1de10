//! Checks of `deploy`, `docker-compose.yml` and the Dockerfiles that need no container engine. `cargo xtask test`
//! installs the tools. A check without its tool is skipped and reports that.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alerts;
mod context;
mod dashboard;
mod docker;
mod files;
mod helm;
mod tools;
mod workflows;
