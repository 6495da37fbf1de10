//! The stack to check, and its clients.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context, anyhow};
use async_nats::{Client, ConnectOptions, Event};
use e2e::{Answer, Socket};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::token;

/// Addresses and secrets of a stack.
pub struct Target {
    gateways: Vec<String>,
    nats: String,
    variables: HashMap<String, String>,
    http: reqwest::Client,
}

impl Target {
    /// Reads the secrets from the environment and the file.
    ///
    /// # Errors
    /// If a secret is missing or the file is invalid.
    pub fn new(gateways: Vec<String>, nats: Option<String>, env_file: &Path) -> anyhow::Result<Self> {
        let mut variables = read(env_file)?;
        variables.extend(std::env::vars().filter(|(_, value)| !value.is_empty()));
        for name in ["JWT_SECRET", "NATS_BILLING_PASSWORD", "NATS_MARKETPLACE_PASSWORD"] {
            variables.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                anyhow!("{name} is neither set nor in {} (deploy/new-env.sh > .env)", env_file.display())
            })?;
        }
        let port = |name: &str, default: &str| {
            let port = variables.get(name).map_or(default, String::as_str);
            format!("127.0.0.1:{port}")
        };
        let nats = nats.unwrap_or_else(|| port("NATS_PORT", "4222"));
        let gateways = if gateways.is_empty() {
            vec![format!("http://{}", port("GATEWAY_PORT", "8000"))]
        } else {
            gateways.iter().map(|gateway| gateway.trim_end_matches('/').to_owned()).collect()
        };
        let http = reqwest::Client::builder().timeout(e2e::TIMEOUT).build().context("an HTTP client")?;
        Ok(Self { gateways, nats, variables, http })
    }

    /// Checks that all gateways and NATS can be reached.
    ///
    /// # Errors
    /// If a gateway or NATS doesn't reply.
    pub async fn is_reachable(&self) -> anyhow::Result<()> {
        for gateway in &self.gateways {
            self.http.get(gateway).send().await.with_context(|| {
                format!("no gateway at {gateway}: start the stack (docker compose up --wait), or set --http")
            })?;
        }
        let nats = self.nats.trim_start_matches("nats://");
        tokio::net::TcpStream::connect(nats)
            .await
            .map(drop)
            .with_context(|| format!("no NATS at {nats}: start the stack, or set --nats HOST:PORT"))
    }

    fn token(&self, user: i64) -> String {
        let name = format!("name-{user}");
        token::token(&self.variables["JWT_SECRET"], user, Some(&name), 10).expect("sign a token")
    }

    /// A socket at gateway number `index`, modulo the number of gateways.
    pub async fn socket(&self, index: usize, path: &str, user: i64) -> Socket {
        let gateway = self.gateways[index % self.gateways.len()].replacen("http", "ws", 1);
        let separator = if path.contains('?') { '&' } else { '?' };
        Socket::open(&format!("{gateway}{path}{separator}token={}", self.token(user))).await
    }

    /// Opens a socket with another token. Returns the status or close code of its refusal.
    pub async fn status_of_socket(&self, path: &str, token: &str) -> Option<u16> {
        let gateway = self.gateways[0].replacen("http", "ws", 1);
        let socket = Socket::try_open(&format!("{gateway}{path}?token={token}"), &[]).await;
        match socket {
            Ok(mut socket) => socket.closed().await,
            Err(status) => Some(status.as_u16()),
        }
    }

    pub async fn call(&self, method: &str, path: &str, user: i64, body: Option<Value>) -> Answer {
        let method = method.parse().expect("a method of HTTP");
        let request = self.http.request(method, format!("{}{path}", self.gateways[0]));
        let request = request.bearer_auth(self.token(user));
        Answer::of(if let Some(body) = body { request.json(&body) } else { request }).await
    }

    pub async fn get(&self, path: &str, user: i64) -> Value {
        self.call("GET", path, user, None).await.expect(200)
    }

    pub async fn conversation(&self, users: &[i64]) -> i64 {
        let body = json!({ "participant_ids": &users[1..] });
        let created = self.call("POST", "/api/conversations", users[0], Some(body)).await.expect(201);
        created["conversation_id"].as_i64().expect("a conversation_id")
    }

    /// A NATS client for a user of `deploy/nats/accounts.conf`, and the errors that the server sends it.
    pub async fn backend(&self, user: &str) -> (Client, mpsc::Receiver<String>) {
        let (errors, received) = mpsc::channel(16);
        let password = self.variables[&format!("NATS_{}_PASSWORD", user.to_uppercase())].clone();
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password)
            .connection_timeout(Duration::from_secs(5))
            .event_callback(move |event| {
                let errors = errors.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        errors.try_send(error.to_string()).ok();
                    }
                }
            });
        let client = options.connect(&self.nats).await;
        (
            client.unwrap_or_else(|error| panic!("connect to NATS at {} as {user}: {error}", self.nats)),
            received,
        )
    }
}

/// Reads the variables of a file in `.env` format; none if there is no file.
fn read(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let variables = dotenvy::from_path_iter(path).and_then(Iterator::collect);
    variables.with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_key_is_read_as_compose_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        std::fs::write(&file, "# a comment\nJWT_SECRET='pa$word of #more'\nGATEWAY_PORT=8000 # a port\n")
            .unwrap();
        let variables = read(&file).unwrap();
        assert_eq!((&*variables["JWT_SECRET"], &*variables["GATEWAY_PORT"]), ("pa$word of #more", "8000"));
        assert!(read(&folder.path().join("missing")).unwrap().is_empty());
    }
}
