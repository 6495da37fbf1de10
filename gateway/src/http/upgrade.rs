//! The WebSocket handshake: from a request of HTTP to a session.

use crate::{
    admission::{
        tokens::{self, Identity, Rejected},
        user_sockets::{Denied, SocketSlot},
    },
    http::{guarded::Guarded, listener::Peer, problem::Problem},
    session::{Opening, Session, count_close, dialect::Dialect},
    state::Shared,
    topic::Start,
    websocket::{Socket, outbox::Outbox},
};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use contract::Close;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The meaning of a socket's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A socket.
    Socket(Dialect),
    /// An id that no conversation can have: refused like any conversation of other users.
    Nothing,
}

/// A handshake that was refused.
enum Refused {
    /// With an HTTP status, for clients that are to try again.
    Http(Problem),
    /// With a close code on an accepted socket, because a browser cannot read an HTTP status.
    Socket(Close),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Http(problem)
    }
}

impl From<Close> for Refused {
    fn from(close: Close) -> Self {
        Self::Socket(close)
    }
}

/// The meaning of a path, if it is a socket's.
pub fn target(path: &str) -> Option<Target> {
    let path = path.strip_prefix("/ws")?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let conversation = |id: &str, dialect: fn(contract::ConversationId) -> Dialect| {
        let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| id.parse().map_or(Target::Nothing, |id| Target::Socket(dialect(id))))
    };
    match path {
        "" => Some(Target::Socket(Dialect::Multiplexed)),
        "/notifications" => Some(Target::Socket(Dialect::Notifications)),
        _ => match path.strip_prefix('/')?.split_once('/')? {
            ("chat", id) => conversation(id, Dialect::Chat),
            ("typing", id) => conversation(id, Dialect::Typing),
            ("presence", id) => conversation(id, Dialect::Presence),
            _ => None,
        },
    }
}

/// The position at which a socket starts, from `after` and `changes` in its query.
///
/// # Errors
/// The close code, because a browser cannot read an HTTP status.
pub fn start(query: Option<&str>, target: Target) -> Result<Start, Close> {
    let Some(after) = query.and_then(|query| tokens::parameter(query, "after")) else {
        return Ok(Start::Live);
    };
    if after == "latest" && target == Target::Socket(Dialect::Notifications) {
        return Ok(Start::Latest);
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let changes = match query.and_then(|query| tokens::parameter(query, "changes")) {
        None => None,
        Some(changes) => Some(number(&changes).ok_or(Close::BadAddress)?),
    };
    number(&after).map(|after| Start::After(after, changes)).ok_or(Close::BadAddress)
}

/// Accepts a WebSocket. The session has subscribed before the client's socket opens, so the client misses nothing after
/// that.
pub async fn handshake(shared: Arc<Shared>, target: Target, mut request: Request) -> Response {
    let Some(key) = upgrade_key(&request) else { return no_upgrade() };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else { return no_upgrade() };
    let offers_bearer = tokens::offers_bearer(request.headers());
    let (parts, _) = request.into_parts();
    let opening = match open(&shared, target, &parts).await {
        Ok(opening) => Ok(opening),
        Err(Refused::Socket(close)) => Err(close),
        Err(Refused::Http(problem)) => return problem.into_response(),
    };
    count_handshake(&opening);
    start_session(&shared, upgrade, opening);
    switching_protocols(key, offers_bearer)
}

/// Admits a client: checks its address, its token, its number of sockets and its right to subscribe, in this order.
async fn open(shared: &Arc<Shared>, target: Target, parts: &Parts) -> Result<Opening, Refused> {
    let query = parts.uri.query();
    let token = shared.verifier.token_of(&parts.headers, query);
    let _permit = admit(shared, client_of(shared, parts), token.as_deref()).await?;
    let mut identity = identify(shared, token)?;
    let start = start(query, target)?;
    let Target::Socket(dialect) = target else { return Err(Close::Forbidden.into()) };
    let slot = take_slot(shared, &identity)?;
    let lang = identity.lang.take();
    let report = shared.languages.report(identity.user_id, lang, Some(&parts.headers));
    let opening = Opening::new(shared.clone(), identity, slot, dialect, start);
    let opening = match dialect {
        // Every notification from now on is in the user's language.
        Dialect::Notifications => tokio::join!(opening, report.done()).0,
        _ => opening.await,
    };
    Ok(opening?)
}

/// Waits for a handshake's turn, unless its address has had too many.
async fn admit(
    shared: &Shared,
    client: Option<IpAddr>,
    token: Option<&str>,
) -> Result<OwnedSemaphorePermit, Problem> {
    if let Some(client) = client
        && let Err(wait) = shared.limits.handshakes.take(&client)
    {
        count_refusal("address");
        let problem = busy(StatusCode::TOO_MANY_REQUESTS, "too many handshakes from this address");
        return Err(problem.retry_after(wait));
    }
    // Before the permit is taken: a handshake that waits for a key delays no other.
    if let Some(token) = token {
        shared.verifier.fetch_key(token).await;
    }
    shared.limits.handshake_permit().await.ok_or_else(|| {
        count_refusal("overload");
        // At a random time, so that the refused clients do not all come back at once.
        let wait = Duration::from_secs(fastrand::u64(1..=5));
        busy(StatusCode::SERVICE_UNAVAILABLE, "too many handshakes at once").retry_after(wait)
    })
}

/// The client's address for the limits.
fn client_of(shared: &Shared, parts: &Parts) -> Option<IpAddr> {
    let Peer(peer) = parts.extensions.get::<Peer>()?;
    Some(shared.limits.client_of(peer.ip(), &parts.headers))
}

fn identify(shared: &Shared, token: Option<String>) -> Result<Identity, Close> {
    let token = token.ok_or(Rejected::Missing);
    token.and_then(|token| shared.identify(&token)).map_err(|rejected| {
        tracing::debug!(reason = %rejected, "refused a token");
        Close::Unauthorized
    })
}

fn take_slot(shared: &Shared, identity: &Identity) -> Result<SocketSlot, Refused> {
    let outbox = Arc::new(Outbox::new(shared.outbox_frames, shared.outbox_bytes));
    shared.users.add(identity, outbox).map_err(|denied| match denied {
        Denied::Revoked => Close::Unauthorized.into(),
        Denied::Full => {
            count_refusal("user");
            busy(StatusCode::TOO_MANY_REQUESTS, "too many sockets of this user").into()
        }
    })
}

/// Starts the session once the client's connection has switched protocols. A refused socket is closed with its code.
fn start_session(shared: &Shared, upgrade: OnUpgrade, opening: Result<Opening, Close>) {
    let (sessions, frame_bytes) = (shared.sessions.clone(), shared.limits.frame_bytes);
    shared.sessions.spawn(async move {
        let Some(socket) = take_socket(upgrade, frame_bytes).await else { return };
        match opening {
            // In a task of its own: an idle socket's cost is mostly its future, and this future is larger.
            Ok(opening) => drop(sessions.spawn(Session::new(opening, socket).run())),
            Err(close) => {
                socket.close(close).await;
                count_close(close);
            }
        }
    });
}

/// Takes the connection from hyper.
async fn take_socket(upgrade: OnUpgrade, frame_bytes: usize) -> Option<Socket> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a client did not finish its handshake");
            return None;
        }
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<Guarded>>() else {
        tracing::error!("a connection does not have the type that the listener creates");
        return None;
    };
    Some(Socket::new(parts.io.into_inner().into_inner(), parts.read_buf, frame_bytes))
}

