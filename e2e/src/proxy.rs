//! A TCP proxy that can disturb its connections.

use anyhow::Context;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Treatment of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Flow {
    /// Forwards all data.
    #[default]
    Pass,
    /// Holds back data from the client.
    StallUp,
    /// Holds back data from the server.
    StallDown,
    /// Holds back all data; connections stay open.
    Stall,
    /// Refuses new connections.
    Refuse,
}

impl Flow {
    fn holds(self, up: bool) -> bool {
        match self {
            Self::Stall => true,
            Self::StallUp => up,
            Self::StallDown => !up,
            Self::Pass | Self::Refuse => false,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    flow: Flow,
    /// Number of times that all connections were reset.
    resets: u64,
}

/// A proxy on loopback for one server. Dropping it stops it and its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy for the server at `target`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen as a proxy")?;
        let addr = listener.local_addr()?;
        let (state, states) = watch::channel(State::default());
        let accepting = tokio::spawn(accept(listener, target, states));
        Ok(Self { addr, state, accepting })
    }

    /// Address of the proxy.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the treatment of the connections.
    pub fn set(&self, flow: Flow) {
        self.state.send_modify(|state| state.flow = flow);
    }

    /// Resets every connection.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, states: watch::Receiver<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if states.borrow().flow == Flow::Refuse {
            client.set_zero_linger().ok();
        } else {
            tokio::spawn(forward(client, target, states.clone()));
        }
    }
}

/// Forwards one connection until either side closes it, it is reset, or the proxy is dropped.
async fn forward(mut client: TcpStream, target: SocketAddr, mut states: watch::Receiver<State>) {
    let resets = states.borrow().resets;
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (up, down) = (states.clone(), states.clone());
    let reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = copy(from_client, to_server, up, true) => false,
            () = copy(from_server, to_client, down, false) => false,
            _ = states.wait_for(|state| state.resets != resets) => true,
        }
    };
    if reset {
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut states: watch::Receiver<State>, up: bool) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if states.wait_for(|state| !state.flow.holds(up)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_forwards_stalls_resets_and_refuses() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut byte = [0];
        client.write_all(b"1").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();

        proxy.set(Flow::StallUp);
        client.write_all(b"2").await.unwrap();
        served.write_all(b"a").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(100), served.read_exact(&mut byte)).await;
        assert!(held.is_err());
        proxy.set(Flow::Pass);
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"2");

        proxy.set(Flow::Refuse);
        proxy.reset();
        assert!(client.read_exact(&mut byte).await.is_err());
        let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(refused.read_exact(&mut byte).await.is_err());
    }
}
