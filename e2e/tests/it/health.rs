use e2e::{Flow, Kind, Options, Stack, eventually};
use std::time::{Duration, Instant};
use testkit::{NatsServer, Signal};

/// Waits until `/readyz` of a service returns this status.
async fn wait_for_readyz(stack: &Stack, kind: Kind, status: u16) {
    let what = format!("status {status} of {kind:?}");
    eventually(&what, async || (stack.readyz(kind, 0).await == Some(status)).then_some(())).await;
}

#[tokio::test]
async fn services_are_unready_while_nats_stalls() {
    let stack = Stack::start().await;
    // All servers of a cluster: if only one stalls, its clients connect to another one.
    stack.servers().for_each(NatsServer::stop);
    let stalled = Instant::now();
    for kind in Kind::ALL {
        wait_for_readyz(&stack, kind, 503).await;
    }
    assert!(stalled.elapsed() < Duration::from_secs(30), "{:?}", stalled.elapsed());
    stack.servers().for_each(NatsServer::cont);
    stack.ready().await;
}

#[tokio::test]
async fn services_are_unready_while_postgres_stalls() {
    let options = Options { counts: [1, 1, 1, 0], proxied: true, ..Options::default() };
    let stack = Stack::with(options).await;
    let both = [Kind::Chat, Kind::Notify];
    both.iter().for_each(|kind| stack.links_of(*kind, 0).postgres.set(Flow::Stall));
    let stalled = Instant::now();
    for kind in both {
        wait_for_readyz(&stack, kind, 503).await;
    }
    assert!(stalled.elapsed() < Duration::from_secs(30), "{:?}", stalled.elapsed());
    assert_eq!(stack.readyz(Kind::Gateway, 0).await, Some(200), "a gateway does not use Postgres");
    both.iter().for_each(|kind| stack.links_of(*kind, 0).postgres.set(Flow::Pass));
    stack.ready().await;
}

#[tokio::test]
async fn concurrent_readiness_requests_share_one_check() {
    let stack = Stack::with(Options { counts: [1, 0, 0, 0], ..Options::default() }).await;
    stack.nats.stop();
    wait_for_readyz(&stack, Kind::Gateway, 503).await;
    let started = Instant::now();
    let statuses = futures_util::future::join_all((0..100).map(|_| stack.readyz(Kind::Gateway, 0))).await;
    assert!(statuses.iter().all(|status| *status == Some(503)), "{statuses:?}");
    // One check takes at most 4 s.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    stack.nats.cont();
}

/// Status of `/healthz` on the public port; `None` without a connection.
async fn public_health(stack: &Stack) -> Option<u16> {
    let response = stack.http().get(format!("http://{}/healthz", stack.host(0))).send().await;
    response.ok().map(|response| response.status().as_u16())
}

#[tokio::test]
async fn the_public_health_check_passes_during_an_outage_of_nats_and_fails_during_a_stop() {
    let stack = Stack::start().await;
    let _socket = stack.socket("/ws/notifications/", 1).await;
    assert_eq!(public_health(&stack).await, Some(200));
    stack.servers().for_each(NatsServer::stop);
    wait_for_readyz(&stack, Kind::Gateway, 503).await;
    assert_eq!(public_health(&stack).await, Some(200), "all gateways would be removed at once");
    stack.servers().for_each(NatsServer::cont);
    stack.ready().await;
    stack.signal(Kind::Gateway, 0, Signal::Term);
    eventually("the check to fail", async || public_health(&stack).await != Some(200)).await;
}
