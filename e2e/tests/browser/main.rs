//! Tests of the pages in real browsers: Chromium, and Firefox for what pages rely on.
//!
//! Without its browser, a test here passes at once and reports that it was skipped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api_docs;
mod browser;
mod client;
mod demo;
mod django_shop;
mod engine;
mod guide;
mod react_inbox;
