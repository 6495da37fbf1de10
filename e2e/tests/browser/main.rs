//! Tests of the pages in a real browser.
//!
//! Without Chromium, every test here passes at once and reports that it was skipped.

mod api_docs;
mod browser;
mod client;
mod demo;
mod guide;