fn count_handshake(opening: &Result<Opening, Close>) {
    match opening {
        Ok(opening) => {
            metrics::counter!("gateway_handshakes_total", "kind" => opening.dialect.kind()).increment(1);
        }
        Err(Close::Unauthorized) => count_refusal("token"),
        Err(Close::Forbidden) => count_refusal("forbidden"),
        Err(Close::BadAddress) => count_refusal("bad_address"),
        Err(_) => count_refusal("unavailable"),
    }
}

/// Counts a refused handshake.
pub fn count_refusal(reason: &'static str) {
    metrics::counter!("gateway_handshakes_refused_total", "reason" => reason).increment(1);
}

fn busy(status: StatusCode, detail: &str) -> Problem {
    Problem::new(status, "rate_limited", detail).retry_after(Duration::from_secs(1))
}

fn switching_protocols(key: HeaderValue, offers_bearer: bool) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if offers_bearer {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer"));
    }
    response
}

fn no_upgrade() -> Response {
    let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this path is a WebSocket");
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// The `Sec-WebSocket-Accept` of a request, if it is a WebSocket handshake.
pub fn upgrade_key(request: &Request) -> Option<HeaderValue> {
    let headers = request.headers();
    let websocket = has_token(headers, &header::UPGRADE, "websocket");
    let upgrade = has_token(headers, &header::CONNECTION, "upgrade");
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if request.method() != Method::GET || !websocket || !upgrade || !version {
        return None;
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_contracts_paths_are_sockets_and_no_others() {
        let conversation = |id: i64| contract::ConversationId::new(id).unwrap();
        for (path, expected) in [
            ("/ws/chat/123/", Some(Target::Socket(Dialect::Chat(conversation(123))))),
            ("/ws/chat/123", Some(Target::Socket(Dialect::Chat(conversation(123))))),
            ("/ws/typing/5/", Some(Target::Socket(Dialect::Typing(conversation(5))))),
            ("/ws/presence/5/", Some(Target::Socket(Dialect::Presence(conversation(5))))),
            ("/ws/notifications", Some(Target::Socket(Dialect::Notifications))),
            ("/ws/", Some(Target::Socket(Dialect::Multiplexed))),
            ("/ws", Some(Target::Socket(Dialect::Multiplexed))),
            ("/ws/chat/0/", Some(Target::Nothing)),
            ("/ws/chat/99999999999999999999/", Some(Target::Nothing)),
            ("/ws/chat//", None),
            ("/ws/chat/12a/", None),
            ("/ws/chat/1/2/", None),
            ("/ws//", None),
            ("/wschat/1/", None),
            ("/", None),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path: String) {
            let _ = target(&path);
            let _ = target(&format!("/ws/chat/{path}"));
        }
    }
}
