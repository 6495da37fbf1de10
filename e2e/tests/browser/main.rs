//! The stack, as people see it: in a real browser.
//!
//! Where there is no Chromium, every test here passes at once, and says loudly that it was skipped.

mod api_docs;
mod browser;
mod demo;
mod guide;
