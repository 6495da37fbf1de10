//! Black-box tests of the whole stack: the real services as processes, over real sockets, NATS and Postgres.
//!
//! Each test starts its own [`Stack`] and uses it as clients and backends do: [`Stack::socket`], [`Stack::http`], NATS.
//! Every wait has a timeout, and its failure message names the expected event.

pub mod chaos;
pub mod documented;
mod http;
pub mod node;
mod options;
mod proxy;
mod socket;
mod stack;

pub use http::Answer;
pub use options::{Kind, OnLine, Options};
pub use proxy::{Flow, Proxy};
pub use socket::Socket;
pub use stack::{BACKEND_KEY, Links, SECRET, Stack, binary, token, token_with};
pub use testkit::wait::{TIMEOUT, eventually, within};
