//! HTTP: the paths, the handshake of a socket, origins.

pub mod api;
mod demo;
mod extract;
mod guarded;
pub mod listener;
pub mod openapi;
pub mod problem;
pub mod responses;

use crate::{
    admission::{
        tokens::{self, Identity, Rejected},
        user_sockets::{Denied, SocketSlot},
    },
    http::{guarded::Guarded, listener::Peer, problem::Problem},
    session::{
        Session,
        handshake::{Dialect, Opening},
    },
    state::Shared,
    topic::Start,
    websocket::{Socket, outbox::Outbox},
};
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use contract::Close;
use futures_util::StreamExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Everything that the gateway serves.
pub fn router(shared: Arc<Shared>) -> Router {
    let read_body = middleware::from_fn_with_state(shared.clone(), read_body);
    let bound = middleware::from_fn(responses::bound);
    let mut router = api::router().layer(DefaultBodyLimit::disable()).layer(read_body).layer(bound);
    if shared.demo {
        router = router.merge(demo::router());
    }
    router
        .fallback(fallback)
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path takes other methods",
            )
        })
        .layer(middleware::from_fn_with_state(shared.clone(), check_origin))
        .with_state(shared)
}

/// Sockets have paths of their own form; everything else is unknown.
async fn fallback(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match target(request.uri().path()) {
        Some(target) => handshake(shared, target, request).await,
        None => Problem::no_path().into_response(),
    }
}

/// What a socket's path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A socket.
    Socket(Dialect),
    /// An id that no conversation can have: answered like any other that isn't the user's.
    Nothing,
}

/// What a path means, if it is a socket's.
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
        _ => match path.strip_prefix("/chat/") {
            Some(id) => conversation(id, Dialect::Chat),
            None => conversation(path.strip_prefix("/typing/")?, Dialect::Typing),
        },
    }
}

/// Where a socket starts, by its `after`.
///
/// # Errors
/// The code that the socket is closed with, as a browser couldn't read an HTTP status.
pub fn start(query: Option<&str>, target: Target) -> Result<Start, Close> {
    let Some(after) = query.and_then(|query| tokens::parameter(query, "after")) else {
        return Ok(Start::Live);
    };
    if after == "latest" && target == Target::Socket(Dialect::Notifications) {
        return Ok(Start::Latest);
    }
    let digits = !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit());
    let after = digits.then(|| after.parse().ok()).flatten();
    after.map(Start::After).ok_or(Close::BadAddress)
}

