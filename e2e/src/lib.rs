//! Black-box tests of the whole stack: the real services as processes, over real sockets, NATS and Postgres.
//!
//! A test starts a [`Stack`] of its own, and talks to it as users do: [`Stack::socket`], [`Stack::http`], NATS. What
//! it waits for, it awaits; every wait has an end, and says what it waited for.

pub mod chaos;
pub mod documented;
mod http;
mod proxy;
mod socket;
mod stack;

pub use http::Answer;
pub use proxy::{Flow, Proxy};
pub use socket::Socket;
pub use stack::{Kind, Links, OnLine, Options, SECRET, Stack, token, token_with};
pub use testkit::wait::{TIMEOUT, eventually, within};
