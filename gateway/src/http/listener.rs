//! Accepts and serves connections, with time limits for requests.

use crate::{admission::rate_limits::Limits, http::guarded::Guarded};
use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// How long a stop waits for calls in progress.
const CALLS: Duration = Duration::from_secs(6);
/// Delay after a failed accept, for example because of too many open files.
const RETRY: Duration = Duration::from_millis(100);

/// Number of file descriptors reserved for the gateway's own connections and for refusals; at most a quarter of the
/// limit.
const RESERVE: u64 = 64;
/// Number of refused connections that are open at once, each until the client has read the response.
const REFUSALS: usize = 16;
/// How long a refused client may take to read the response.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of unsent bytes up to which the kernel accepts more.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// The address of a connection's peer.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves connections until the token is cancelled, and then finishes calls in progress.
pub async fn run(listener: TcpListener, router: Router, limits: Arc<Limits>, shutdown: &CancellationToken) {
    let connections = TaskTracker::new();
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let files = service::files::limit();
    let most = files - RESERVE.min(files / 4);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            // The kernel assigns the lowest free descriptor, so all lower ones are open.
            Ok((stream, _)) if u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= most) => {
                refuse(stream, &connections, &refusals);
            }
            Ok((stream, peer)) => {
                connections.spawn(serve(
                    stream,
                    Peer(peer),
                    router.clone(),
                    limits.clone(),
                    shutdown.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(CALLS, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "calls were not finished in time");
    }
}

/// Refuses a connection, because too few file descriptors are left.
fn refuse(mut stream: TcpStream, connections: &TaskTracker, refusals: &Arc<Semaphore>) {
    metrics::counter!("gateway_connections_refused_total").increment(1);
    let Ok(permit) = refusals.clone().try_acquire_owned() else { return };
    connections.spawn(async move {
        let _permit = permit;
        let body = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"code":"unavailable","detail":"too many connections"}"#;
        // A random wait, so that the refused clients do not all retry at once.
        let (wait, bytes) = (fastrand::u64(1..=5), body.len());
        let response = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {bytes}\r\n\
             retry-after: {wait}\r\nconnection: close\r\n\r\n{body}"
        );
        let refused = async {
            stream.write_all(response.as_bytes()).await?;
            stream.shutdown().await?;
            // If the connection were closed before the request is read, it would be reset, and the response lost.
            while stream.read(&mut [0; 1024]).await? > 0 {}
            io::Result::Ok(())
        };
        if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, refused).await {
            tracing::debug!(%error, "refuse a connection");
        }
    });
}

async fn serve(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
) {
    if let Err(error) = set_options(&stream, limits.idle) {
        tracing::debug!(%error, "set a connection's options");
    }
    // Not a layer, because a layer would wrap every route again for each connection.
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(Guarded::new(stream)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        if error.is_parse_too_large() {
            refused("head_bytes");
        } else if error.is_timeout() {
            refused("head_time");
        }
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Limits the bytes that a connection may hold in the kernel, so that unsent frames wait in the outbox, which is
/// bounded and measured. Also limits how long bytes may stay unacknowledged or unsent before the connection counts as
/// dead.
fn set_options(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_tcp_user_timeout(Some(idle))?;
    }
    Ok(())
}

/// Counts a request that was refused because it exceeded a limit.
pub fn refused(limit: &'static str) {
    metrics::counter!("gateway_requests_refused_total", "limit" => limit).increment(1);
}