/// Accepts a WebSocket. What a browser can't read as an HTTP status is an accepted socket that is closed at once.
///
/// Whoever is told that its socket is open misses nothing from then on: it is on its channel before it is told.
async fn handshake(shared: Arc<Shared>, target: Target, mut request: Request) -> Response {
    let Some(key) = upgrade_key(&request) else { return no_upgrade() };
    let query = request.uri().query();
    let start = start(query, target);
    let token = shared.verifier.token_of(request.headers(), query);
    let offers_bearer = tokens::offers_bearer(request.headers());
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else { return no_upgrade() };
    let client = client_of(&shared, &request);
    let permit = match admit(&shared, client, token.as_deref()).await {
        Ok(permit) => permit,
        Err(problem) => return problem.into_response(),
    };
    let identified = identify(&shared, token);
    let opening = match identified.and_then(|identity| Ok((identity, start?))) {
        Ok((mut identity, start)) => match target {
            Target::Socket(dialect) => match present(&shared, &identity) {
                Ok(presence) => {
                    let lang = identity.lang.take();
                    let telling = shared.languages.saw(identity.user_id, lang, Some(request.headers()));
                    let opening = Opening::new(shared.clone(), identity, presence, dialect, start);
                    match dialect {
                        // What its user is notified of from then on is in its language.
                        Dialect::Notifications => tokio::join!(opening, telling.settled()).0,
                        _ => opening.await,
                    }
                }
                Err(Denied::Revoked) => Err(Close::Unauthorized),
                Err(Denied::Full) => {
                    refused("user");
                    return busy(StatusCode::TOO_MANY_REQUESTS, "too many sockets of this user")
                        .into_response();
                }
            },
            Target::Nothing => Err(Close::Forbidden),
        },
        Err(close) => Err(close),
    };
    drop(permit);
    let frame_bytes = shared.limits.frame_bytes;
    match (&opening, target) {
        (Ok(_), Target::Socket(dialect)) => {
            metrics::counter!("gateway_handshakes_total", "kind" => dialect.kind()).increment(1);
        }
        (Err(Close::Unauthorized), _) => refused("token"),
        (Err(Close::Forbidden), _) => refused("forbidden"),
        (Err(Close::BadAddress), _) => refused("bad_address"),
        _ => refused("unavailable"),
    }
    let sessions = shared.sessions.clone();
    shared.sessions.spawn(async move {
        let Some(socket) = take_socket(upgrade, frame_bytes).await else { return };
        match opening {
            // A task of its own: what an idle socket costs is mostly its future, and this one holds more.
            Ok(opening) => drop(sessions.spawn(Session::new(opening, socket).run())),
            Err(close) => {
                socket.goodbye(close).await;
                crate::session::count(close);
            }
        }
    });
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

/// Whose connection it is, as far as the limits are concerned.
fn client_of(shared: &Shared, request: &Request) -> Option<IpAddr> {
    let Peer(peer) = request.extensions().get::<Peer>()?;
    Some(shared.limits.client_of(peer.ip(), request.headers()))
}

/// Waits for a handshake's turn, if its address has not had too many.
async fn admit(
    shared: &Shared,
    client: Option<IpAddr>,
    token: Option<&str>,
) -> Result<OwnedSemaphorePermit, Problem> {
    if let Some(client) = client
        && let Err(wait) = shared.limits.handshakes.take(&client)
    {
        refused("address");
        let problem = busy(StatusCode::TOO_MANY_REQUESTS, "too many handshakes from this address");
        return Err(problem.retry_after(wait));
    }
    // Whoever waits for a key holds nobody else's turn.
    if let Some(token) = token {
        shared.verifier.learn(token).await;
    }
    shared.limits.turn().await.ok_or_else(|| {
        refused("overload");
        // Spread out, so that they don't all come back at once.
        let wait = Duration::from_secs(fastrand::u64(1..=5));
        busy(StatusCode::SERVICE_UNAVAILABLE, "too many handshakes at once").retry_after(wait)
    })
}

fn refused(reason: &'static str) {
    metrics::counter!("gateway_handshakes_refused_total", "reason" => reason).increment(1);
}

fn busy(status: StatusCode, detail: &str) -> Problem {
    Problem::new(status, "rate_limited", detail).retry_after(Duration::from_secs(1))
}

fn present(shared: &Shared, identity: &Identity) -> Result<SocketSlot, Denied> {
    let outbox = Arc::new(Outbox::new(shared.outbox_frames, shared.outbox_bytes));
    shared.users.enter(identity, outbox)
}

fn identify(shared: &Shared, token: Option<String>) -> Result<Identity, Close> {
    let token = token.ok_or(Rejected::Missing);
    token.and_then(|token| shared.identify(&token)).map_err(|rejected| {
        tracing::debug!(reason = %rejected, "a token was refused");
        Close::Unauthorized
    })
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

/// The answer to a handshake's key, if the request is a handshake.
fn upgrade_key(request: &Request) -> Option<HeaderValue> {
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

/// Takes the connection back from HTTP; hyper keeps nothing of it.
async fn take_socket(upgrade: OnUpgrade, frame_bytes: usize) -> Option<Socket> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a handshake was not finished");
            return None;
        }
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<Guarded>>() else {
        tracing::error!("a connection is not the kind that the server accepts");
        return None;
    };
    Some(Socket::new(parts.io.into_inner().into_inner(), parts.read_buf, frame_bytes))
}

/// Reads a call's body before anyone handles it: only so much, and only for so long.
async fn read_body(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let limits = &shared.limits;
    let read = async {
        let (mut bytes, mut chunks) = (BytesMut::new(), body.into_data_stream());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::invalid("the body can't be read"))?;
            if bytes.len() + chunk.len() > limits.body_bytes {
                listener::refused("body_bytes");
                let detail = format!("a body has at most {} bytes", limits.body_bytes);
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    match timeout(limits.body_time, read).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => {
            listener::refused("body_time");
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long");
            let mut response = problem.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// Refuses what a page of a foreign origin asks; lets the allowed ones read the answers (CORS).
async fn check_origin(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else { return next.run(request).await };
    if !allowed(&shared.allowed_origins, request.headers(), &origin) {
        if upgrade_key(&request).is_some() {
            refused("origin");
        }
        let detail = "pages of this origin may not connect";
        return Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail).into_response();
    }
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if preflight {
        let methods = HeaderValue::from_static("GET, POST, PUT, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

fn allowed(origins: &[String], headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let own = origin.split_once("://").map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    (own.is_some() && own == host)
        || origins
            .iter()
            .map(|allowed| allowed.trim().trim_end_matches('/'))
            .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
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

    #[test]
    fn an_origin_must_be_named_or_be_our_own() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "shop.example:8000".parse().unwrap());
        let allows = |origins: &[&str], origin: &'static str| {
            let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
            allowed(&origins, &headers, &HeaderValue::from_static(origin))
        };
        assert!(allows(&[], "http://shop.example:8000"));
        assert!(!allows(&[], "http://evil.example"));
        assert!(!allows(&[], "null"));
        assert!(allows(&["https://www.shop.example/"], "https://www.shop.example"));
        assert!(!allows(&["https://www.shop.example"], "https://www.shop.example.evil.example"));
        assert!(allows(&["*"], "http://evil.example"));
    }

    proptest! {
        #[test]
        fn no_path_panics(path: String) {
            let _ = target(&path);
            let _ = target(&format!("/ws/chat/{path}"));
        }
    }
}
