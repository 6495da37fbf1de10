//! Accepting connections, with limits on how slowly a request may come.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{net::SocketAddr, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// How long a stop waits for calls under way.
const CALLS: Duration = Duration::from_secs(6);
/// How long to wait when the operating system has no connection to give (too many open files).
const RETRY: Duration = Duration::from_millis(100);

/// The address of a connection's other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves connections until the token is cancelled, and the calls under way after that.
pub async fn run(listener: TcpListener, router: Router, shutdown: &CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(serve(stream, Peer(peer), router.clone(), shutdown.clone()));
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

async fn serve(stream: TcpStream, peer: Peer, router: Router, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set a connection's options");
    }
    let service = TowerToHyperService::new(router.layer(axum::Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
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
        tracing::debug!(%error, "a connection ended early");
    }
}
